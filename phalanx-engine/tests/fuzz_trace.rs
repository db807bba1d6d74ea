//! The tracer's fuzzer (see `support/fuzz.rs`): changes of the committed exchanges in
//! `tests/corpus/trace`, made by `support/exchange.rs`. And the worst that an attacker can make of
//! one connection: its time per packet and its memory are bounded.

#[path = "support/conversation.rs"]
mod conversation;
#[path = "support/exchange.rs"]
mod exchange;
#[path = "support/fuzz.rs"]
mod fuzz;
#[path = "support/truth.rs"]
mod truth;

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use conversation::{ACK, Packet};
use exchange::Frame;
use fuzz::{Corpus, Random};
use phalanx_common::packet::{Layers, LinkKind};
use phalanx_engine::limits::{APPLICATION_BYTES_MAX, RUN_COUNT_MAX};
use phalanx_engine::record::Decoded;
use phalanx_engine::story::FlowStory;
use phalanx_engine::trace::Tracer;
use truth::Handed;

/// No exchange has more frames, no frame more bytes.
const FRAME_COUNT_MAX: usize = 64;
const FRAME_LENGTH_MAX: usize = 2_048;

/// Most bytes of one flow: the runs of both directions, what its application keeps, and 64 KiB for
/// itself, its times and its copies.
const FLOW_SIZE_MAX: usize = 2 * RUN_COUNT_MAX * 96 + APPLICATION_BYTES_MAX + (64 << 10);

const CORPUS: Corpus = Corpus {
    name: "trace",
    ending: "frames",
};

fn read_seeds() -> Vec<Vec<Frame>> {
    CORPUS.read().iter().map(|it| exchange::read(it)).collect()
}

