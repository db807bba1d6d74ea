//! The reassembler's fuzzer (see `support/fuzz.rs`): changes of fragmented datagrams.

#[expect(dead_code, reason = "its seeds are not made to files")]
#[path = "support/fuzz.rs"]
mod fuzz;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use fuzz::{Corpus, Random};
use phalanx_common::packet::{Layers, LinkKind};
use phalanx_engine::fragment::{Fragment, Reassembler, Taken, find, is_fragment};
use phalanx_engine::limits::{FRAGMENT_BYTES_MAX, FRAGMENT_DATAGRAM_COUNT_MAX};

/// No capture has more frames, no frame more bytes.
const FRAME_COUNT_MAX: usize = 600;
const FRAME_LENGTH_MAX: usize = 2_000;
// Captures reach the eviction.
const _: () = assert!(FRAGMENT_DATAGRAM_COUNT_MAX < FRAME_COUNT_MAX);

const KINDS: [LinkKind; 4] = [
    LinkKind::None,
    LinkKind::Ethernet,
    LinkKind::Cooked,
    LinkKind::Ppp,
];

/// One frame of an input.
#[derive(Clone, Debug, Default)]
struct Frame {
    kind: u8,
    /// Seconds since the frame before.
    step: u8,
    /// Bytes that were not captured.
    cut: u16,
    bytes: Vec<u8>,
}

type Capture = Vec<Frame>;

const CORPUS: Corpus = Corpus {
    name: "fragment",
    ending: "frames",
};

fn write(capture: &Capture) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in capture {
        out.extend([frame.kind, frame.step]);
        out.extend(frame.cut.to_be_bytes());
        out.extend((frame.bytes.len() as u16).to_be_bytes());
        out.extend(&frame.bytes);
    }
    out
}

fn read(mut bytes: &[u8]) -> Capture {
    let mut capture = Capture::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<6>() {
        let length = usize::from(u16::from_be_bytes([head[4], head[5]])).min(rest.len());
        capture.push(Frame {
            kind: head[0],
            step: head[1],
            cut: u16::from_be_bytes([head[2], head[3]]),
            bytes: rest[..length].to_vec(),
        });
        bytes = &rest[length..];
    }
    capture
}

fn ipv4(identification: u8, start: usize, has_more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let field = (start / 8) as u16 | u16::from(has_more) << 13;
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, identification]);
    bytes.extend(field.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend(payload);
    bytes
}

fn ipv6(identification: u8, start: usize, has_more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((16 + payload.len() as u16).to_be_bytes());
    bytes.extend([60, 64]);
    bytes.extend([0xfd; 32]);
    bytes.extend([44, 0, 1, 4, 0, 0, 0, 0, protocol, 0]);
    bytes.extend((start as u16 | u16::from(has_more)).to_be_bytes());
    bytes.extend([0, 0, 0, identification]);
    bytes.extend(payload);
    bytes
}

/// UDP, or GRE with an inner packet that is a fragment itself, in pieces; below each link layer.
fn seeds() -> Vec<Capture> {
    let udp = [&[0, 9, 0, 53, 1, 0, 0, 0][..], &[7; 248]].concat();
    let gre = [&[0, 0, 8, 0][..], &ipv4(9, 0, true, 17, &udp)].concat();
    let links: [&[u8]; 4] = [
        &[],
        &[2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0x08, 0x00],
        &[0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 0x08, 0x00],
        &[0x00, 0x21],
    ];
    let mut seeds = Vec::new();
    for (kind, link) in (0_u8..).zip(links) {
        for (protocol, whole) in [(17, &udp), (47, &gre)] {
            for make in [ipv4, ipv6] {
                let frame = |start: usize| Frame {
                    kind,
                    step: 1,
                    cut: 0,
                    bytes: {
                        let end = whole.len().min(start + 64);
                        let piece = &whole[start..end];
                        [link, &make(3, start, end < whole.len(), protocol, piece)].concat()
                    },
                };
                seeds.push((0..whole.len()).step_by(64).map(frame).collect());
            }
        }
    }
    seeds.extend(CORPUS.read().iter().map(|it| read(it)));
    seeds
}

/// What a capture's frames came to, and the checks that hold for any.
struct Check {
    reassembler: Reassembler,
    layers: Layers,
    /// Fragments taken, and those that came back.
    kept: u64,
    accounted: u64,
}

impl Check {
    fn take(&mut self, fragment: &Fragment<'_>) {
        let taken = self.reassembler.take(fragment);
        self.kept += u64::from(taken == Taken::Kept);
        assert!(self.reassembler.size() <= FRAGMENT_BYTES_MAX);
    }

