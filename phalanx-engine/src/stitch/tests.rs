//! See the tests of the modules; and `phalanx/tests/network_hops.rs` for real traffic.
