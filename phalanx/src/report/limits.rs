//! Every bound of the reports, with its arithmetic.

/// Packets of one conversation that are drawn: 72 bytes each in the page, so 0.7 MB a plot.
pub const PLOT_SEGMENT_COUNT_MAX: usize = 10_000;

/// SACK blocks of one conversation that are drawn: up to four a packet, one on average.
pub const PLOT_SACK_COUNT_MAX: usize = 10_000;

/// Conversations whose packets are kept to be drawn: 2 MB each at most (10,000 segments of 168
/// bytes, 10,000 SACK blocks of 40), so 80 MB.
pub const PLOT_COUNT_MAX: usize = 40;

/// Packets that a page draws in all: 14 MB, which a browser reads in a second.
pub const PAGE_SEGMENT_COUNT_MAX: usize = 200_000;

/// Conversations in the list of a page: 1.5 KB each, so 3 MB; rows beyond would make sorting slow.
pub const PAGE_CONVERSATION_COUNT_MAX: usize = 2_000;

/// Narrowest and widest line of text that is asked for, in characters.
pub const TEXT_WIDTH_MIN: usize = 60;
/// See above.
pub const TEXT_WIDTH_MAX: usize = 400;

/// Longest words of others (names of files, hops, reasons) in text, in characters.
pub const WORDS_LENGTH_MAX: usize = 200;

/// Conversations whose packets are shown one by one outside of a page.
pub const LADDER_COUNT_MAX: usize = 8;

/// Packets of a ladder: some 300 bytes of JSON each.
pub const RUNG_COUNT_MAX: usize = 5_000;

/// Packets in the picture of a ladder: some 900 bytes of SVG each with two hops, so 2 MB, which
/// browsers still move smoothly.
pub const PICTURE_RUNG_COUNT_MAX: usize = 2_000;

/// Crossings in the ladders of a page, in all: some 45 bytes each, so 9 MB.
pub const PAGE_CROSSING_COUNT_MAX: usize = 200_000;
