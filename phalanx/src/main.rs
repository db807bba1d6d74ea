//! The Phalanx daemon and its command line.

fn main() {}