    fn settle(&mut self) {
        while self.reassembler.has_released() {
            for release in self.reassembler.released() {
                self.accounted += u64::from(release.unused);
                let Some(datagram) = release.datagram else {
                    continue;
                };
                self.accounted += u64::from(datagram.fragment_count.max(1));
                assert!(datagram.bytes.len() <= datagram.wire_length as usize);
                assert!(datagram.wire_length <= 65_535 + 40 + 4 * 2_048);
                let decoded = datagram.decode(&mut self.layers);
                if let Ok(decoded) = &decoded {
                    let record = decoded.record(1, 0, datagram.wire_length, &datagram.bytes);
                    assert!(record.payload().len() <= datagram.bytes.len());
                }
                if let Some(inner) = datagram.inner_fragment(&mut self.layers, decoded.err()) {
                    self.take(&inner);
                }
            }
        }
    }
}

/// How a capture was counted, coarsely.
fn way(capture: &Capture) -> u64 {
    let mut check = Check {
        reassembler: Reassembler::new(),
        layers: Layers::default(),
        kept: 0,
        accounted: 0,
    };
    let mut time_ns = 0_i64;
    for (number, frame) in (1..).zip(capture) {
        time_ns = time_ns.saturating_add(i64::from(frame.step) << 30);
        let kind = KINDS[usize::from(frame.kind) % KINDS.len()];
        let bytes = &frame.bytes[..];
        let wire_length = bytes.len() as u32 + u32::from(frame.cut);
        let error = check.layers.parse(bytes, kind, wire_length).err();
        if is_fragment(&mut check.layers, error, bytes, kind, wire_length)
            && let Some(place) = find(&mut check.layers, bytes, kind, wire_length)
        {
            check.take(&Fragment {
                hop: 0,
                number,
                time_ns,
                wire_length,
                bytes,
                place,
            });
        }
        check.settle();
    }
    check.reassembler.finish(capture.len() as u64);
    check.settle();
    check.reassembler.finish(capture.len() as u64);
    check.settle();
    assert!(check.reassembler.is_empty());
    assert_eq!(check.reassembler.size(), 0);
    assert_eq!(check.kept, check.accounted);
    let mut hasher = DefaultHasher::new();
    for (_, count) in check.reassembler.counts().named() {
        (u64::BITS - count.leading_zeros()).hash(&mut hasher);
    }
    hasher.finish()
}

fn run(capture: &Capture) -> u64 {
    CORPUS.run(|| write(capture), || way(capture))
}

const EDGES: [u8; 10] = [0, 1, 7, 8, 0x1f, 0x20, 0x3f, 0x45, 0x60, 0xff];

/// One to six changes to `seed`; `other` lends frames.
fn mutate(random: &mut Random, seed: &Capture, other: &Capture) -> Capture {
    let mut capture = seed.clone();
    for _ in 0..=random.below(6) {
        if random.below(2) == 0 {
            change_order(random, &mut capture, other);
        } else {
            change_frame(random, &mut capture);
        }
    }
    capture.truncate(FRAME_COUNT_MAX);
    capture
}

fn change_order(random: &mut Random, capture: &mut Capture, other: &Capture) {
    let (at, to) = (random.below(capture.len()), random.below(capture.len()));
    match random.below(6) {
        0 if !other.is_empty() => {
            let from = random.below(other.len());
            capture.splice(at..at, other[from..].iter().cloned());
        }
        _ if capture.is_empty() => {}
        1 => capture.swap(at, to),
        2 => drop(capture.remove(at)),
        3 => capture.insert(to, capture[at].clone()),
        4 => capture.reverse(),
        // Many datagrams that differ in one byte.
        _ => {
            let place = random.below(capture[at].bytes.len());
            for value in 0..=255 {
                let mut frame = capture[at].clone();
                if let Some(byte) = frame.bytes.get_mut(place) {
                    *byte = value;
                }
                capture.push(frame);
            }
        }
    }
}

fn change_frame(random: &mut Random, capture: &mut Capture) {
    let at = random.below(capture.len());
    let Some(mut frame) = capture.get(at).cloned() else {
        return;
    };
    let place = random.below(frame.bytes.len().min(80));
    let edge = EDGES[random.below(EDGES.len())];
    match random.below(6) {
        0 => frame.step = edge,
        1 => frame.cut = random.below(1 << 16) as u16 & u16::from(edge) << 3,
        2 => frame.bytes.truncate(random.below(frame.bytes.len() + 1)),
        3 if frame.bytes.len() < FRAME_LENGTH_MAX => frame.bytes.extend([edge; 100]),
        4 if !frame.bytes.is_empty() => frame.bytes[place] ^= 1 << random.below(8),
        _ if !frame.bytes.is_empty() => frame.bytes[place] = edge,
        _ => {}
    }
    capture[at] = frame;
}

#[test]
fn any_fragments_keep_within_bounds_and_are_accounted_for() {
    fuzz::search(seeds(), run, mutate);
}
