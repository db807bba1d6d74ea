//! Captures that nobody took, at several hops at once: many conversations, each seen where its path
//! leads, with its addresses as they are there; and, apart from them, which flow is which.
//!
//! A conversation is a plain exchange of messages (no congestion control): the sender repeats what
//! was lost until it arrives. What is deliberately there is what makes flows hard to tell apart or
//! to recognize: see [`Shares`].

use std::io::{self, Write};
use std::net::SocketAddr;

use serde::Serialize;

mod conversation;
mod course;
mod frame;
mod names;
mod script;
mod truth;

pub use truth::{HopTruth, TrueConversation, TrueFlow, TrueLeg};

use crate::limits::{HOPS_MAX, SYNTHESIS_HOP_CONVERSATIONS_MAX};
use crate::random::Random;
use conversation::Conversation;
use course::Sent;

/// Many conversations over several hops.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HopSynthesis {
    /// Conversations altogether.
    pub conversations: u32,
    /// Of all random decisions.
    pub seed: u64,
    /// What lies between neighbouring hops: one hop more than there are legs.
    pub legs: Vec<LegCourse>,
    /// Bytes kept of each packet; 0 for all.
    pub snap_bytes: u32,
    /// In which the conversations begin, in milliseconds.
    pub duration_ms: f64,
    /// Least and most requests of a conversation.
    pub requests: (u32, u32),
    /// Mean pause between a response and the next request, in milliseconds.
    pub pause_ms: f64,
    /// What there is of what.
    pub shares: Shares,
}

/// What a leg does to packets, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct LegCourse {
    /// Least delay towards the server, in milliseconds.
    pub forward_ms: f64,
    /// Least delay towards the client, in milliseconds.
    pub reverse_ms: f64,
    /// Mean of what is added to each packet's delay (exponential), in milliseconds. Packets of one
    /// conversation keep their order.
    pub jitter_ms: f64,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a packet is overtaken by those behind it.
    pub reorder: f64,
    /// Probability that a packet is copied.
    pub duplicate: f64,
}

/// Probabilities of what a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shares {
    /// A question and an answer over UDP, as DNS has them.
    pub lookup: f64,
    /// Datagrams both ways, as QUIC has them.
    pub datagrams: f64,
    /// ICMP echoes.
    pub echo: f64,
    /// Two TCP connections with the same content, one on each side of a relay at the middle hop.
    pub relayed: f64,
    /// TCP that had begun before the captures did, and goes on after them.
    pub midstream: f64,
    /// TCP without timestamps.
    pub no_timestamps: f64,
    /// Without IP identification: always 0.
    pub no_identification: f64,
    /// IPv6.
    pub ipv6: f64,
    /// Behind one address that all these share; the port mostly is another then.
    pub translated: f64,
    /// To an address that is translated before the last hop.
    pub redirected: f64,
    /// TCP whose client's sequence numbers are shifted where the address is translated.
    pub shifted: f64,
    /// TCP whose segment size is clamped at the first leg.
    pub clamped: f64,
    /// What is said is the same in all of these.
    pub equal_payload: f64,
    /// The next one has the same addresses and ports, once this one has ended.
    pub reused: f64,
    /// Seen at one hop only.
    pub lone: f64,
    /// Goes around the second hop.
    pub detour: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            lookup: 0.08,
            datagrams: 0.03,
            echo: 0.01,
            relayed: 0.0,
            midstream: 0.3,
            no_timestamps: 0.3,
            no_identification: 0.1,
            ipv6: 0.1,
            translated: 0.5,
            redirected: 0.2,
            shifted: 0.02,
            clamped: 0.05,
            equal_payload: 0.3,
            reused: 0.05,
            lone: 0.04,
            detour: 0.04,
        }
    }
}

impl Default for HopSynthesis {
    fn default() -> Self {
        Self {
            conversations: 100,
            seed: 1,
            legs: vec![
                LegCourse {
                    forward_ms: 2.0,
                    reverse_ms: 2.0,
                    jitter_ms: 0.2,
                    loss: 0.005,
                    ..LegCourse::default()
                },
                LegCourse {
                    forward_ms: 8.0,
                    reverse_ms: 12.0,
                    jitter_ms: 0.5,
                    loss: 0.005,
                    ..LegCourse::default()
                },
            ],
            snap_bytes: 128,
            duration_ms: 20_000.0,
            requests: (1, 6),
            pause_ms: 50.0,
            shares: Shares::default(),
        }
    }
}

impl HopSynthesis {
    /// Hops, and files.
    pub fn hop_count(&self) -> usize {
        self.legs.len() + 1
    }

    /// Writes a capture of each hop (pcap, nanoseconds, Ethernet), and gives back the truth.
    pub fn write<W: Write>(&self, to: Vec<W>) -> io::Result<HopTruth> {
        self.check(to.len()).map_err(io::Error::other)?;
        let conversations = self.draw();
        let mut sent = Vec::new();
        let mut ended_ns = vec![0; conversations.len()];
        for (at, conversation) in conversations.iter().enumerate() {
            // Who has the addresses of another one begins when that one has ended.
            let free_ns = conversation.after.map_or(0, |other| ended_ns[other]);
            let first = sent.len();
            script::play(self, conversation, free_ns, &mut sent);
            ended_ns[at] = sent[first..].iter().map(Sent::last_ns).max().unwrap_or(0);
        }
        truth::write(self, &conversations, &sent, to)
    }

    /// Who talks, and how.
    fn draw(&self) -> Vec<Conversation> {
        let mut random = Random::new(self.seed, 0);
        let mut names = names::Names::new(self.seed);
        let mut drawn: Vec<Conversation> = Vec::new();
        while drawn.len() < self.conversations as usize {
            let last = drawn
                .last()
                .filter(|last| last.is_reusable(self.hop_count()));
            if let Some(next) = last.and_then(|last| last.reuse(&mut random, &self.shares)) {
                drawn.push(next);
            } else {
                let number = drawn.len();
                let next = Conversation::draw(self, number, &mut random, &mut names);
                let partner = next.relay(self, &mut names);
                drawn.push(next);
                drawn.extend(partner);
            }
        }
        drawn
    }

    fn check(&self, files: usize) -> Result<(), String> {
        if !(2..=HOPS_MAX).contains(&self.hop_count()) || files != self.hop_count() {
            return Err(format!("give 1 to {} legs, a file a hop", HOPS_MAX - 1));
        }
        if !(1..=SYNTHESIS_HOP_CONVERSATIONS_MAX).contains(&self.conversations) {
            return Err(format!(
                "conversations: give 1 to {SYNTHESIS_HOP_CONVERSATIONS_MAX}"
            ));
        }
        let is_lossy = |leg: &LegCourse| [leg.loss, leg.reorder, leg.duplicate];
        let mut rates = self.legs.iter().flat_map(is_lossy);
        if rates.any(|rate| !(0.0..=0.5).contains(&rate)) {
            return Err("loss, reorder and duplicate lie between 0 and 0.5".to_owned());
        }
        if self.requests.0 == 0 || self.requests.0 > self.requests.1 {
            return Err("requests: least and most, from 1 on".to_owned());
        }
        Ok(())
    }
}

/// The transport protocol of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HopProtocol {
    /// A connection.
    Tcp,
    /// Datagrams.
    Udp,
    /// Echoes; the identifier stands for the client's port, 0 for the server's.
    Icmp,
}

/// Client and server, as one hop sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Pair {
    /// Who began.
    pub client: SocketAddr,
    /// Who answered.
    pub server: SocketAddr,
}
