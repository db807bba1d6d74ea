//! `phalanx packets` and `phalanx analyze` against the truth: conversations between two hosts with
//! a link of known faults, captured at both; the link's journal, the kernels' counters and what the
//! programs themselves slept say what really happened. tshark's figures stand beside. Run by
//! `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "network_analyze/budget.rs"]
mod budget;
#[path = "network/folder.rs"]
mod folder;
#[path = "network_analyze/limit.rs"]
mod limit;
#[path = "network_analyze/packet.rs"]
mod packet;
#[path = "network_analyze/scenario.rs"]
mod scenario;
#[path = "network_analyze/segment.rs"]
mod segment;
#[path = "network_analyze/stage.rs"]
mod stage;
#[path = "network_analyze/talk.rs"]
mod talk;
#[path = "network_analyze/truth.rs"]
mod truth;
#[path = "network_analyze/verdict.rs"]
mod verdict;
