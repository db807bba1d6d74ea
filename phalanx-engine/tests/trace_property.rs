//! What holds of any TCP conversation, and of every capture there is: the time budget sums to the
//! wall time, counts agree with each other and with the packets handed in, and neither the place
//! in sequence space nor the hour changes a story.

#[path = "support/capture.rs"]
mod capture;
#[path = "support/conversation.rs"]
mod conversation;
#[path = "support/truth.rs"]
mod truth;

use conversation::{Packet, Script, Step, Turn, trace};
use phalanx_engine::segment::Segment;
use phalanx_engine::story::FlowStory;
use proptest::prelude::*;
use truth::Handed;

/// Numbers near the places where something turns over, and any others.
fn edge() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        0..5_000_u32,
        any::<u32>().prop_map(|it| (it % 5_000).wrapping_neg()),
        any::<u32>().prop_map(|it| (1_u32 << 31).wrapping_add(it % 5_000).wrapping_sub(2_500)),
        any::<u32>().prop_map(|it| (1_u32 << 30).wrapping_add(it % 5_000).wrapping_sub(2_500)),
        any::<u32>(),
    ]
}

fn distance() -> impl Strategy<Value = u32> {
    prop_oneof![8 => Just(0), 8 => 0..6_000_u32, 1 => edge()]
}

fn length() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(1_448), 2 => 0..3_000_u16, 2 => 0..3_u16, 1 => any::<u16>()]
}

fn passed() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => 0..3_000_000_i64,
        4 => 0..400_000_000_i64,
        2 => 0..100_000_000_000_i64,
        1 => -2_000_000_000..0_i64,
    ]
}

fn ordinary_step() -> impl Strategy<Value = Step> {
    let sacks = prop::collection::vec((distance(), distance()), 0..4);
    prop_oneof![
        8 => (length(), prop::bool::weighted(0.1))
            .prop_map(|(length, is_lost)| Step::Send { length, is_lost }),
        3 => (distance(), length()).prop_map(|(back, length)| Step::Again { back, length }),
        8 => (distance(), prop_oneof![6 => Just(1_000), 1 => Just(0), 1 => any::<u16>()], sacks)
            .prop_map(|(back, window, sacks)| Step::Ack { back, window, sacks }),
        1 => any::<bool>().prop_map(|is_other| Step::Syn { is_other }),
        1 => Just(Step::Fin),
        1 => prop_oneof![Just(0), any::<i32>()].prop_map(|off| Step::Reset { off }),
        2 => (0..6_usize, any::<bool>())
            .prop_map(|(back, is_elsewhere)| Step::Copy { back, is_elsewhere }),
        1 => edge().prop_map(|by| Step::Jump { by }),
        1 => any::<bool>().prop_map(|has_byte| Step::KeepAlive { has_byte }),
    ]
}

fn wild_step() -> impl Strategy<Value = Step> {
    let options = prop::collection::vec(any::<u8>(), 0..40);
    (edge(), edge(), any::<u8>(), length(), options).prop_map(
        |(sequence, acknowledgement, flags, length, options)| Step::Wild {
            sequence,
            acknowledgement,
            flags,
            length,
            options,
        },
    )
}

fn script(
    step: impl Strategy<Value = Step>,
    passed: impl Strategy<Value = i64>,
) -> impl Strategy<Value = Script> {
    let turn = (any::<bool>(), passed, step).prop_map(|(is_server, passed_ns, step)| Turn {
        is_server,
        passed_ns,
        step,
    });
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let initial = [edge(), edge()];
    (initial, flags, prop::collection::vec(turn, 0..80)).prop_map(|(initial, flags, turns)| {
        Script {
            initial,
            start_ns: 1_700_000_000_000_000_000,
            has_timestamps: flags.0,
            has_ids: flags.1,
            is_whole: flags.2,
            is_opened: flags.3,
            turns,
        }
    })
}

fn tell(packets: &[Packet]) -> (Vec<FlowStory>, Vec<Segment>) {
    let mut segments = Vec::new();
    let stories = trace(packets, |segment| segments.push(*segment));
    (stories, segments)
}

