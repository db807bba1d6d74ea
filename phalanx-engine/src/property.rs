//! What holds for any sequence of inputs, however odd.

use std::collections::{BTreeMap, BTreeSet};

use phalanx_common::abi::{
    Attempt, Direction, FlowKey, FlowUpdate, HalfCounters, RecordHeader, Sample, SampleKind,
    event_kind,
};
use proptest::prelude::*;

use crate::change::{Change, ChangeKind, FlowTraced};
use crate::conversation::ConversationId;
use crate::fixture::{TcpFrame, hop, key, update};
use crate::flow::endpoints;
use crate::limits::CHANGE_COUNT_MAX;
use crate::measure::Counts;
use crate::name::{NameFact, Owner, Socket};
use crate::{
    Command, Engine, EngineConfig, FlowId, HopId, Input, Monotonic, NamespaceId, Sides, Translation,
};

const FLOW_COUNT_MAX: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Appear(u32),
    Vanish(u32),
    Update(u32, Box<FlowUpdate>),
    Attempt(u32, Attempt),
    Own(u16, bool),
    /// Translate between two keys.
    Translate(FlowKey, FlowKey),
    Record(u32, Recorded),
    /// Answer the commands so far: with what was read, or that it is gone.
    Answer(bool),
    Deadline,
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    let octet = prop_oneof![Just([10, 0, 0, 1]), Just([127, 0, 0, 1])];
    let port = prop_oneof![Just(80), Just(40_000), Just(50_000)];
    let protocol = prop_oneof![4 => Just(6), 1 => Just(17), 1 => Just(1), 1 => any::<u8>()];
    (octet, port, protocol, 0..2u16).prop_map(|(low, port, protocol, vlan)| FlowKey {
        vlan,
        ..key(low, port, [10, 0, 0, 2], 8_080, protocol)
    })
}

fn any_count() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..50u32, 1 => any::<u32>()]
}

fn any_half() -> impl Strategy<Value = HalfCounters> {
    let large = prop_oneof![6 => 0..1_000u64, 1 => any::<u64>()];
    (large, prop::array::uniform6(any_count()), any::<(u8, u8)>()).prop_map(
        |(packets, [bytes, retransmitted, gaps, rtt_min_us, seen_tick, rst_count], ttl)| {
            HalfCounters {
                packets,
                bytes: u64::from(bytes),
                retransmitted_packets: retransmitted,
                gap_count: gaps,
                rtt_min_us,
                seen_tick,
                rst_count,
                ttl_min: ttl.0,
                ttl_max: ttl.1,
                ..HalfCounters::default()
            }
        },
    )
}

fn any_time() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..100_000_000_000u64, 1 => any::<u64>()]
}

fn any_update() -> impl Strategy<Value = FlowUpdate> {
    let numbers = (
        0..3u32,
        prop_oneof![6 => 0..8u32, 1 => any::<u32>()],
        0..4u32,
        any::<u8>(),
    );
    let samples = (prop::array::uniform16(any::<u64>()), any_count(), 0..20_u32);
    (
        any_key(),
        numbers,
        (any_time(), any_time()),
        (any_half(), any_half()),
        samples,
    )
        .prop_map(
            |(key, (incarnation, version, initiator, reason), times, halves, samples)| {
                with_samples(
                    samples.2,
                    FlowUpdate {
                        key,
                        incarnation,
                        version,
                        initiator,
                        reason: u32::from(reason),
                        opened_ns: times.0,
                        now_ns: times.1,
                        halves: [halves.0, halves.1],
                        handshake_server_us: halves.0.gap_count,
                        samples: samples.0,
                        sample_count: samples.1,
                        ..update(1)
                    },
                )
            },
        )
}

/// Half of the updates have samples that a program could have written.
fn with_samples(count: u32, mut update: FlowUpdate) -> FlowUpdate {
    for microseconds in 0..count / 2 {
        let kind = SampleKind::Rtt(Direction::FromLow);
        update.push_sample(Sample { kind, microseconds });
    }
    update
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    (any_key(), 0..5u32, 0..4u32, any_time(), any_count()).prop_map(
        |(key, outcome, initiator, now_ns, answer_us)| Attempt {
            kind: event_kind::ATTEMPT,
            outcome,
            key,
            initiator,
            now_ns,
            answer_us,
            icmp_error: answer_us,
        },
    )
}

