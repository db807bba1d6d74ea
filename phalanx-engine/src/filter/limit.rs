//! Bounds of the filter language. A parsed filter is at most a few hundred kilobytes.

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4096;
/// Most tokens in one expression; also bounds the number of terms.
pub const TOKEN_COUNT_MAX: usize = 1024;
/// Deepest nesting of parentheses, `not`, `[…]` and unary minus.
pub const DEPTH_MAX: usize = 24;
/// Most 5-tuple filters an expression is narrowed to; beyond it every flow is matched.
pub const FLOW_FILTER_COUNT_MAX: usize = 64;
/// Values alive at once while a relation is computed: a left operand waits for its right one,
/// which is parsed one level deeper; and the left side waits for the right side.
pub(crate) const STACK_DEPTH_MAX: usize = DEPTH_MAX + 2;
/// Most boxes while an expression is narrowed. A 5-tuple filter stands for up to two of them, and
/// some fall together in the end.
pub(crate) const BOX_COUNT_MAX: usize = 3 * FLOW_FILTER_COUNT_MAX;
