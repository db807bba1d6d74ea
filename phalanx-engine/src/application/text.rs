//! Text that is safe to show, made from bytes that a stranger sent.
//!
//! Only printable ASCII leaves this file: no byte of a flow can steer a terminal or a page.

/// Marks the end of a text that was cut.
const CUT: &str = "...";

/// Room that most names fit into.
const TYPICAL_LENGTH: usize = 32;

/// Collects text up to a length; what comes beyond it is dropped and marked.
pub(super) struct Text {
    text: String,
    length_max: usize,
    /// Where to cut so that the mark fits.
    cut_at: usize,
    is_cut: bool,
}

impl Text {
    pub(super) fn new(length_max: usize) -> Self {
        Self {
            text: String::with_capacity(length_max.min(TYPICAL_LENGTH)),
            length_max,
            cut_at: 0,
            is_cut: false,
        }
    }

    /// Adds one piece, whole or not at all: an escape is never cut in its middle.
    fn push(&mut self, piece: &str) {
        self.is_cut |= self.text.len() + piece.len() > self.length_max;
        if self.is_cut {
            return;
        }
        self.text.push_str(piece);
        if self.text.len() + CUT.len() <= self.length_max {
            self.cut_at = self.text.len();
        }
    }

    /// Adds a character of ASCII as it is.
    pub(super) fn push_plain(&mut self, byte: u8) {
        let mut room = [0; 4];
        self.push(char::from(byte & 0x7f).encode_utf8(&mut room));
    }

    /// Adds a byte, escaped as `\xHH` where it is not printable.
    fn push_byte(&mut self, byte: u8) {
        match byte {
            b'\\' => self.push("\\\\"),
            0x20..=0x7e => self.push_plain(byte),
            _ => self.push(&format!("\\x{byte:02x}")),
        }
    }

    /// Adds a label as a master file writes it (RFC 1035 section 5.1): what is special there after
    /// a backslash, what is not printable as three decimal digits.
    pub(super) fn push_label(&mut self, label: &[u8]) {
        let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(*byte, b'-' | b'_');
        match std::str::from_utf8(label) {
            Ok(usual) if label.iter().all(is_usual) && self.fits(usual) => self.push(usual),
            _ => label.iter().for_each(|byte| self.push_label_byte(*byte)),
        }
    }

    fn fits(&self, piece: &str) -> bool {
        self.text.len() + piece.len() + CUT.len() <= self.length_max
    }

    fn push_label_byte(&mut self, byte: u8) {
        match byte {
            b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
                let pair = [b'\\', byte];
                self.push(std::str::from_utf8(&pair).unwrap_or_default());
            }
            0x21..=0x7e => self.push_plain(byte),
            _ => self.push(&format!("\\{byte:03}")),
        }
    }

    pub(super) fn finish(mut self) -> Box<str> {
        if self.is_cut {
            self.text.truncate(self.cut_at);
            self.text.push_str(CUT);
        }
        self.text.into_boxed_str()
    }
}

/// The text of `bytes`, at most `length_max` bytes long.
pub(super) fn printable(bytes: &[u8], length_max: usize) -> Box<str> {
    let is_usual = |byte: &u8| matches!(*byte, 0x20..=0x7e) && *byte != b'\\';
    if let Ok(usual) = std::str::from_utf8(bytes)
        && bytes.len() <= length_max
        && bytes.iter().all(is_usual)
    {
        return usual.into();
    }
    let mut text = Text::new(length_max);
    // An escape has at least the length of its byte: nothing beyond can fit.
    for byte in bytes.iter().take(length_max + 1) {
        text.push_byte(*byte);
    }
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_printable_ascii_comes_out() {
        let all: Vec<u8> = (0..=255).collect();
        let text = printable(&all, 4_096);
        assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        assert_eq!(&*printable(b"a\x1b[31m\\\xff", 64), "a\\x1b[31m\\\\\\xff");
    }

    #[test]
    fn a_text_is_cut_between_escapes() {
        assert_eq!(&*printable(b"abcdefg", 6), "abc...");
        assert_eq!(&*printable(b"ab\x00cdef", 8), "ab...");
        assert_eq!(&*printable(b"abcdef", 6), "abcdef");
        assert!(printable(&[0; 1000], 50).len() <= 50);
    }
}
