//! Masks: ranges of payload bytes that are overwritten in each packet.

use std::ops::Range;

/// What a masked byte of payload becomes.
pub const MASK: u8 = b'*';

/// Reads `START..END`, in bytes of payload.
///
/// # Errors
/// It is none, or empty.
pub(crate) fn parse_mask(text: &str) -> Result<Range<u32>, String> {
    let bad = || format!("{text:?} is no range: write START..END, such as 0..64");
    let (start, end) = text.split_once("..").ok_or_else(bad)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
    let range = number(start)?..number(end)?;
    if range.is_empty() {
        return Err(bad());
    }
    Ok(range)
}

/// Overwrites the ranges of a packet's payload, which begins at `payload` of its bytes.
pub(crate) fn mask(bytes: &mut [u8], payload: usize, masks: &[Range<u32>]) {
    let place = |offset: u32| payload.saturating_add(offset as usize).min(bytes.len());
    let places: Vec<_> = masks
        .iter()
        .map(|it| place(it.start)..place(it.end))
        .collect();
    for range in places {
        bytes[range].fill(MASK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_two_ends() {
        assert_eq!(parse_mask("0..64"), Ok(0..64));
        for bad in [
            "", "5", "..", "5..", "..5", "5..5", "6..5", "-1..5", "0..=5",
        ] {
            assert!(parse_mask(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn masks_lie_within_the_payload() {
        let masked = |payload, masks: &[Range<u32>]| {
            let mut bytes = *b"headpayload";
            mask(&mut bytes, payload, masks);
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        assert_eq!(masked(4, std::slice::from_ref(&(0..3))), "head***load");
        assert_eq!(masked(4, &[1..2, 5..u32::MAX]), "headp*ylo**");
        assert_eq!(masked(20, std::slice::from_ref(&(0..3))), "headpayload");
    }
}
