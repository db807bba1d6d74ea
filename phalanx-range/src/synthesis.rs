//! Captures that nobody took: a pcap file with the traffic of many connections at once, computed
//! from a seed, as large as asked for. For measures of speed; namespaces are where truth is made.
//!
//! Each TCP connection is a small simulation: two hosts, a tap between them, delays on both sides
//! of it, a bottleneck, losses before and after the tap. What passes the tap is the file.

use std::io::{self, Write};

use serde::Serialize;

mod connection;
mod file;
mod frame;
mod hops;
mod mixture;
mod packet;
mod payload;
mod ranges;
mod scan;
mod transfer;

pub use hops::{
    HopProtocol, HopSynthesis, HopTruth, LegCourse, Pair, Shares, TrueConversation, TrueFlow,
    TrueLeg,
};

/// Many connections at once: handshakes, requests and responses with pauses, bulk transfers,
/// losses with their repair, and DNS and other datagrams between them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Synthesis {
    /// TCP connections.
    pub connections: u32,
    /// Packets altogether; the file has about as many, see [`SynthesisOutcome::packets`].
    pub packets: u64,
    /// Of all random decisions.
    pub seed: u64,
    /// Probability that a TCP packet is lost, on one or the other side of the tap.
    pub loss: f64,
    /// Bytes kept of each packet; 0 for all. The file tells the true lengths either way.
    pub snap_bytes: u32,
}

impl Default for Synthesis {
    fn default() -> Self {
        Self {
            connections: 100,
            packets: 10_000,
            seed: 1,
            loss: 0.002,
            snap_bytes: 0,
        }
    }
}

/// A SYN scan: one host knocks at as many doors as asked for; a few are closed, some answer,
/// most say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scan {
    /// Attempts, each with a 5-tuple of its own.
    pub connections: u32,
    /// Of all random decisions.
    pub seed: u64,
    /// Bytes kept of each packet; 0 for all.
    pub snap_bytes: u32,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SynthesisOutcome {
    /// Packets in the file.
    pub packets: u64,
    /// Those of TCP among them.
    pub tcp_packets: u64,
    /// TCP connections and attempts.
    pub connections: u64,
    /// Data segments and SYNs that were sent again and passed the tap.
    pub retransmissions: u64,
    /// TCP packets lost before the tap: the file does not have them.
    pub lost_before: u64,
    /// TCP packets lost after the tap: the file has them.
    pub lost_after: u64,
    /// Bytes of the packets, as they were on the wire.
    pub bytes: u64,
    /// From the first packet to the last, in nanoseconds.
    pub duration_ns: u64,
}

impl Synthesis {
    /// Writes the capture (pcap, microseconds, Ethernet).
    pub fn write(&self, to: impl Write) -> io::Result<SynthesisOutcome> {
        mixture::write(self, to)
    }
}

impl Scan {
    /// Writes the capture (pcap, microseconds, Ethernet).
    pub fn write(&self, to: impl Write) -> io::Result<SynthesisOutcome> {
        scan::write(self, to)
    }
}

#[cfg(test)]
#[path = "synthesis_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "synthesis_hops_tests.rs"]
mod hops_tests;
