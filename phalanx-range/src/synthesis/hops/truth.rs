//! The files, and what is true of them: which flow belongs to which conversation, and what became
//! of its packets on each leg.

use std::io::{self, Write};

use serde::Serialize;

use super::conversation::Conversation;
use super::course::Sent;
use super::{HopProtocol, HopSynthesis, Pair, frame};
use crate::synthesis::file::CaptureFile;
use crate::synthesis::packet::Side;

/// A conversation, and what is special about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrueConversation {
    /// Its number, from 0.
    pub conversation: u32,
    /// Its protocol.
    pub protocol: HopProtocol,
    /// It had begun before the captures did.
    pub is_midstream: bool,
    /// It has timestamps.
    pub has_timestamps: bool,
    /// Its packets have IP identification.
    pub has_identification: bool,
    /// What it says, others say too.
    pub is_equal_payload: bool,
    /// It has the names of another one that has ended.
    pub is_reuse: bool,
    /// Its client's sequence numbers change on the way.
    pub is_shifted: bool,
    /// Of the two on the sides of a relay: the number of the client's one.
    pub relay_of: Option<u32>,
}

/// A flow: what one hop has of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrueFlow {
    /// The number of the conversation.
    pub conversation: u32,
    /// The hop, from 0 at the client.
    pub hop: usize,
    /// The number of its first frame in the file of the hop, from 1.
    pub first_frame: u64,
    /// When that was, in nanoseconds of Unix time.
    pub first_ns: u64,
    /// Its packets.
    pub packets: u64,
    /// Its names there.
    pub pair: Pair,
}

/// What became of the packets of a conversation between two hops, one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TrueLeg {
    /// The number of the conversation.
    pub conversation: u32,
    /// The hop nearer to the client.
    pub from: usize,
    /// The hop nearer to the server.
    pub to: usize,
    /// Whether they went towards the client.
    pub is_reverse: bool,
    /// Packets that entered.
    pub packets: u64,
    /// Those of them that did not come out.
    pub lost: u64,
    /// Those that came out after one that had entered later (RFC 4737).
    pub reordered: u64,
    /// Copies that were made.
    pub duplicated: u64,
}

/// All that is true of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HopTruth {
    /// By number.
    pub conversations: Vec<TrueConversation>,
    /// By hop, then by their first frame.
    pub flows: Vec<TrueFlow>,
    /// By conversation.
    pub legs: Vec<TrueLeg>,
    /// Packets in each file.
    pub packets: Vec<u64>,
}

impl HopTruth {
    /// The flows as a table: hop, first frame, conversation, packets, client, server.
    pub fn write_flows(&self, mut to: impl Write) -> io::Result<()> {
        writeln!(to, "hop,first_frame,conversation,packets,client,server")?;
        for flow in &self.flows {
            let TrueFlow {
                conversation,
                hop,
                first_frame,
                packets,
                pair,
                ..
            } = flow;
            let Pair { client, server } = pair;
            writeln!(
                to,
                "{hop},{first_frame},{conversation},{packets},{client},{server}"
            )?;
        }
        to.flush()
    }

    /// The legs as a table.
    pub fn write_legs(&self, mut to: impl Write) -> io::Result<()> {
        let heading = "conversation,from,to,direction,packets,lost,reordered,duplicated";
        writeln!(to, "{heading}")?;
        for leg in &self.legs {
            let direction = if leg.is_reverse {
                "server_to_client"
            } else {
                "client_to_server"
            };
            writeln!(
                to,
                "{},{},{},{direction},{},{},{},{}",
                leg.conversation,
                leg.from,
                leg.to,
                leg.packets,
                leg.lost,
                leg.reordered,
                leg.duplicated
            )?;
        }
        to.flush()
    }
}

