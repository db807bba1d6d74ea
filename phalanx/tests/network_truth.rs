//! What the kernel programs measure against what is known to be true: round-trip times against a
//! reference computed from a simultaneous tcpdump, retransmissions against the sender's kernel,
//! think and idle times against what was slept. Each test prints its table of figures. Run by
//! `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;

use phalanx_range::{Direction, Impairment, Range, Topology};

#[path = "network_truth/capture.rs"]
mod capture;
#[path = "network_truth/compare.rs"]
mod compare;
#[path = "network_truth/connection.rs"]
mod connection;
#[path = "network_truth/reference.rs"]
mod reference;
#[path = "network_truth/retransmission.rs"]
mod retransmission;
#[path = "network_truth/rtt.rs"]
mod rtt;
#[path = "network_truth/turn.rs"]
mod turn;
#[path = "network_truth/watch.rs"]
mod watch;

/// A client on a veth pair, and a server behind an emulated link.
const TOPOLOGY: &str = "
nodes: [{ name: client }, { name: edge, kind: router }, { name: server }]
links:
  - { a: { node: client }, b: { node: edge } }
  - name: wan
    kind: emulated
    a: { node: edge, interface: wan0 }
    b: { node: server, interface: wan1 }
";

/// Holds the machine for one measurement at a time, among threads and processes.
fn alone() -> File {
    let file = File::create(std::env::temp_dir().join("phalanx-range-network.lock")).unwrap();
    file.lock().unwrap();
    file
}

fn build() -> Range {
    Range::build(&Topology::from_yaml_str(TOPOLOGY).unwrap()).unwrap()
}

/// Sets the delay and the loss of both directions, the one towards the server first.
fn impair(range: &Range, delay_ms: f64, loss: [f64; 2]) {
    for (direction, loss) in Direction::BOTH.into_iter().zip(loss) {
        let impairment = Impairment {
            loss,
            ..Impairment::delay(delay_ms)
        };
        range
            .link("wan")
            .unwrap()
            .set(direction, impairment)
            .unwrap();
    }
}