fn check(packets: &[Packet]) -> Result<(), TestCaseError> {
    let mut handed = Handed::default();
    let stories = trace(packets, |segment| handed.note(segment));
    handed.check(&stories).map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn stories_hold_together(script in script(ordinary_step(), passed())) {
        check(&script.packets())?;
    }

    #[test]
    fn stories_hold_together_whatever_comes(
        script in script(
            prop_oneof![ordinary_step().boxed(), wild_step().boxed()],
            prop_oneof![4 => passed(), 1 => any::<i64>()],
        )
    ) {
        check(&script.packets())?;
    }

    #[test]
    fn the_place_in_sequence_space_changes_nothing(
        script in script(ordinary_step(), passed()),
        by in [edge(), edge()],
    ) {
        let packets = script.packets();
        let mut moved = packets.clone();
        for packet in &mut moved {
            let own = usize::from(packet.is_server);
            packet.sequence = packet.sequence.wrapping_add(by[own]);
            let other = by[1 - own];
            packet.acknowledgement = packet.acknowledgement.wrapping_add(other);
            for (left, right) in &mut packet.sacks {
                *left = left.wrapping_add(other);
                *right = right.wrapping_add(other);
            }
        }
        prop_assert_eq!(tell(&packets), tell(&moved));
    }

    #[test]
    fn the_hour_changes_nothing(
        script in script(ordinary_step(), passed()),
        by_ns in -1_800_000_000_000_000_000..1_800_000_000_000_000_000_i64,
    ) {
        let packets = script.packets();
        let mut moved = packets.clone();
        for packet in &mut moved {
            packet.time_ns += by_ns;
        }
        let (stories, segments) = tell(&packets);
        let (mut moved_stories, mut moved_segments) = tell(&moved);
        for segment in &mut moved_segments {
            segment.time_ns -= by_ns;
        }
        for story in &mut moved_stories {
            story.start_ns -= by_ns;
            for side in [&mut story.sides.client, &mut story.sides.server] {
                side.data_first_ns = side.data_first_ns.map(|it| it - by_ns);
                side.data_last_ns = side.data_last_ns.map(|it| it - by_ns);
            }
        }
        prop_assert_eq!((stories, segments), (moved_stories, moved_segments));
    }

    #[test]
    fn the_same_packets_tell_the_same(script in script(ordinary_step(), passed())) {
        let packets = script.packets();
        prop_assert_eq!(tell(&packets), tell(&packets));
    }
}

#[test]
fn every_capture_tells_stories_that_hold_together() {
    let Some(folder) = capture::shared_captures("every_capture_tells_stories") else {
        return;
    };
    let (mut files, mut packets, mut flows, mut refused) = (0, 0, 0, 0);
    for path in capture::list(&folder) {
        let is_reference = path
            .extension()
            .is_some_and(|end| end == "gz" || end == "tsv");
        let is_text = path.extension().is_some_and(|end| end == "md");
        if is_reference || is_text {
            continue;
        }
        let Some((kind, frames)) = capture::read(&path) else {
            refused += 1;
            continue;
        };
        let mut handed = Handed::default();
        let stories = capture::trace(kind, &frames, |_, segment| handed.note(segment));
        let result = handed.check(&stories);
        assert!(result.is_ok(), "{}: {result:?}", path.display());
        files += 1;
        packets += frames.len();
        flows += stories.len();
    }
    println!("{files} files, {packets} packets, {flows} flows; tcpdump refuses {refused} files");
    assert!(files > 150 && flows > 3_000, "{files} files, {flows} flows");
}

/// A conversation without handshake, options or payload.
fn plain(turns: Vec<(bool, i64, Step)>) -> Script {
    let turn = |(is_server, passed_ns, step)| Turn {
        is_server,
        passed_ns,
        step,
    };
    Script {
        initial: [0, 0],
        start_ns: 1_700_000_000_000_000_000,
        has_timestamps: false,
        has_ids: false,
        is_whole: false,
        is_opened: false,
        turns: turns.into_iter().map(turn).collect(),
    }
}

