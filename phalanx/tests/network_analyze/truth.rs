//! What each segment really was: from the order in which the sender's host sent them and the order
//! in which they came to the receiver's host. The link's journal and the kernels' counters say the
//! same, or the truth is none.

use std::collections::{BTreeMap, BTreeSet};

use phalanx_range::JournalLine;

use crate::packet::{self, Packet, RST, Way};
use crate::stage::Evidence;

/// Frames by what they are, at one tap, for the segments of one way.
#[derive(Debug, Default, Clone)]
pub(crate) struct Labels {
    /// All that carry data, SYN or FIN.
    pub(crate) segments: BTreeSet<u64>,
    /// The sender had sent some of these bytes before.
    pub(crate) retransmissions: BTreeSet<u64>,
    /// Later bytes had come already; sent for the first time.
    pub(crate) reordered: BTreeSet<u64>,
    /// The network made this copy.
    pub(crate) duplicates: BTreeSet<u64>,
}

/// The segments of one way, at both ends of it.
pub(crate) struct WayTruth {
    pub(crate) at_sender: Labels,
    pub(crate) at_receiver: Labels,
    /// Frames at the sender's tap that never arrived.
    pub(crate) lost: BTreeSet<u64>,
}

/// Both captures and what they mean.
pub(crate) struct Truth {
    pub(crate) at_client: Vec<Packet>,
    pub(crate) at_server: Vec<Packet>,
    /// Towards the server, and towards the client.
    pub(crate) ways: [WayTruth; 2],
}

impl Truth {
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let at_client = packet::read(&evidence.client_capture);
        let at_server = packet::read(&evidence.server_capture);
        let counters = [&evidence.client_counters, &evidence.server_counters];
        let ways = Way::BOTH.map(|way| {
            let taps = match way {
                Way::ToServer => [&at_client, &at_server],
                Way::ToClient => [&at_server, &at_client],
            };
            let [sent, received] = taps.map(|packets| of_way(packets, way));
            let truth = label(&sent, &received);
            agree_with_journal(&evidence.journals[way as usize], &sent, &received, &truth);
            let kernel = counters[way as usize].get("Tcp.RetransSegs");
            let own = truth.at_sender.retransmissions.len() as i64;
            assert_eq!(own, kernel, "{}: against RetransSegs", way.name());
            truth
        });
        Self {
            at_client,
            at_server,
            ways,
        }
    }
}

fn of_way(packets: &[Packet], way: Way) -> Vec<Packet> {
    let ours = packets.iter().filter(|packet| packet.way == way);
    ours.copied().collect()
}

fn label(sent: &[Packet], received: &[Packet]) -> WayTruth {
    let mut at_sender = Labels::default();
    let mut again = BTreeSet::new();
    let mut sendings: BTreeMap<_, usize> = BTreeMap::new();
    let mut highest = 0;
    for packet in sent {
        let count = sendings.entry(packet.identity()).or_default();
        *count += 1;
        assert_eq!(*count, 1, "frame {}: cannot be told apart", packet.number);
        if packet.length == 0 {
            continue;
        }
        at_sender.segments.insert(packet.number);
        // A sender sends everything once before anything again, so these bytes were sent.
        if packet.sequence < highest {
            at_sender.retransmissions.insert(packet.number);
            again.insert(packet.identity());
        }
        highest = highest.max(packet.end());
    }
    let mut at_receiver = Labels::default();
    let mut arrived = BTreeSet::new();
    let mut highest = 0;
    for packet in received {
        let identity = packet.identity();
        assert!(
            sendings.contains_key(&identity),
            "{packet:?}: nobody sent it"
        );
        let is_first = arrived.insert(identity);
        if packet.length == 0 {
            continue;
        }
        at_receiver.segments.insert(packet.number);
        let label = if !is_first {
            Some(&mut at_receiver.duplicates)
        } else if again.contains(&identity) {
            Some(&mut at_receiver.retransmissions)
        } else if packet.sequence < highest {
            Some(&mut at_receiver.reordered)
        } else {
            None
        };
        label.map(|label| label.insert(packet.number));
        highest = highest.max(packet.end());
    }
    let lost = sent
        .iter()
        .filter(|packet| !arrived.contains(&packet.identity()));
    WayTruth {
        lost: lost.map(|packet| packet.number).collect(),
        at_sender,
        at_receiver,
    }
}

/// The link lost and copied exactly what is missing and what came twice.
fn agree_with_journal(
    journal: &[JournalLine],
    sent: &[Packet],
    received: &[Packet],
    truth: &WayTruth,
) {
    let ours = || journal.iter().filter(|line| line.marks.protocol == 6);
    let count = |test: fn(&JournalLine) -> bool| ours().filter(|line| test(line)).count();
    assert_eq!(count(|_| true), sent.len(), "offered to the link");
    let dropped: Vec<(u32, u32)> = ours()
        .filter(|line| line.is_dropped())
        .map(|line| (line.marks.id, line.marks.sequence))
        .collect();
    let missing: Vec<(u32, u32)> = sent
        .iter()
        .filter(|packet| truth.lost.contains(&packet.number))
        .map(|packet| (packet.ip_id.into(), packet.wire_sequence))
        .collect();
    assert_eq!(missing, dropped, "lost");
    let copied = count(|line| line.action == "duplicated");
    assert_eq!(
        received.len() + dropped.len() - sent.len(),
        copied,
        "copied"
    );
    assert!(sent.iter().all(|packet| packet.flags & RST == 0), "reset");
}
