//! Reports of several hops, made by hand.

use phalanx::report::{
    Across, ClockReport, Confirmed, FlowAt, HopReport, Proxied, Report, Totals, rank,
};
use phalanx_engine::segment::Class;
use phalanx_engine::stitch::{
    Alignment, ClockReading, Ladder, LegStory, LegWay, PathCount, ProxyBasis, Rewrite,
    RewriteField, Rung, RungCrossing, RungEnd, StitchedConversation,
};
use phalanx_engine::story::ConnectionState;
use phalanx_engine::{Distribution, Endpoint, Side, Sides};

use super::fixture::{HOSTILE, SCRIPT, START_NS, download, hop};

const MS: i64 = 1_000_000;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// What a leg takes one way.
const DELAY_NS: i64 = 4 * MS;

/// Makes the rungs of a path, one after the other.
pub(crate) struct Maker {
    hops: u32,
    frame: u64,
    pub(crate) rungs: Vec<Rung>,
}

impl Maker {
    pub(crate) fn new(hops: u32) -> Self {
        Self {
            hops,
            frame: 0,
            rungs: Vec::new(),
        }
    }

    /// A packet that crosses `count` hops from its sender on.
    pub(crate) fn packet(&mut self, side: Side, at_ms: i64, count: u32) -> &mut Rung {
        self.frame += 1;
        let crossing = |index: u32| {
            let hop = match side {
                Side::Client => index,
                Side::Server => self.hops - 1 - index,
            };
            let reference_ns = START_NS + at_ms * MS + i64::from(index) * DELAY_NS;
            RungCrossing {
                hop,
                frame: self.frame + u64::from(hop) * 10,
                time_ns: reference_ns + i64::from(hop) * 1_234_567,
                reference_ns,
                error_ns: Some(i64::from(hop) * 800_000),
            }
        };
        let last = crossing(count - 1).hop;
        let is_whole = count == self.hops;
        self.rungs.push(Rung {
            side,
            flags: ACK,
            sequence: Some(1),
            length: 0,
            acknowledgement: Some(1),
            class: None,
            crossings: (0..count).map(crossing).collect(),
            end: if is_whole {
                RungEnd::Arrived
            } else {
                RungEnd::Lost(last)
            },
            repeats: None,
            copy_of: None,
            overtaken_before: None,
        });
        self.rungs.last_mut().unwrap()
    }

    fn data(&mut self, at_ms: i64, count: u32, sequence: u32) -> &mut Rung {
        let rung = self.packet(Side::Server, at_ms, count);
        (rung.flags, rung.length) = (PSH | ACK, 1_448);
        (rung.sequence, rung.class) = (Some(sequence), Some(Class::New));
        rung
    }

    pub(crate) fn ladder(self, left_out: u64) -> Ladder {
        Ladder {
            hops: (0..self.hops).collect(),
            rungs: self.rungs,
            left_out,
        }
    }
}

/// A ladder with all that can become of a packet.
pub(crate) fn every_kind() -> Ladder {
    let mut maker = Maker::new(4);
    let syn = maker.packet(Side::Client, 0, 4);
    (syn.flags, syn.sequence, syn.acknowledgement) = (SYN, Some(0), None);
    (syn.length, syn.class) = (1, Some(Class::New));
    let syn_ack = maker.packet(Side::Server, 12, 4);
    (syn_ack.flags, syn_ack.sequence, syn_ack.length) = (SYN | ACK, Some(0), 1);
    maker.packet(Side::Client, 24, 4);
    // Lost between the second hop and the third, seen from the server.
    maker.data(40, 2, 1);
    maker.data(41, 4, 1_449);
    maker.data(42, 4, 2_897).overtaken_before = Some(1);
    let copy = maker.data(46, 4, 2_897);
    copy.crossings.drain(..2);
    (copy.copy_of, copy.class) = (Some(5), Some(Class::NetworkDuplicate));
    maker.packet(Side::Client, 60, 3).end = RungEnd::Uncaptured(2);
    maker.packet(Side::Client, 61, 2).end = RungEnd::Unknown(1);
    let again = maker.data(2_300, 4, 1);
    (again.repeats, again.class) = (Some(3), Some(Class::TimeoutRetransmission));
    let over = maker.packet(Side::Client, 2_330, 4);
    over.crossings.remove(1);
    // Lost at once.
    maker.data(2_335, 1, 4_345);
    // A hop whose clock nobody knows.
    maker.packet(Side::Client, 2_340, 4).crossings[3].error_ns = None;
    maker.ladder(3)
}

