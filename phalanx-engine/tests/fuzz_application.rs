//! The application side's fuzzer: mutations of the committed dialogues in
//! `tests/corpus/application` (made by `support/dialogue.rs`), keeping as a new seed whatever is
//! told in a new way. It runs for `PHALANX_FUZZ_SECONDS` (2 by default) from `PHALANX_FUZZ_SEED`;
//! what breaks an invariant is written beside the seeds and replayed from then on.

#[path = "support/dialogue.rs"]
mod dialogue;

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dialogue::{Dialogue, Piece};
use phalanx_engine::application::{Application, ApplicationStory};
use phalanx_engine::limits::{
    APPLICATION_BYTES_MAX, APPLICATION_EXAMPLE_COUNT_MAX, DNS_NAME_TEXT_LENGTH_MAX,
    HTTP_HOST_LENGTH_MAX, HTTP_PATH_LENGTH_MAX, TLS_ALPN_LENGTH_MAX, TLS_SERVER_NAME_LENGTH_MAX,
};
use phalanx_engine::{Side, Sides};

/// Seeds that are kept; what is found beyond is tried once and dropped.
const SEED_COUNT_MAX: usize = 20_000;
/// No dialogue has more pieces, no piece more bytes.
const PIECE_COUNT_MAX: usize = 64;
const PIECE_LENGTH_MAX: usize = 20_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/application")
}

/// The committed seeds and past crashes: files named `NAME.flow`, sorted.
fn read_seeds() -> Vec<Dialogue> {
    let entries = std::fs::read_dir(corpus()).expect("read corpus");
    let paths = entries.map(|entry| entry.expect("entry of the corpus").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "flow"))
        .collect();
    paths.sort();
    let read = |path| Dialogue::read(&std::fs::read(path).expect("read seed")).expect("a seed");
    paths.iter().map(read).collect()
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        let number = value.parse();
        number.unwrap_or_else(|_| panic!("{name}={value}: not a number"))
    })
}

/// What a dialogue tells; bounds are checked after each piece. Time stands still.
fn tell(dialogue: &Dialogue) -> ApplicationStory {
    let mut flow = Application::new(dialogue.protocol, 40_000, dialogue.server_port);
    let mut ends = Sides::<u64>::default();
    for piece in &dialogue.pieces {
        let (side, bytes) = (piece.side, piece.bytes.as_slice());
        let length = bytes.len() as u32 + u32::from(piece.cut);
        let end = ends.get_mut(side);
        let jump = u64::from(piece.jump);
        let offset = match jump {
            0..0x8000 => end.saturating_add(jump),
            0xffff => u64::MAX - 10,
            _ => end.saturating_sub(jump - 0x8000),
        };
        // A piece out of order is not the end.
        *end = (*end).max(offset.saturating_add(length.into()));
        if dialogue.protocol == 17 {
            flow.datagram(side, bytes, length, 1_000, 1);
        } else {
            flow.stream(side, offset, bytes, length, 1_000, 1);
        }
        let size = flow.size();
        assert!(size <= APPLICATION_BYTES_MAX, "{size} bytes");
    }
    flow.finish()
}

fn check_text(text: &str, length_max: usize) {
    let is_printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    assert!(is_printable && text.len() <= length_max, "{text:?}");
}

/// Checks what has to be true of any story.
fn check(story: &ApplicationStory) {
    if let Some(dns) = &story.dns {
        let counts = &dns.counts;
        assert_eq!(counts.queries, counts.answered + counts.unanswered);
        let answers = counts.answered + counts.unmatched + counts.continuations;
        assert_eq!(counts.answers, answers);
        assert_eq!(dns.delays.count, counts.answered);
        assert!(dns.first.len() <= APPLICATION_EXAMPLE_COUNT_MAX);
        for exchange in dns.first.iter().chain(&dns.worst) {
            check_text(&exchange.name, DNS_NAME_TEXT_LENGTH_MAX);
        }
    }
    if let Some(tls) = &story.tls {
        for alpn in [&tls.alpn_offered, &tls.alpn_chosen].into_iter().flatten() {
            check_text(alpn, TLS_ALPN_LENGTH_MAX);
        }
        if let Some(name) = &tls.server_name {
            check_text(name, TLS_SERVER_NAME_LENGTH_MAX);
        }
    }
    for http in [&story.http, &story.inner_http].into_iter().flatten() {
        assert_eq!(
            http.requests,
            http.responses - http.unmatched + http.unanswered
        );
        assert!(http.first.len() <= APPLICATION_EXAMPLE_COUNT_MAX);
        for exchange in http.first.iter().chain(&http.worst) {
            check_text(&exchange.path, HTTP_PATH_LENGTH_MAX);
            check_text(exchange.host.as_deref().unwrap_or(""), HTTP_HOST_LENGTH_MAX);
        }
    }
}

