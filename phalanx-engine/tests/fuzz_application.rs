//! The application side's fuzzer (see `support/fuzz.rs`): changes of the committed dialogues in
//! `tests/corpus/application`, made by `support/dialogue.rs`.

#[path = "support/dialogue.rs"]
mod dialogue;
#[path = "support/fuzz.rs"]
mod fuzz;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use dialogue::{Dialogue, Piece};
use fuzz::{Corpus, Random};
use phalanx_engine::application::{Application, ApplicationStory};
use phalanx_engine::limits::{
    APPLICATION_BYTES_MAX, APPLICATION_EXAMPLE_COUNT_MAX, DNS_NAME_TEXT_LENGTH_MAX,
    HTTP_HOST_LENGTH_MAX, HTTP_PATH_LENGTH_MAX, TLS_ALPN_LENGTH_MAX, TLS_SERVER_NAME_LENGTH_MAX,
};
use phalanx_engine::{Side, Sides};

/// No dialogue has more pieces, no piece more bytes.
const PIECE_COUNT_MAX: usize = 64;
const PIECE_LENGTH_MAX: usize = 20_000;

const CORPUS: Corpus = Corpus {
    name: "application",
    ending: "flow",
};

fn read_seeds() -> Vec<Dialogue> {
    let read = |bytes: &Vec<u8>| Dialogue::read(bytes).expect("a seed");
    CORPUS.read().iter().map(read).collect()
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

fn run(dialogue: &Dialogue) -> u64 {
    let tell_and_check = || {
        let story = tell(dialogue);
        check(&story);
        way(&story)
    };
    CORPUS.run(|| dialogue.write(), tell_and_check)
}

/// Values that sit on the edge of a field's range, or end a line.
const EDGES: [u8; 12] = [0, 1, 2, 3, 0x16, 0x0a, 0x0d, 0x20, 0x3a, 0x7f, 0xc0, 0xff];

/// One to four changes to `seed`; `other` lends pieces and bytes.
fn mutate(random: &mut Random, seed: &Dialogue, other: &Dialogue) -> Dialogue {
    let mut dialogue = seed.clone();
    for _ in 0..=random.below(4) {
        if random.below(3) == 0 {
            change_order(random, &mut dialogue, other);
        } else {
            change_bytes(random, &mut dialogue, other);
        }
    }
    dialogue.pieces.truncate(PIECE_COUNT_MAX);
    dialogue
}

fn change_order(random: &mut Random, dialogue: &mut Dialogue, other: &Dialogue) {
    let pieces = &mut dialogue.pieces;
    let (at, to) = (random.below(pieces.len()), random.below(pieces.len()));
    match random.below(9) {
        0 if !other.pieces.is_empty() => {
            let lent = other.pieces[random.below(other.pieces.len())].clone();
            pieces.insert(at, lent);
        }
        _ if pieces.is_empty() => {}
        1 => pieces.swap(at, to),
        2 => drop(pieces.remove(at)),
        3 => pieces.insert(to, pieces[at].clone()),
        4 => {
            let length = pieces[at].bytes.len();
            let tail = pieces[at].bytes.split_off(random.below(length));
            let piece = Piece {
                jump: 0,
                cut: 0,
                bytes: tail,
                ..pieces[at].clone()
            };
            pieces.insert(at + 1, piece);
        }
        5 => {
            let count = 1 << random.below(6);
            let copies = vec![pieces[at].clone(); count];
            pieces.splice(at..at, copies);
        }
        6 => pieces[at].jump = [1, 7, 0x7fff, 0x8001, 0x8020, 0xffff][random.below(6)],
        7 => pieces[at].cut = [1, 100, 0xffff][random.below(3)],
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

fn change_bytes(random: &mut Random, dialogue: &mut Dialogue, other: &Dialogue) {
    if dialogue.pieces.is_empty() || other.pieces.is_empty() {
        return;
    }
    let lender = &other.pieces[random.below(other.pieces.len())].bytes;
    let index = random.below(dialogue.pieces.len());
    let bytes = &mut dialogue.pieces[index].bytes;
    let at = random.below(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 if at < bytes.len() => bytes[at] = EDGES[random.below(EDGES.len())],
        3 if at + 1 < bytes.len() => {
            let length = random.below(3) * 0x7f80 + random.below(64);
            bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        }
        4 => {
            let from = random.below(lender.len());
            let count = 1 + random.below(64);
            bytes.splice(at..at, lender.iter().skip(from).take(count).copied());
        }
        5 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            // Long runs, as long names and lines are.
            let filler = EDGES[random.below(EDGES.len())];
            let count = random.below(100) << (2 * random.below(4));
            bytes.splice(at..at, std::iter::repeat_n(filler, count));
        }
    }
    bytes.truncate(PIECE_LENGTH_MAX);
}

#[test]
fn the_corpus_holds_what_the_builders_make() {
    for (name, dialogue) in dialogue::all() {
        let bytes = dialogue.write();
        assert_eq!(Dialogue::read(&bytes).as_ref(), Some(&dialogue));
        CORPUS.check(name, &bytes);
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
    fuzz::search(read_seeds(), run, mutate);
}