fn way(packets: u64, lost: u64) -> LegWay {
    LegWay {
        packets,
        lost,
        lost_here_or_beside: 0,
        unresolved_here_or_beside: 0,
        reordered: lost / 2,
        duplicated: lost / 3,
        not_captured: lost / 4,
        unresolved: lost / 5,
        delay: [4 * MS, 4 * MS + 100_000, 5 * MS].into_iter().collect(),
        delay_error_ns: Some(41_000),
        queueing: [0, 100_000, MS].into_iter().collect(),
    }
}

fn leg(from: u32, lost: u64) -> LegStory {
    LegStory {
        from,
        to: from + 1,
        forward: Some(way(1_000, lost)),
        reverse: Some(way(1_234, lost * 3)),
        rtt: [8 * MS, 9 * MS, 12 * MS].into_iter().collect(),
    }
}

fn clock(offset_ns: i64, error_ns: i64) -> ClockReport {
    ClockReport {
        reference: "client".to_owned(),
        is_shared: false,
        readings: vec![ClockReading {
            from_ns: START_NS,
            offset_ns,
            skew_ppm: 0.0,
            error_ns: Some(error_ns),
        }],
    }
}

fn end(address: &str, port: u16) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        port,
    }
}

fn across(hops: u32) -> Across {
    let inside = end("10.0.0.2", 51_000);
    let flow = |hop: u32| FlowAt {
        hop,
        flow: 1,
        protocol: 6,
        ends: Sides {
            client: if hop < 2 {
                inside
            } else {
                end("192.0.2.1", 40_001)
            },
            server: end("10.0.1.2", 8_080),
        },
        packets: 2_234,
        parts: Vec::new(),
    };
    let rewrite = Rewrite {
        from: 1,
        to: 2,
        fields: vec![
            RewriteField::ClientAddress,
            RewriteField::ClientPort,
            RewriteField::Mss,
        ],
    };
    let confirmed = Confirmed {
        from: 1,
        to: 2,
        host: "edge-1".to_owned(),
    };
    Across {
        flows: (0..hops).map(flow).collect(),
        joined: StitchedConversation {
            flows: Vec::new(),
            path: (0..hops).collect(),
            return_path: (0..hops).rev().collect(),
            paths: Vec::new(),
            legs: (0..hops - 1)
                .map(|from| leg(from, 12 * u64::from(from)))
                .collect(),
            rewrites: if hops > 2 { vec![rewrite] } else { vec![] },
            alignment: Alignment {
                packets: 2_234,
                aligned: 2_230,
            },
        },
        proxied: Sides::default(),
        place: 0,
        confirmed: if hops > 2 { vec![confirmed] } else { vec![] },
    }
}

fn point(name: &str, clock: Option<ClockReport>) -> HopReport {
    HopReport {
        unparsed: std::collections::BTreeMap::new(),
        notes: std::collections::BTreeMap::new(),
        damage: None,
        gaps: Vec::new(),
        clock,
        ..hop(name, &format!("{name}.pcap"))
    }
}

