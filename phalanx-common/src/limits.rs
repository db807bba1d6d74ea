//! Every bound that the kernel programs and the parser share, with its arithmetic.

/// IPv6 extension headers that are walked. RFC 8200 section 4.1 recommends at most seven, each
/// once but destination options; four covers all but the contrived, and the verifier's patience.
pub const EXTENSION_COUNT_MAX: usize = 4;

/// TCP options that are walked: 40 bytes of options hold 20 options of two bytes; padding by NOPs
/// beyond that ends the walk.
pub const TCP_OPTION_COUNT_MAX: usize = 20;
