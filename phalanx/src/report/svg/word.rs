//! Words in XML.

use std::fmt::Write as _;

/// Text that may stand in an element or an attribute: what could end these is written as an entity,
/// and what XML 1.0 (section 2.2) has no place for as `�`.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push(char::REPLACEMENT_CHARACTER);
            }
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// A length with one digit behind the point, as short as it can be.
pub(super) fn length(value: f64) -> String {
    let mut text = String::new();
    // A string takes all that is written.
    let _ = write!(text, "{value:.1}");
    match text.strip_suffix(".0") {
        Some("-0") => "0".to_owned(),
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_an_element() {
        let text = escape("</text><script>&\"'\u{1b}\u{0}\u{ffff}é");
        assert_eq!(text, "&lt;/text&gt;&lt;script&gt;&amp;&quot;&#39;���é");
    }

    #[test]
    fn lengths_are_short() {
        let lengths = [0.0, -0.01, 12.0, 12.34, -3.96].map(length);
        assert_eq!(lengths, ["0", "0", "12", "12.3", "-4"]);
    }
}