/// A record: a segment as it was captured, or any bytes.
#[derive(Clone, Debug)]
struct Recorded {
    frame: TcpFrame,
    time_ns: u64,
    captured: usize,
    noise: Vec<u8>,
    has_ethernet: u8,
}

impl Recorded {
    fn record(&self) -> (RecordHeader, Vec<u8>) {
        let (mut header, mut bytes) = self.frame.record(self.time_ns);
        bytes.truncate(self.captured);
        bytes.extend(&self.noise);
        header.has_ethernet = self.has_ethernet;
        (header, bytes)
    }
}

fn any_record() -> impl Strategy<Value = Recorded> {
    let number = prop_oneof![6 => 0..5_000u32, 1 => any::<u32>()];
    let flags =
        prop_oneof![4 => Just(16), 2 => Just(2), 1 => Just(18), 1 => Just(17), 1 => any::<u8>()];
    let frame = (
        0..3u16,
        any::<bool>(),
        flags,
        prop::array::uniform2(number),
        0..2_000u16,
    );
    let captured = prop_oneof![8 => Just(usize::MAX), 1 => 0..54usize];
    let noise = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..60)];
    let has_ethernet = prop_oneof![8 => Just(1), 1 => Just(0)];
    (frame, any_time(), captured, noise, has_ethernet).prop_map(
        |(frame, time_ns, captured, noise, has_ethernet)| Recorded {
            frame: TcpFrame {
                port: 50_000 + frame.0,
                is_server: frame.1,
                flags: frame.2,
                sequence: frame.3[0],
                acknowledgement: frame.3[1],
                length: frame.4,
            },
            time_ns,
            captured,
            noise,
            has_ethernet,
        },
    )
}

fn any_step() -> impl Strategy<Value = (u64, Step)> {
    let step = prop_oneof![
        2 => (1..4u32).prop_map(Step::Appear),
        1 => (1..4u32).prop_map(Step::Vanish),
        20 => (1..4u32, any_update()).prop_map(|(hop, update)| Step::Update(hop, Box::new(update))),
        4 => (1..4u32, any_attempt()).prop_map(|(hop, attempt)| Step::Attempt(hop, attempt)),
        2 => (any::<bool>(), 0..3u16).prop_map(|(listens, port)| Step::Own(port, listens)),
        2 => (any_key(), any_key()).prop_map(|(near, far)| Step::Translate(near, far)),
        12 => (1..4u32, any_record()).prop_map(|(hop, record)| Step::Record(hop, record)),
        3 => any::<bool>().prop_map(Step::Answer),
        4 => Just(Step::Deadline),
    ];
    (
        prop_oneof![6 => 0..3_000_000_000u64, 1 => 0..700_000_000_000u64],
        step,
    )
}

fn play(steps: &[(u64, Step)], seed: u64) -> (Vec<Change>, Engine) {
    let config = EngineConfig {
        seed,
        flow_count_max: FLOW_COUNT_MAX,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config);
    let (mut changes, mut commands) = (Vec::new(), Vec::new());
    let mut now = Monotonic(0);
    for (delay_ns, step) in steps {
        now = now.plus_ns(*delay_ns);
        take(&mut engine, step, now, &mut commands);
        changes.extend(engine.changes());
        commands.extend(engine.commands());
        let occupancy = engine.occupancy();
        assert!(occupancy.flows <= FLOW_COUNT_MAX);
        assert!(occupancy.conversations <= occupancy.flows);
        assert!(engine.deadline().is_some() || occupancy.flows + occupancy.traces == 0);
        // Each thing has one deadline at most.
        let looks = usize::from(occupancy.traces > 0);
        let others = occupancy.attempts + occupancy.pairs;
        assert!(engine.timer_count() <= occupancy.flows + others + looks);
    }
    (changes, engine)
}

