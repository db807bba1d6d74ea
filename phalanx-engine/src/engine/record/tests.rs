//! Recorded flows: the same engine, whichever door the packets come through.

use phalanx_common::abi::RecordHeader;
use phalanx_common::packet::{Layers, LinkKind};

use crate::change::{ChangeKind, FlowTraced};
use crate::fixture::{TcpFrame, hop};
use crate::limits::{LIVE_STORY_COUNT_MAX, LIVE_TRACE_COUNT_MAX, LIVE_TRACE_INTERVAL_NS};
use crate::record::Decoded;
use crate::story::{ConnectionState, FlowStory};
use crate::trace::Tracer;
use crate::{Engine, EngineConfig, HopId, Input, Monotonic};

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// One packet: milliseconds, from the server, flags, sequence, acknowledgement, payload.
type Row = (u64, bool, u8, u32, u32, u16);

/// A request, an answer of two segments of which the second comes again, and both FINs.
const CONVERSATION: [Row; 11] = [
    (0, false, SYN, 1_000, 0, 0),
    (20, true, SYN | ACK, 5_000, 1_001, 0),
    (21, false, ACK, 1_001, 5_001, 0),
    (22, false, ACK, 1_001, 5_001, 100),
    (62, true, ACK, 5_001, 1_101, 1_400),
    (62, true, ACK, 6_401, 1_101, 600),
    (63, false, ACK, 1_101, 6_401, 0),
    (363, true, ACK, 6_401, 1_101, 600),
    (364, false, ACK, 1_101, 7_001, 0),
    (400, false, FIN | ACK, 1_101, 7_001, 0),
    (420, true, FIN | ACK, 7_001, 1_102, 0),
];

fn records(rows: &[Row]) -> Vec<(RecordHeader, Vec<u8>)> {
    let record = |&(ms, is_server, flags, sequence, acknowledgement, length): &Row| {
        let frame = TcpFrame {
            port: 50_000,
            is_server,
            flags,
            sequence,
            acknowledgement,
            length,
        };
        frame.record(SECOND + ms * MILLISECOND)
    };
    rows.iter().map(record).collect()
}

fn engine() -> Engine {
    let mut engine = Engine::new(EngineConfig::default());
    engine.handle(Input::HopAppeared(hop(1, "eth0")), Monotonic(0));
    engine.changes().for_each(drop);
    engine
}

fn give(engine: &mut Engine, hop: u32, records: &[(RecordHeader, Vec<u8>)]) {
    for (header, bytes) in records {
        let hop = HopId(hop);
        let now = Monotonic(header.time_ns + MILLISECOND);
        engine.handle(Input::Record { hop, header, bytes }, now);
    }
}

/// The stories that are told up to a time, with the times of their telling.
fn stories(engine: &mut Engine, until: u64) -> Vec<(u64, FlowTraced)> {
    let mut told = Vec::new();
    loop {
        for change in engine.changes() {
            if let ChangeKind::FlowTraced(traced) = change.kind {
                told.push((change.at.0, *traced));
            }
        }
        match engine.deadline().filter(|deadline| deadline.0 <= until) {
            Some(deadline) => engine.handle_deadline(deadline),
            None => return told,
        }
    }
}

/// What a file of the same frames comes to.
fn by_tracer(records: &[(RecordHeader, Vec<u8>)]) -> FlowStory {
    let (mut layers, mut tracer) = (Layers::default(), Tracer::new(3));
    for (index, (header, bytes)) in records.iter().enumerate() {
        let length = header.frame_length;
        let decoded = Decoded::of(&mut layers, bytes, LinkKind::Ethernet, length).unwrap();
        let (number, time_ns) = (index as u64 + 1, header.time_ns as i64);
        let record = decoded.record(number, time_ns, length, bytes);
        tracer.handle(&record.at_hop(1));
    }
    let stories: Vec<_> = tracer.finish().map(|ended| ended.into_story()).collect();
    assert_eq!(stories.len(), 1);
    *stories.into_iter().next().unwrap()
}

