//! Words of others on a terminal: names of interfaces and services, answers of an API.

use phalanx_engine::name::is_unprintable;

/// The text in one line, without what would move the cursor or turn the text around.
pub(crate) fn plain(text: &str) -> String {
    let replace = |letter| {
        if is_unprintable(letter) {
            char::REPLACEMENT_CHARACTER
        } else {
            letter
        }
    };
    text.chars().map(replace).collect()
}