const fn send() -> Step {
    Step::Send {
        length: 1_448,
        is_lost: false,
    }
}

const fn again(back: u32) -> Step {
    Step::Again {
        back,
        length: 1_448,
    }
}

#[test]
fn time_that_was_quiet_before_a_timeout_is_not_lost() {
    let nothing = Step::Send {
        length: 0,
        is_lost: false,
    };
    let copy = Step::Copy {
        back: 0,
        is_elsewhere: false,
    };
    let script = plain(vec![
        (true, 0, send()),
        (false, 0, nothing),
        (false, 1, again(1)),
        (false, 0, send()),
        (false, 0, again(1)),
        (false, 800_000_000, copy),
    ]);
    check(&script.packets()).expect("a budget that sums to the wall time");
}

#[test]
fn times_at_the_end_of_their_range_are_bounded() {
    let script = plain(vec![
        (false, i64::MIN, send()),
        (false, i64::MIN, send()),
        (true, i64::MAX, send()),
        (true, i64::MAX, send()),
        (false, i64::MAX, send()),
    ]);
    check(&script.packets()).expect("a budget that sums to the wall time");
}

#[test]
fn a_dsack_for_what_is_known_to_be_needless_counts_nothing() {
    let ack = |sacks| Step::Ack {
        back: 0,
        window: 1_000,
        sacks,
    };
    let script = plain(vec![
        (false, 0, send()),
        (true, 10_000_000, ack(Vec::new())),
        (false, 10_000_000, again(1_448)),
        (true, 10_000_000, ack(vec![(1_448, 0)])),
    ]);
    let (stories, _) = tell(&script.packets());
    let counts = &stories[0].sides.client.counts;
    assert_eq!(counts.retransmitted_packets, 1);
    assert_eq!(counts.spurious_retransmissions, 1);
}

#[test]
fn a_repeat_before_the_epoch_is_no_fast_retransmission() {
    let mut script = plain(vec![(true, 0, send()), (true, 50_000_000, again(1_448))]);
    script.start_ns = -1_000_000_000;
    let (stories, _) = tell(&script.packets());
    let counts = &stories[0].sides.server.counts;
    assert_eq!(
        (counts.retransmitted_packets, counts.fast_retransmissions),
        (1, 0)
    );
}

#[test]
fn numbers_that_jump_back_again_and_again_hold() {
    let mut turns = Vec::new();
    for _ in 0..12 {
        let by = (1 << 31) + 5_000;
        turns.push((false, 1_000, Step::Jump { by }));
        turns.extend([(false, 1_000, send()), (false, 1_000, send())]);
    }
    check(&plain(turns).packets()).expect("a story that holds together");
    // To just below 0, where numbers began at 2³².
    let mut turns = vec![(false, 0, send())];
    for back in [
        (1_u32 << 31) - 10,
        (1 << 30) + 1_548,
        (1 << 30) + 5_702 + 1_948,
    ] {
        let by = back.wrapping_neg();
        turns.push((false, 1_000, Step::Jump { by }));
        turns.extend([(false, 1_000, send()), (false, 1_000, send())]);
    }
    check(&plain(turns).packets()).expect("a story that holds together");
}

#[test]
fn an_acknowledgement_that_waited_for_a_hole_is_no_round_trip() {
    let ack = |back| Step::Ack {
        back,
        window: 1_000,
        sacks: Vec::new(),
    };
    let lost = Step::Send {
        length: 1_448,
        is_lost: true,
    };
    let script = plain(vec![
        (false, 0, send()),
        (true, 10_000_000, ack(0)),
        (false, 0, lost),
        (false, 0, send()),
        (true, 10_000_000, ack(2 * 1_448)),
        // Two seconds later the hole is filled, and what was behind it acknowledged bit by bit.
        (false, 2_000_000_000, again(2 * 1_448)),
        (true, 10_000_000, ack(1_448)),
        (true, 80_000_000, ack(0)),
    ]);
    let (stories, _) = tell(&script.packets());
    let rtt = &stories[0].sides.client.rtt;
    assert_eq!((rtt.count(), rtt.max_ns()), (2, Some(10_000_000)));
}
