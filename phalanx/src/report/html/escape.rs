//! JSON that can stand in an HTML page: what could end the element is written as `\u…`.

use std::io::{self, Write};

/// Escapes what passes through it. It is given JSON, where these letters stand in strings only.
pub(super) struct Escape<W>(pub(super) W);

/// First bytes of U+2028 and U+2029 in UTF-8: older scripts took them for the end of a line.
const SEPARATOR_HEAD: [u8; 2] = [0xe2, 0x80];

impl<W: Write> Write for Escape<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(place) = rest.iter().position(|byte| is_special(*byte)) {
            self.0.write_all(&rest[..place])?;
            let (escaped, length) = escaped(&rest[place..]);
            match escaped {
                Some(text) => self.0.write_all(text.as_bytes())?,
                None => self.0.write_all(&rest[place..place + length])?,
            }
            rest = &rest[place + length..];
        }
        self.0.write_all(rest)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

const fn is_special(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'&' | 0xe2)
}

/// What is written for the letter at the start, and how many bytes it has; letters come whole.
fn escaped(bytes: &[u8]) -> (Option<&'static str>, usize) {
    match bytes {
        [b'<', ..] => (Some("\\u003c"), 1),
        [b'>', ..] => (Some("\\u003e"), 1),
        [b'&', ..] => (Some("\\u0026"), 1),
        [first, second, 0xa8, ..] if [*first, *second] == SEPARATOR_HEAD => (Some("\\u2028"), 3),
        [first, second, 0xa9, ..] if [*first, *second] == SEPARATOR_HEAD => (Some("\\u2029"), 3),
        _ => (None, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut output = Vec::new();
        Escape(&mut output).write_all(text.as_bytes()).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn what_could_end_the_element_is_escaped() {
        let text = "\"</script><!-- & \u{2028}\u{2029}\u{2027}é€\"";
        let expected = "\"\\u003c/script\\u003e\\u003c!-- \\u0026 \\u2028\\u2029\u{2027}é€\"";
        assert_eq!(written(text), expected);
        let value: String = serde_json::from_str(&written(text)).unwrap();
        assert_eq!(format!("\"{value}\""), text);
    }
}