/// Writes what each hop saw, in the order of time.
pub(super) fn write<W: Write>(
    synthesis: &HopSynthesis,
    conversations: &[Conversation],
    sent: &[Sent],
    to: Vec<W>,
) -> io::Result<HopTruth> {
    let mut truth = HopTruth {
        conversations: conversations.iter().map(describe).collect(),
        legs: legs(conversations, sent),
        ..HopTruth::default()
    };
    for (hop, to) in to.into_iter().enumerate() {
        let mut seen: Vec<(u64, usize)> = sent
            .iter()
            .enumerate()
            .filter(|(_, sent)| conversations[sent.conversation as usize].is_seen_at(hop))
            .filter_map(|(at, sent)| Some((sent.seen_ns[hop]?, at)))
            .collect();
        seen.sort_unstable();
        let mut file = CaptureFile::create_with_nanoseconds(to, synthesis.snap_bytes)?;
        let mut flows: Vec<Option<TrueFlow>> = vec![None; conversations.len()];
        let mut bytes = Vec::new();
        for (at_ns, at) in seen {
            let sent = &sent[at];
            let conversation = &conversations[sent.conversation as usize];
            let length = frame::make(&mut bytes, conversation, sent, hop, file.snap_bytes());
            file.record(at_ns, &bytes, length)?;
            let first_frame = file.outcome.packets;
            let flow = flows[sent.conversation as usize].get_or_insert(TrueFlow {
                conversation: sent.conversation,
                hop,
                first_frame,
                first_ns: CaptureFile::<W>::unix_ns(at_ns),
                packets: 0,
                pair: conversation.pairs[hop],
            });
            flow.packets += 1;
        }
        let mut flows: Vec<TrueFlow> = flows.into_iter().flatten().collect();
        flows.sort_by_key(|flow| flow.first_frame);
        truth.flows.extend(flows);
        truth.packets.push(file.finish()?.packets);
    }
    Ok(truth)
}

fn describe(conversation: &Conversation) -> TrueConversation {
    TrueConversation {
        conversation: conversation.number,
        protocol: conversation.manner.protocol(),
        is_midstream: conversation.is_midstream,
        has_timestamps: conversation.has_timestamps,
        has_identification: conversation.has_identification,
        is_equal_payload: conversation.is_equal_payload,
        is_reuse: conversation.after.is_some(),
        is_shifted: conversation.shift != 0,
        relay_of: conversation.relay_of,
    }
}

/// What became of the packets of each conversation, which stand together.
fn legs(conversations: &[Conversation], sent: &[Sent]) -> Vec<TrueLeg> {
    let mut legs = Vec::new();
    for own in sent.chunk_by(|one, other| one.conversation == other.conversation) {
        let conversation = &conversations[own[0].conversation as usize];
        let hops: Vec<usize> = conversation.hops().collect();
        for pair in hops.windows(2) {
            for side in [Side::Client, Side::Server] {
                let (from, to) = (pair[0], pair[1]);
                let (enter, leave) = match side {
                    Side::Client => (from, to),
                    Side::Server => (to, from),
                };
                let own = own.iter().filter(|sent| sent.packet.from == side);
                legs.push(TrueLeg {
                    conversation: conversation.number,
                    from,
                    to,
                    is_reverse: side == Side::Server,
                    ..count(own, enter, leave)
                });
            }
        }
    }
    legs
}

fn count<'a>(own: impl Iterator<Item = &'a Sent>, enter: usize, leave: usize) -> TrueLeg {
    let mut leg = TrueLeg::default();
    let mut passed = Vec::new();
    for sent in own {
        match (sent.seen_ns[enter], sent.seen_ns[leave]) {
            (Some(entered_ns), Some(left_ns)) => {
                leg.packets += 1;
                passed.push((left_ns, entered_ns, sent.packet.looks()));
            }
            (Some(_), None) => {
                leg.packets += 1;
                leg.lost += 1;
            }
            (None, Some(_)) => leg.duplicated += 1,
            (None, None) => {}
        }
    }
    passed.sort_unstable();
    // The latest so far, and the latest of those that look otherwise: nobody can see that a packet
    // was overtaken by its own copy.
    let (mut latest, mut other_ns) = ((0, None), 0);
    for (_, entered_ns, looks) in passed {
        let is_same = latest.1 == Some(looks);
        let before_ns = if is_same { other_ns } else { latest.0 };
        leg.reordered += u64::from(entered_ns < before_ns);
        if is_same {
            latest.0 = latest.0.max(entered_ns);
        } else if entered_ns > latest.0 {
            (other_ns, latest) = (latest.0, (entered_ns, Some(looks)));
        } else {
            other_ns = other_ns.max(entered_ns);
        }
    }
    leg
}