/// A count, coarsely.
const fn scale(count: u32) -> u32 {
    u32::BITS - count.leading_zeros()
}

/// What a story tells, coarsely: which things happened, not with what names.
fn way(story: &ApplicationStory) -> u64 {
    let mut hasher = DefaultHasher::new();
    story.protocol.hash(&mut hasher);
    if let Some(dns) = &story.dns {
        let counts = &dns.counts;
        [
            counts.queries,
            counts.retries,
            counts.answered,
            counts.unmatched,
        ]
        .map(scale)
        .hash(&mut hasher);
        [
            counts.continuations,
            counts.truncated,
            counts.malformed,
            counts.cut,
        ]
        .map(scale)
        .hash(&mut hasher);
        dns.rcodes.len().hash(&mut hasher);
    }
    if let Some(tls) = &story.tls {
        (
            tls.server_name.is_some(),
            tls.alpn_offered.is_some(),
            tls.alpn_chosen.is_some(),
        )
            .hash(&mut hasher);
        (
            tls.client_hello.is_some(),
            tls.hello_retry.is_some(),
            tls.server_hello.is_some(),
        )
            .hash(&mut hasher);
        (
            tls.is_resumed,
            tls.has_early_data,
            tls.is_cut,
            tls.alerts.len(),
        )
            .hash(&mut hasher);
        let data = tls.application_data;
        (data.client.is_some(), data.server.is_some()).hash(&mut hasher);
    }
    for http in [&story.http, &story.inner_http].into_iter().flatten() {
        [http.requests, http.unanswered, http.unmatched, http.cut]
            .map(scale)
            .hash(&mut hasher);
        http.status_classes.map(scale).hash(&mut hasher);
        http.is_tunnel.hash(&mut hasher);
    }
    if let Some(quic) = &story.quic {
        (
            quic.client_initial.is_some(),
            quic.server_hello.is_some(),
            quic.has_early_data,
        )
            .hash(&mut hasher);
        (quic.retry.is_some(), quic.versions_offered.len()).hash(&mut hasher);
        (quic.short.client.is_some(), quic.short.server.is_some()).hash(&mut hasher);
        (quic.spin.usage as u8, scale(quic.spin.refused_count)).hash(&mut hasher);
    }
    hasher.finish()
}

/// Runs one dialogue; one that breaks an invariant is kept in the corpus.
fn run(dialogue: &Dialogue) -> u64 {
    let result = std::panic::catch_unwind(|| {
        let story = tell(dialogue);
        check(&story);
        way(&story)
    });
    result.unwrap_or_else(|panic| {
        let bytes = dialogue.write();
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let name = format!("crash_{:016x}.flow", hasher.finish());
        std::fs::write(corpus().join(&name), bytes).expect("write crash");
        println!("kept as {name}; commit it with the fix");
        std::panic::resume_unwind(panic)
    })
}

/// A seeded source of mutations: the same seed makes the same dialogues.
struct Mutator {
    state: u64,
}

/// Values that sit on the edge of a field's range, or end a line.
const EDGES: [u8; 12] = [0, 1, 2, 3, 0x16, 0x0a, 0x0d, 0x20, 0x3a, 0x7f, 0xc0, 0xff];

impl Mutator {
    /// A number below `bound` (SplitMix64).
    const fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        if bound == 0 {
            0
        } else {
            (mixed % bound as u64) as usize
        }
    }

    /// One to four changes to `seed`; `other` lends pieces and bytes.
    fn mutate(&mut self, seed: &Dialogue, other: &Dialogue) -> Dialogue {
        let mut dialogue = seed.clone();
        for _ in 0..=self.below(4) {
            if self.below(3) == 0 {
                self.change_order(&mut dialogue, other);
            } else {
                self.change_bytes(&mut dialogue, other);
            }
        }
        dialogue.pieces.truncate(PIECE_COUNT_MAX);
        dialogue
    }

    fn change_order(&mut self, dialogue: &mut Dialogue, other: &Dialogue) {
        let pieces = &mut dialogue.pieces;
        let (at, to) = (self.below(pieces.len()), self.below(pieces.len()));
        match self.below(9) {
            0 if !other.pieces.is_empty() => {
                let lent = other.pieces[self.below(other.pieces.len())].clone();
                pieces.insert(at, lent);
            }
            _ if pieces.is_empty() => {}
            1 => pieces.swap(at, to),
            2 => drop(pieces.remove(at)),
            3 => pieces.insert(to, pieces[at].clone()),
            4 => {
                let length = pieces[at].bytes.len();
                let tail = pieces[at].bytes.split_off(self.below(length));
                let piece = Piece {
                    jump: 0,
                    cut: 0,
                    bytes: tail,
                    ..pieces[at].clone()
                };
                pieces.insert(at + 1, piece);
            }
            5 => {
                let count = 1 << self.below(6);
                let copies = vec![pieces[at].clone(); count];
                pieces.splice(at..at, copies);
            }
            6 => pieces[at].jump = [1, 7, 0x7fff, 0x8001, 0x8020, 0xffff][self.below(6)],
            7 => pieces[at].cut = [1, 100, 0xffff][self.below(3)],
            _ => {
                let side = pieces[at].side;
                pieces[at].side = if side == Side::Client {
                    Side::Server
                } else {
                    Side::Client
                };
            }
        }
    }

    fn change_bytes(&mut self, dialogue: &mut Dialogue, other: &Dialogue) {
        if dialogue.pieces.is_empty() || other.pieces.is_empty() {
            return;
        }
        let lender = &other.pieces[self.below(other.pieces.len())].bytes;
        let index = self.below(dialogue.pieces.len());
        let bytes = &mut dialogue.pieces[index].bytes;
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 if at < bytes.len() => bytes[at] = EDGES[self.below(EDGES.len())],
            3 if at + 1 < bytes.len() => {
                let length = self.below(3) * 0x7f80 + self.below(64);
                bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            }
            4 => {
                let from = self.below(lender.len());
                let count = 1 + self.below(64);
                bytes.splice(at..at, lender.iter().skip(from).take(count).copied());
            }
            5 => {
                let end = (at + 1 + self.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                // Long runs, as long names and lines are.
                let filler = EDGES[self.below(EDGES.len())];
                let count = self.below(100) << (2 * self.below(4));
                bytes.splice(at..at, std::iter::repeat_n(filler, count));
            }
        }
        bytes.truncate(PIECE_LENGTH_MAX);
    }
}

