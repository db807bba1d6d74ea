//! `phalanx analyze` of captures from several points of one path, against the truth: namespaces in
//! a row with links of known faults; the links' counters, and the captures compared packet by
//! packet by a reader of its own, say what each leg did. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "network_hops/clock.rs"]
mod clock;
#[path = "hops/clock.rs"]
mod clocks;
#[path = "network/folder.rs"]
mod folder;
#[path = "network_hops/judge.rs"]
mod judge;
#[path = "network_hops/scenario.rs"]
mod scenario;
#[path = "network_hops/stage.rs"]
mod stage;
#[path = "network_hops/talk.rs"]
mod talk;
#[path = "hops/told.rs"]
mod told;
#[path = "network_hops/truth.rs"]
mod truth;
#[path = "network_hops/ways.rs"]
mod ways;
#[path = "network_hops/wire.rs"]
mod wire;