/// A conversation over four hops, one that took two ways, and one that a hop alone saw.
pub(crate) fn report() -> Report {
    let mut stitched = download("client/tcp-1", &SCRIPT);
    stitched.hop = "client".to_owned();
    stitched.across = Some(Box::new(across(4)));
    stitched.ladder = Some(every_kind());
    let mut parted = stitched.clone();
    parted.id = "client/tcp-9".to_owned();
    parted.score -= 1.0;
    parted.ladder = None;
    let mut ways = across(4);
    let count = |hops: &[u32], packets: u64| PathCount {
        side: Side::Client,
        hops: hops.to_vec(),
        packets,
    };
    ways.joined.paths = vec![count(&[0, 1, 3], 620), count(&[0, 2, 3], 380)];
    ways.joined.return_path = vec![3, 2, 0];
    ways.joined.rewrites.clear();
    ways.joined.legs[1].reverse = None;
    ways.joined.legs[1]
        .forward
        .as_mut()
        .unwrap()
        .lost_here_or_beside = 3;
    ways.joined.legs[1]
        .forward
        .as_mut()
        .unwrap()
        .unresolved_here_or_beside = 1;
    ways.joined.legs[1].rtt = Distribution::default();
    ways.joined.legs[2].forward.as_mut().unwrap().delay = Distribution::default();
    ways.joined.legs[2].forward.as_mut().unwrap().delay_error_ns = None;
    let proxied = |id: &str, basis: ProxyBasis| {
        Some(Proxied {
            id: id.to_owned(),
            basis,
        })
    };
    let content = ProxyBasis::Content { chunks: [4, 1] };
    ways.proxied.server = proxied("edge/tcp-40", content);
    let times = ProxyBasis::Timing {
        exchanges: 12,
        confidence: 0.417,
    };
    ways.proxied.client = proxied("client/tcp-1", times);
    parted.across = Some(Box::new(ways));
    let mut alone = download("edge/tcp-40", &SCRIPT);
    let mut beyond = across(4);
    beyond.flows = vec![beyond.flows[1].clone()];
    (beyond.joined.path, beyond.joined.return_path) = (vec![1], vec![1]);
    (beyond.joined.legs, beyond.joined.rewrites) = (Vec::new(), Vec::new());
    beyond.joined.alignment = Alignment::default();
    beyond.proxied.client = proxied("client/tcp-9", content);
    alone.across = Some(Box::new(beyond));
    alone.score = 0.0;
    let mut conversations = vec![stitched, parted, alone];
    rank(&mut conversations);
    let mut shared = clock(0, 0);
    shared.is_shared = true;
    let mut stepped = clock(-1_200_345, 41_000);
    stepped.readings[0].skew_ppm = 12.13;
    stepped.readings.push(ClockReading {
        from_ns: START_NS + 1_000 * MS,
        offset_ns: 3_000 * MS,
        skew_ppm: -0.4,
        error_ns: Some(52_000),
    });
    Report {
        hops: vec![
            point("client", Some(clock(0, 0))),
            point("edge", Some(shared)),
            point("core", Some(stepped)),
            point("server", None),
        ],
        conversations,
        totals: Totals {
            conversations: 3,
            packets: 6_240,
            bytes: 1_234_567,
            duration_ns: 10_019 * MS,
            ..Totals::default()
        },
    }
}

/// The same with names of an enemy.
pub(crate) fn hostile() -> Report {
    let mut report = report();
    for hop in &mut report.hops {
        hop.id = format!("{HOSTILE}{}", hop.id);
        hop.source = HOSTILE.to_owned();
        if let Some(clock) = &mut hop.clock {
            clock.reference = format!("{HOSTILE}client");
        }
    }
    for conversation in &mut report.conversations {
        conversation.id = format!("{}{HOSTILE}", conversation.id);
        conversation.hop = HOSTILE.to_owned();
        conversation.worst_because = HOSTILE.to_owned();
        let across = conversation.across.as_mut();
        let proxied = across.map(|it| &mut it.proxied);
        for proxied in proxied
            .into_iter()
            .flat_map(|it| [&mut it.client, &mut it.server])
        {
            proxied
                .iter_mut()
                .for_each(|it| HOSTILE.clone_into(&mut it.id));
        }
    }
    report
}

/// A report of one conversation with a ladder of its own, over as many hops.
pub(crate) fn with_ladder(ladder: Ladder) -> Report {
    let mut report = report();
    let count = ladder.hops.len() as u32;
    let name = |index: u32| format!("hop-{index}");
    report.hops = (0..count.max(2)).map(|it| point(&name(it), None)).collect();
    report.conversations.truncate(1);
    let conversation = &mut report.conversations[0];
    conversation.across = Some(Box::new(across(count.max(2))));
    conversation.ladder = Some(ladder);
    conversation.story.state = ConnectionState::Established;
    report
}

/// As many packets over as many hops: now and then one is lost and sent again.
pub(crate) fn long(hops: u32, count: usize) -> Ladder {
    let mut maker = Maker::new(hops);
    let mut sequence = 1;
    let mut lost = None;
    while maker.rungs.len() < count {
        let index = maker.rungs.len();
        let at_ms = index as i64 * 3;
        match index % 7 {
            6 => {
                maker.packet(Side::Client, at_ms, hops);
            }
            3 if lost.is_none() => {
                maker.data(at_ms, hops.div_ceil(2), sequence);
                lost = Some((index, sequence));
                sequence += 1_448;
            }
            1 if lost.is_some() => {
                let (of, start) = lost.take().unwrap();
                let again = maker.data(at_ms, hops, start);
                (again.repeats, again.class) = (Some(of), Some(Class::FastRetransmission));
            }
            _ => {
                maker.data(at_ms, hops, sequence);
                sequence += 1_448;
            }
        }
    }
    maker.ladder(0)
}