fn take(engine: &mut Engine, step: &Step, now: Monotonic, commands: &mut Vec<Command>) {
    match step {
        Step::Appear(id) => engine.handle(Input::HopAppeared(hop(*id, "eth0")), now),
        Step::Vanish(id) => engine.handle(Input::HopVanished(HopId(*id)), now),
        Step::Update(hop, update) => engine.handle(
            Input::Update {
                hop: HopId(*hop),
                update,
            },
            now,
        ),
        Step::Attempt(hop, attempt) => {
            engine.handle(
                Input::Attempt {
                    hop: HopId(*hop),
                    attempt,
                },
                now,
            );
        }
        Step::Own(port, is_listener) => {
            let namespace = NamespaceId(7);
            let socket = Socket {
                protocol: 6,
                port: 8_080 + port,
                address: None,
                namespace,
            };
            let (process, cgroup) = (format!("p{port}").into(), "".into());
            let is_listener = *is_listener;
            let owner = Owner {
                process,
                pid: 1,
                cgroup,
                container_name: None,
                is_listener,
            };
            engine.handle(Input::Names(NameFact::SocketOwned { socket, owner }), now);
        }
        Step::Translate(near, far) => {
            let ends = |key| endpoints(key, Direction::FromLow);
            let fact = NameFact::Translated {
                host: "web-1".into(),
                namespace: NamespaceId(7),
                translation: Translation {
                    protocol: near.protocol,
                    inside: ends(near),
                    outside: ends(far),
                },
            };
            engine.handle(Input::Names(fact), now);
        }
        Step::Record(hop, recorded) => {
            let (header, bytes) = recorded.record();
            let hop = HopId(*hop);
            let (header, bytes) = (&header, &bytes[..]);
            engine.handle(Input::Record { hop, header, bytes }, now);
        }
        Step::Answer(is_gone) => {
            for command in commands.drain(..) {
                let Command::ReadAndDelete {
                    hop,
                    key,
                    incarnation,
                } = command
                else {
                    continue;
                };
                let read = FlowUpdate {
                    key,
                    incarnation,
                    now_ns: now.0,
                    ..update(9)
                };
                let answer = match is_gone {
                    true => Input::FlowGone {
                        hop,
                        key,
                        incarnation,
                    },
                    false => Input::FlowRead { hop, update: &read },
                };
                engine.handle(answer, now);
            }
        }
        Step::Deadline => {
            // As the shell does: until nothing is due. One batch is more than all there can be.
            for _ in 0..4 {
                engine.handle_deadline(now);
            }
            assert!(engine.deadline().is_none_or(|deadline| deadline > now));
        }
    }
}

/// What a view that folds the changes knows.
#[derive(Default)]
struct View {
    flows: BTreeMap<FlowId, (ConversationId, Sides<Counts>, Sides<Counts>)>,
    conversations: BTreeMap<ConversationId, Sides<Counts>>,
    /// What the flows of a conversation told, all together: it is not counted more than that.
    told: BTreeMap<ConversationId, Sides<Counts>>,
    /// First frames of the flows that were traced, and packets in their stories.
    traced: BTreeSet<u64>,
    traced_packets: u64,
}

impl View {
    fn fold(&mut self, change: &Change) {
        match &change.kind {
            ChangeKind::FlowOpened(opened) => {
                let entry = (opened.conversation, Sides::default(), Sides::default());
                assert!(self.flows.insert(opened.flow, entry).is_none());
                assert!(self.conversations.contains_key(&opened.conversation));
            }
            ChangeKind::FlowUpdated(updated) => {
                let (conversation, sum, highest) = self.flows.get_mut(&updated.flow).unwrap();
                add(sum, &updated.added);
                let totals = Sides {
                    client: Counts::from(&updated.totals.client),
                    server: Counts::from(&updated.totals.server),
                };
                raise(highest, &totals);
                assert_eq!(sum, highest);
                add(self.told.entry(*conversation).or_default(), &updated.added);
            }
            ChangeKind::FlowClosed(closed) => {
                assert!(closed.opened <= closed.ended);
                assert!(self.flows.remove(&closed.flow).is_some());
            }
            ChangeKind::ConversationOpened(opened) => {
                let entry = Sides::default();
                assert!(
                    self.conversations
                        .insert(opened.conversation, entry)
                        .is_none()
                );
            }
            ChangeKind::ConversationClosed(closed) => {
                let sum = self.conversations.remove(&closed.conversation).unwrap();
                if let Some(told) = self.told.get(&closed.conversation) {
                    assert!(!told.client.is_behind(&sum.client));
                    assert!(!told.server.is_behind(&sum.server));
                }
            }
            ChangeKind::PairUpdated(updated) => {
                add(
                    self.conversations.get_mut(&updated.conversation).unwrap(),
                    &updated.added,
                );
            }
            ChangeKind::ConversationTranslated(translated) => {
                let sides = [translated.inside, translated.outside];
                assert!(sides.iter().any(Option::is_some));
                let mut known = sides.iter().flatten();
                assert!(known.all(|id| self.conversations.contains_key(id)));
            }
            ChangeKind::FlowTraced(traced) => self.trace(traced),
            _ => {}
        }
    }