/// What frames tell, coarsely: which things happened, not with what numbers.
fn tell(frames: &[Frame]) -> u64 {
    let kind = LinkKind::from_linktype(101).expect("raw IP");
    let (mut layers, mut tracer) = (Layers::default(), Tracer::new(1));
    let (mut handed, mut hasher) = (Handed::default(), DefaultHasher::new());
    let mut time_ns = 0_i64;
    let (mut ways, mut marks) = (BTreeSet::new(), BTreeSet::new());
    for (index, frame) in frames.iter().enumerate() {
        time_ns = time_ns.saturating_add(i64::from(frame.passed_us) * 1_000);
        let wire_length = frame.bytes.len() as u32 + u32::from(frame.cut);
        let Ok(decoded) = Decoded::of(&mut layers, &frame.bytes, kind, wire_length) else {
            continue;
        };
        let number = index as u64 + 1;
        let segment = tracer.handle(&decoded.record(number, time_ns, wire_length, &frame.bytes));
        handed.note(&segment);
        ways.insert((segment.class, segment.why));
        marks.extend(segment.marks.iter());
    }
    (ways, marks).hash(&mut hasher);
    let size = tracer.size();
    let mut stories: Vec<FlowStory> = tracer.finish().map(|ended| *ended.into_story()).collect();
    stories.sort_by_key(|story| story.flow);
    handed.check(&stories).expect("stories that hold together");
    assert!(size <= stories.len() * FLOW_SIZE_MAX, "{size} bytes");
    for story in &stories {
        (story.protocol, story.state, story.starts_mid_stream).hash(&mut hasher);
        let budget = story.budget.iter().flat_map(|budget| budget.iter());
        for (bucket, time_ns) in budget {
            (bucket, time_ns > 0).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn run(frames: &[Frame]) -> u64 {
    CORPUS.run(|| exchange::write(frames), || tell(frames))
}

/// Values that sit on the edge of a field's range.
const EDGES: [u8; 12] = [0, 1, 2, 4, 5, 8, 0x10, 0x12, 0x7f, 0x80, 0xf0, 0xff];

/// One to four changes to `seed`; `other` lends frames and bytes.
fn mutate(random: &mut Random, seed: &[Frame], other: &[Frame]) -> Vec<Frame> {
    let mut frames = seed.to_vec();
    for _ in 0..=random.below(4) {
        if random.below(3) == 0 {
            change_order(random, &mut frames, other);
        } else {
            change_frame(random, &mut frames);
        }
    }
    frames.truncate(FRAME_COUNT_MAX);
    frames
}

fn change_order(random: &mut Random, frames: &mut Vec<Frame>, other: &[Frame]) {
    let (at, to) = (random.below(frames.len()), random.below(frames.len()));
    match random.below(7) {
        0 if !other.is_empty() => frames.insert(at, other[random.below(other.len())].clone()),
        1 => frames.splice(at.., other.iter().cloned()).for_each(drop),
        _ if frames.is_empty() => {}
        2 => frames.swap(at, to),
        3 => drop(frames.remove(at)),
        4 => frames.insert(to, frames[at].clone()),
        5 => {
            let waits = [
                0,
                1,
                -1,
                1_000,
                300_000,
                5_000_000,
                -400_000,
                i32::MAX,
                i32::MIN,
            ];
            frames[at].passed_us = waits[random.below(waits.len())];
        }
        _ => frames[at].cut = [0, 1, 100, 0xffff][random.below(4)],
    }
}

fn change_frame(random: &mut Random, frames: &mut [Frame]) {
    if frames.is_empty() {
        return;
    }
    let index = random.below(frames.len());
    let bytes = &mut frames[index].bytes;
    let at = random.below(bytes.len().min(96));
    match random.below(9) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 if at < bytes.len() => bytes[at] = EDGES[random.below(EDGES.len())],
        // Sequence, acknowledgement: a little up or down, or far.
        3 | 4 if bytes.len() >= 32 => {
            let at = 24 + 4 * random.below(2);
            let old = u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let steps = [1, 100, 1_448, 1 << 14, 1 << 30, (1 << 31) - 1, 1 << 31];
            let step: u32 = steps[random.below(steps.len())];
            let sign = [step, step.wrapping_neg()][random.below(2)];
            bytes[at..at + 4].copy_from_slice(&old.wrapping_add(sign).to_be_bytes());
        }
        // Flags, window, total length.
        5 if bytes.len() >= 40 => bytes[33] = random.below(256) as u8,
        6 if bytes.len() >= 40 => {
            let window = [0, 1, 1_000, 0xffff_u16][random.below(4)];
            bytes[34..36].copy_from_slice(&window.to_be_bytes());
        }
        7 if bytes.len() >= 40 => {
            let length = [40, 41, 60, 100, 1_500, 0xffff_u16][random.below(6)];
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        }
        _ => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
    }
    bytes.truncate(FRAME_LENGTH_MAX);
}

#[test]
fn the_corpus_holds_what_the_builders_make() {
    for (name, frames) in exchange::all() {
        let bytes = exchange::write(&frames);
        assert_eq!(exchange::read(&bytes), frames);
        CORPUS.check(name, &bytes);
    }
}

#[test]
fn seeds_and_past_crashes_hold_cut_at_every_byte() {
    for seed in read_seeds() {
        let whole = exchange::write(&seed);
        for end in (0..=whole.len()).rev() {
            run(&exchange::read(&whole[..end]));
        }
    }
}

#[test]
fn invariants_hold_over_mutations() {
    let mutate =
        |random: &mut Random, seed: &Vec<Frame>, other: &Vec<Frame>| mutate(random, seed, other);
    fuzz::search(read_seeds(), |frames| run(frames), mutate);
}

/// Packets of each attack.
const ATTACK_COUNT: u32 = 100_000;

fn segment(sequence: u32, length: u16) -> Packet {
    Packet {
        sequence,
        length,
        flags: ACK,
        window: 1_000,
        ttl: 64,
        ..Packet::default()
    }
}

fn blocks(acknowledgement: u32, sacks: Vec<(u32, u32)>) -> Packet {
    Packet {
        is_server: true,
        acknowledgement,
        flags: ACK,
        window: 1_000,
        ttl: 64,
        sacks,
        ..Packet::default()
    }
}

/// Makes the packets of an attack, by number.
type Attack = Box<dyn Fn(u32) -> Packet>;

/// What makes a sequence space work hardest, by name.
fn attacks() -> Vec<(&'static str, Attack)> {
    const FULL: u32 = RUN_COUNT_MAX as u32 - 2;
    let mix = |at: u32| at.wrapping_mul(0x9e37_79b1) >> 8;
    vec![
        ("in order", Box::new(|at| segment(at * 1_448, 1_448))),
        ("every other byte", Box::new(|at| segment(2 * at, 1))),
        (
            "bytes downwards",
            Box::new(|at| match at {
                0 => segment(0, 1),
                _ => segment(2 * (ATTACK_COUNT - at) + 2, 1),
            }),
        ),
        (
            "bytes anywhere",
            Box::new(move |at| segment(2 * (mix(at) % 50_000), 1)),
        ),
        (
            "bytes in the middle",
            Box::new(|at| {
                let half = at / 2;
                segment(
                    if at % 2 == 0 {
                        2 * half
                    } else {
                        400_000 - 2 * half
                    },
                    1,
                )
            }),
        ),
        (
            "blocks that change",
            Box::new(|at| {
                if at < FULL {
                    return segment(2 * at, 1);
                }
                let left = 2 * (at * 7 % (FULL - 600));
                let block = |by: u32| (left + 2 * by, left + 2 * by + 1_023);
                blocks(0, vec![block(0), block(150), block(300), block(450)])
            }),
        ),
        (
            "super-segments",
            Box::new(|at| {
                if at < FULL {
                    return segment(2 * at, 1);
                }
                segment(at * 13 % (2 * FULL), 1_023)
            }),
        ),
        (
            "holes made and filled",
            Box::new(|at| match at % 1_024 {
                1_023 => segment(at / 1_024 * 2_048, 65_000),
                step => segment(at / 1_024 * 2_048 + 2 * step, 1),
            }),
        ),
        (
            "holes acknowledged",
            Box::new(|at| match at % 1_024 {
                1_023 => blocks(at / 1_024 * 2_048 + 2_046, Vec::new()),
                step => segment(at / 1_024 * 2_048 + 2 * step, 1),
            }),
        ),
        (
            "one byte acknowledged at a time",
            Box::new(|at| {
                if at < FULL {
                    return segment(2 * at, 1);
                }
                let step = (at - FULL) / 2;
                if at % 2 == 0 {
                    segment(2 * (FULL + step), 1)
                } else {
                    blocks(2 * step + 1, vec![(2 * step + 3, 2 * (FULL + step))])
                }
            }),
        ),
    ]
}

#[test]
fn the_worst_of_connections_is_bounded() {
    let kind = LinkKind::from_linktype(101).expect("raw IP");
    for (name, packet) in attacks() {
        let frames: Vec<_> = (0..ATTACK_COUNT).map(|at| packet(at).frame()).collect();
        let (mut layers, mut tracer) = (Layers::default(), Tracer::new(1));
        let (mut worst, mut begun) = (Duration::ZERO, Instant::now());
        let mut total = Duration::ZERO;
        for (index, (bytes, wire_length)) in frames.iter().enumerate() {
            let decoded = Decoded::of(&mut layers, bytes, kind, *wire_length).expect("TCP");
            let number = index as u64 + 1;
            let time_ns = index as i64 * 1_000;
            let record = decoded.record(number, time_ns, *wire_length, bytes);
            let _ = tracer.handle(&record);
            if index % 1_000 == 999 {
                let passed = begun.elapsed();
                (worst, total) = (worst.max(passed), total + passed);
                begun = Instant::now();
            }
        }
        let size = tracer.size();
        println!(
            "{name:<32} {:>8} ns a packet, {:>8} in the worst thousand, {:>8} bytes",
            (total / ATTACK_COUNT).as_nanos(),
            (worst / 1_000).as_nanos(),
            size
        );
        assert!(size <= FLOW_SIZE_MAX, "{name}: {size} bytes");
        // Far above what it takes, optimised or not; what is quadratic takes seconds.
        let limit = Duration::from_micros(500);
        assert!(total / ATTACK_COUNT < limit, "{name}: {total:?}");
    }
}