#[test]
fn a_recorded_flow_has_the_story_that_a_file_of_it_has() {
    let mut engine = engine();
    let records = records(&CONVERSATION);
    give(&mut engine, 1, &records);
    assert_eq!(engine.occupancy().traces, 1);
    let told = stories(&mut engine, 100 * SECOND);
    let [(at, traced)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(
        (traced.hop, &traced.story),
        (HopId(1), &by_tracer(&records))
    );
    // Stragglers are waited for, then it is told at the next look.
    let silent = SECOND + 420 * MILLISECOND + 5 * SECOND;
    assert!(
        (silent..=silent + LIVE_TRACE_INTERVAL_NS).contains(at),
        "{at}"
    );
    let story = &traced.story;
    assert_eq!(story.state, ConnectionState::Closed);
    assert_eq!((story.turns.count, story.flow), (1, 1));
    let server = &story.sides.server.counts;
    assert_eq!((server.packets, server.cut_packets), (5, 3));
    assert_eq!(server.retransmitted_packets, 1);
    assert_eq!(story.duration_ns, 420 * MILLISECOND as i64);
    // Nothing is traced: nothing is looked at.
    assert_eq!((engine.occupancy().traces, engine.deadline()), (0, None));
}

#[test]
fn payload_that_was_captured_is_not_read() {
    let (mut with, mut without) = (engine(), engine());
    let mut records = records(&CONVERSATION);
    give(&mut without, 1, &records);
    for (header, bytes) in &mut records {
        let text = b"GET /secret HTTP/1.1\r\nhost: internal\r\n\r\n";
        let length = (header.frame_length as usize - bytes.len()).min(text.len());
        bytes.extend(&text[..length]);
        header.captured_length = bytes.len() as u32;
    }
    give(&mut with, 1, &records);
    let told = stories(&mut with, 100 * SECOND);
    assert_eq!(told.len(), 1);
    assert_eq!(told, stories(&mut without, 100 * SECOND));
    assert!(told[0].1.story.application.protocol.is_none());
}

#[test]
fn a_flow_that_stays_open_is_told_after_its_idle_timeout() {
    let mut engine = engine();
    give(&mut engine, 1, &records(&CONVERSATION[..9]));
    let last = SECOND + 364 * MILLISECOND;
    let silent = last + EngineConfig::default().tcp_idle_timeout_ns;
    assert_eq!(stories(&mut engine, silent - 1), []);
    let told = stories(&mut engine, silent + LIVE_TRACE_INTERVAL_NS);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1.story.state, ConnectionState::Established);
    assert_eq!(engine.deadline(), None);
}

#[test]
fn a_reset_ends_as_a_fin_does() {
    let mut engine = engine();
    let mut rows = CONVERSATION[..9].to_vec();
    rows.push((400, false, RST, 1_101, 0, 0));
    give(&mut engine, 1, &records(&rows));
    let told = stories(&mut engine, 8 * SECOND);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1.story.state, ConnectionState::Reset);
}

#[test]
fn a_hop_that_vanishes_takes_its_traced_flows_along() {
    let mut engine = engine();
    engine.handle(Input::HopAppeared(hop(2, "eth1")), Monotonic(0));
    give(&mut engine, 1, &records(&CONVERSATION[..5]));
    give(&mut engine, 2, &records(&CONVERSATION[..6]));
    let now = Monotonic(2 * SECOND);
    engine.handle(Input::HopVanished(HopId(1)), now);
    let told = stories(&mut engine, now.0);
    let hops: Vec<_> = told.iter().map(|(_, traced)| traced.hop).collect();
    assert_eq!((hops, engine.occupancy().traces), (vec![HopId(1)], 1));
    assert_eq!(told[0].1.story.state, ConnectionState::Established);
}

#[test]
fn a_hop_number_in_use_again_begins_a_story_of_its_own() {
    let mut engine = engine();
    give(&mut engine, 1, &records(&CONVERSATION[..5]));
    // It takes the number over, and packets come before a deadline is served.
    engine.handle(Input::HopAppeared(hop(1, "eth1")), Monotonic(2 * SECOND));
    give(&mut engine, 1, &records(&CONVERSATION[5..]));
    let told = stories(&mut engine, 100 * SECOND);
    let flows: Vec<_> = told
        .iter()
        .map(|(_, traced)| (traced.story.flow, traced.story.last_frame))
        .collect();
    assert_eq!(flows, [(1, 5), (6, 11)]);
    assert!(told[1].1.story.starts_mid_stream);
}

#[test]
fn what_cannot_be_traced_is_counted() {
    let mut engine = engine();
    let mut records = records(&CONVERSATION[..1]);
    give(&mut engine, 9, &records);
    assert_eq!((engine.tally().records, engine.tally().hop_unknown), (1, 1));
    records[0].1.truncate(20);
    give(&mut engine, 1, &records);
    let tally = engine.tally();
    assert_eq!((tally.records, tally.records_unparsed), (2, 1));
    assert_eq!((engine.occupancy().traces, engine.deadline()), (0, None));
    assert_eq!(stories(&mut engine, 100 * SECOND), []);
}

#[test]
fn traced_flows_and_waiting_stories_are_bounded() {
    let mut engine = engine();
    let count = LIVE_TRACE_COUNT_MAX + LIVE_STORY_COUNT_MAX + 100;
    for port in 0..count as u16 {
        let frame = TcpFrame {
            port: 1_000 + port,
            flags: SYN,
            ..TcpFrame::default()
        };
        give(&mut engine, 1, &[frame.record(SECOND)]);
    }
    let tally = engine.tally();
    assert_eq!(engine.occupancy().traces, LIVE_TRACE_COUNT_MAX);
    assert_eq!(tally.traces_evicted as usize, LIVE_STORY_COUNT_MAX + 100);
    assert_eq!((tally.stories_lost, tally.changes_lost), (100, 0));
    let told = stories(&mut engine, SECOND + MILLISECOND);
    assert_eq!(told.len(), LIVE_STORY_COUNT_MAX);
    // Drained part by part, as the shell does, none of the rest is lost.
    let told = stories(&mut engine, 10_000 * SECOND);
    assert_eq!(told.len(), LIVE_TRACE_COUNT_MAX);
    assert_eq!(
        (engine.tally().stories_lost, engine.deadline()),
        (100, None)
    );
    assert_eq!(told[0].1.story.state, ConnectionState::Unanswered);
}
