//! Every bound of the views, with its arithmetic.

/// Entries of flows and of conversations at most, open and closed: the engine's default of
/// 131,072 open ones and as many again where the table is configured larger. What comes beyond is
/// left out and counted. An entry of a flow has some 600 bytes.
pub(super) const ENTRY_COUNT_MAX: usize = 262_144;

/// Translations that are kept of a conversation, the latest of each host that tells of one: 120
/// bytes each. Hosts that have not seen it make room for others; what is left out is counted.
pub(super) const TRANSLATION_COUNT_MAX: usize = 4;

/// Closed flows and conversations that are still shown, the latest: 8,192 entries are 5 MB.
pub(super) const CLOSED_COUNT_MAX: usize = 8_192;