    fn trace(&mut self, traced: &FlowTraced) {
        let story = &traced.story;
        assert!(self.traced.insert(story.flow), "a flow is told once");
        assert!(story.flow <= story.last_frame && story.duration_ns >= 0);
        if let Some(budget) = &story.budget {
            let spent_ns: i64 = budget.iter().map(|(_, ns)| ns).sum();
            assert_eq!(spent_ns, story.duration_ns);
        }
        for counts in [story.sides.client.counts, story.sides.server.counts] {
            let copies = counts.capture_duplicates + counts.network_duplicates;
            self.traced_packets += counts.packets + copies;
        }
    }
}

fn add(sum: &mut Sides<Counts>, more: &Sides<Counts>) {
    sum.client.add(&more.client);
    sum.server.add(&more.server);
}

fn raise(highest: &mut Sides<Counts>, to: &Sides<Counts>) {
    let more = Sides {
        client: to.client.beyond(&highest.client),
        server: to.server.beyond(&highest.server),
    };
    add(highest, &more);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_inputs_give_a_story_that_folds(
        steps in prop::collection::vec(any_step(), 1..100), seed in any::<u64>(),
    ) {
        let (changes, mut engine) = play(&steps, seed);
        let mut view = View::default();
        for (index, change) in changes.iter().enumerate() {
            assert_eq!(change.sequence, index as u64 + 1);
            view.fold(change);
        }
        let occupancy = engine.occupancy();
        assert_eq!(view.flows.len(), occupancy.flows);
        assert_eq!(view.conversations.len(), occupancy.conversations);
        // When all hops are gone, nothing is left.
        let end = Monotonic(u64::MAX / 2);
        for id in 1..4 {
            engine.handle(Input::HopVanished(HopId(id)), end);
        }
        for _ in 0..8 {
            engine.handle_deadline(end);
        }
        engine.changes().for_each(|change| view.fold(&change));
        assert_eq!((view.flows.len(), view.conversations.len()), (0, 0));
        let occupancy = engine.occupancy();
        assert_eq!((occupancy.flows, occupancy.conversations, occupancy.hops), (0, 0, 0));
        assert_eq!(occupancy.traces, 0);
        // Each record that could be decoded is in one story.
        assert_eq!(engine.tally().stories_lost, 0);
        assert_eq!(view.traced_packets, engine.traced_record_count());
        // The seed of the hashes does not show.
        let (again, _) = play(&steps, seed ^ 0x5555);
        assert_eq!(changes, again);
    }
}

#[test]
fn changes_that_nobody_drains_are_lost_from_the_front() {
    let mut engine = Engine::new(EngineConfig::default());
    for _ in 0..CHANGE_COUNT_MAX + 10 {
        engine.handle(Input::HopAppeared(hop(1, "eth0")), Monotonic(1));
        engine.handle(Input::HopVanished(HopId(1)), Monotonic(1));
    }
    let lost = engine.tally().changes_lost;
    let sequences: Vec<_> = engine.changes().map(|change| change.sequence).collect();
    assert_eq!(sequences.len(), CHANGE_COUNT_MAX);
    assert_eq!(sequences[0], lost + 1);
    assert_eq!(
        sequences[CHANGE_COUNT_MAX - 1],
        2 * (CHANGE_COUNT_MAX as u64 + 10)
    );
}