#[test]
fn the_corpus_holds_what_the_builders_make() {
    let is_written = std::env::var_os("PHALANX_WRITE_CORPUS").is_some();
    for (name, dialogue) in dialogue::all() {
        let path = corpus().join(format!("{name}.flow"));
        let bytes = dialogue.write();
        assert_eq!(Dialogue::read(&bytes).as_ref(), Some(&dialogue));
        if is_written {
            std::fs::create_dir_all(corpus()).expect("make corpus");
            std::fs::write(&path, &bytes).expect("write seed");
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        let remedy = "run this test with PHALANX_WRITE_CORPUS=1";
        assert!(committed == bytes, "{}: differs; {remedy}", path.display());
    }
}

#[test]
fn seeds_and_past_crashes_hold_cut_at_every_byte() {
    for seed in read_seeds() {
        let whole = seed.write();
        for end in (0..=whole.len()).rev() {
            if let Some(dialogue) = Dialogue::read(&whole[..end]) {
                run(&dialogue);
            }
        }
    }
}

#[test]
fn a_stream_tells_the_same_however_it_is_cut() {
    for (name, whole) in dialogue::all() {
        if whole.protocol != 6 {
            continue;
        }
        let story = tell(&whole);
        for size in [1, 2, 3, 5, 16, 40] {
            // Where a body has no length, only the begin of a segment ends it; a session that
            // turns to TLS does so within a count of segments.
            if ["http_until_close", "mail_to_tls", "http_upgrade"].contains(&name) {
                continue;
            }
            let pieces = whole.pieces.iter().flat_map(|piece| {
                piece.bytes.chunks(size).map(|bytes| Piece {
                    bytes: bytes.to_vec(),
                    ..piece.clone()
                })
            });
            let cut = Dialogue {
                pieces: pieces.collect(),
                ..whole.clone()
            };
            assert_eq!(tell(&cut), story, "{name} in pieces of {size}");
        }
    }
}

#[test]
fn invariants_hold_over_mutations() {
    let budget = Duration::from_secs(number("PHALANX_FUZZ_SECONDS", 2));
    let seed = number("PHALANX_FUZZ_SEED", 1);
    let mut mutator = Mutator {
        state: seed ^ 0x9e37_79b9_7f4a_7c15,
    };
    let mut seeds = read_seeds();
    let mut ways: HashSet<u64> = seeds.iter().map(run).collect();
    let begun = (seeds.len(), Instant::now());
    let mut run_count = 0_u64;
    // At least one round, whatever the budget.
    while run_count == 0 || begun.1.elapsed() < budget {
        for _ in 0..1_000 {
            let (from, other) = (mutator.below(seeds.len()), mutator.below(seeds.len()));
            let mutated = mutator.mutate(&seeds[from], &seeds[other]);
            run_count += 1;
            if ways.insert(run(&mutated)) && seeds.len() < SEED_COUNT_MAX {
                seeds.push(mutated);
            }
        }
    }
    println!(
        "{run_count} dialogues in {budget:?}, {} ways to tell found from {} seeds",
        ways.len(),
        begun.0
    );
    // A fuzzer that finds nothing new fuzzes nothing.
    assert!(ways.len() > 4 * begun.0, "only {} ways found", ways.len());
}
