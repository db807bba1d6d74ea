//! Captures of several hops that are not as they should be: the report is right or says so.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hops/association.rs"]
mod association;
#[path = "network/folder.rs"]
mod folder;
#[path = "hops/made.rs"]
mod made;
#[path = "hops/told.rs"]
mod told;

use std::collections::BTreeSet;

use association::judge;
use made::{Made, retime};
use phalanx_range::retiming::Retiming;
use phalanx_range::synthesis::{HopProtocol, HopSynthesis, Shares};
use told::{Report, Way, analyze};

const FILE_HEADER_BYTES: usize = 24;
const DAY_NS: i64 = 86_400_000_000_000;
/// As documented: a capture is damaged, all before that counts.
const DAMAGED: Option<i32> = Some(3);
/// As documented: failed, the report is of the captures that could be read.
const FAILED: Option<i32> = Some(1);

fn synthesis(seed: u64) -> HopSynthesis {
    HopSynthesis {
        conversations: 120,
        seed,
        shares: Shares {
            lookup: 0.0,
            datagrams: 0.0,
            echo: 0.0,
            // What is not joined without timestamps is judged elsewhere.
            shifted: 0.0,
            lone: 0.0,
            detour: 0.0,
            ..Shares::default()
        },
        ..HopSynthesis::default()
    }
}

/// The lengths of the records of a capture, each with its header.
fn records(bytes: &[u8]) -> Vec<usize> {
    let mut at = FILE_HEADER_BYTES;
    let mut lengths = Vec::new();
    while at < bytes.len() {
        let kept = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        lengths.push(16 + kept as usize);
        at += 16 + kept as usize;
    }
    lengths
}

fn rewrite(made: &Made, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = made.path(file);
    std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
}

/// All flows are joined, none wrongly, on the path from the client to the server.
fn check_joined(what: &str, report: &Report, made: &Made) {
    let score = judge(report, &made.truth, HopProtocol::Tcp);
    score.print(what);
    assert!(score.wrong.is_empty(), "{what}: joined wrongly");
    assert_eq!(score.found, score.joint, "{what}");
    for told in &report.conversations {
        assert_eq!(told.path, ["hop0", "hop1", "hop2"], "{what}: {}", told.id);
    }
}

/// Sums over all conversations, from one hop to another.
fn sum(report: &Report, enter: &str, leave: &str) -> Way {
    let mut sum = Way::default();
    for told in &report.conversations {
        for (from, to, _, way) in told.ways() {
            if (from, to) == (enter, leave) {
                sum.packets += way.packets;
                sum.lost += way.lost;
                sum.not_captured += way.not_captured;
            }
        }
    }
    sum
}

/// What the legs between two hops lost, towards the server.
fn lost(made: &Made, from: usize, to: usize) -> u64 {
    let own = made
        .truth
        .legs
        .iter()
        .filter(|leg| (leg.from, leg.to) == (from, to));
    own.filter(|leg| !leg.is_reverse).map(|leg| leg.lost).sum()
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let made = Made::new("order", &synthesis(1));
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let files = order.map(|hop| made.files[hop].as_str());
        let report = told::report(&made.folder.0, &files);
        check_joined(&format!("{order:?}"), &report, &made);
        for (from, to) in [(0, 1), (1, 2)] {
            let told = sum(&report, &format!("hop{from}"), &format!("hop{to}"));
            assert_eq!(
                told.lost,
                lost(&made, from, to),
                "{order:?}: {from} to {to}"
            );
        }
    }
}

#[test]
fn the_same_file_twice_is_told_or_harmless() {
    let made = Made::new("twice", &synthesis(2));
    std::fs::copy(made.path("hop0.pcap"), made.path("again.pcap")).unwrap();
    let run = analyze(&made.folder.0, &["hop0.pcap", "again.pcap"], &[]);
    let report = run.report.unwrap();
    let flows = made.truth.flows.iter().filter(|flow| flow.hop == 0).count();
    for told in &report.conversations {
        for (from, to, _, way) in told.ways() {
            let faults = (way.lost, way.reordered, way.duplicated);
            assert_eq!(faults, (0, 0, 0), "{}: {from} to {to}", told.id);
        }
    }
    // One each, or two each that are said to be the same.
    let count = report.conversations.len();
    println!(
        "{count} conversations of {flows} flows, twice; {}",
        run.errors
    );
    assert!(
        count == flows || !run.errors.is_empty() || report.all["warnings"].is_array(),
        "{count} of {flows}, and nothing said"
    );
    let named = analyze(&made.folder.0, &["hop0.pcap", "hop0.pcap"], &[]);
    assert!(named.code.is_some(), "{}", named.errors);
    assert!(named.report.is_some() || !named.errors.is_empty());
}

#[test]
fn a_hop_that_saw_nothing_is_in_no_path() {
    let made = Made::new("nothing", &synthesis(3));
    rewrite(&made, "hop1.pcap", |bytes| {
        bytes[..FILE_HEADER_BYTES].to_vec()
    });
    let report = told::report(&made.folder.0, &made.names());
    assert_eq!(report.hops.len(), 3);
    assert_eq!(report.hop("hop1").unwrap().packets, 0);
    for told in &report.conversations {
        assert_eq!(told.path, ["hop0", "hop2"], "{}", told.id);
    }
    let told = sum(&report, "hop0", "hop2");
    assert_eq!(told.lost, lost(&made, 0, 1) + lost(&made, 1, 2));
}

#[test]
fn a_hop_that_saw_others_is_in_no_path() {
    let made = Made::new("others", &synthesis(4));
    let others = Made::new("others-elsewhere", &synthesis(5));
    std::fs::copy(others.path("hop1.pcap"), made.path("hop1.pcap")).unwrap();
    let report = told::report(&made.folder.0, &made.names());
    let mut joined = 0;
    for told in &report.conversations {
        let hops: BTreeSet<&str> = told.flows.iter().map(|flow| flow.hop.as_str()).collect();
        let is_mixed = hops.len() > 1 && hops.contains("hop1");
        assert!(!is_mixed, "joined wrongly: {told:?}");
        joined += usize::from(hops.len() == 2);
    }
    assert_eq!(joined, made.truth.conversations.len());
}

#[test]
fn captures_of_different_days_are_not_joined() {
    let made = Made::new("today", &synthesis(6));
    let other = Made::new("yesterday", &synthesis(7));
    let back = Retiming {
        offset_ns: -DAY_NS,
        ..Retiming::default()
    };
    retime(&back, &other.path("hop1.pcap"), &made.path("hop1.pcap"));
    let run = analyze(&made.folder.0, &["hop0.pcap", "hop1.pcap"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.errors);
    for told in &run.report.unwrap().conversations {
        let hops: BTreeSet<&str> = told.flows.iter().map(|flow| flow.hop.as_str()).collect();
        assert!(hops.len() < 2, "joined wrongly: {told:?}");
    }
}

/// Blocks of so many records stand before as many that were before them, where the second block
/// begins within this time of the first one's end.
fn disorder(bytes: &[u8], block: usize, within_ns: u64) -> Vec<u8> {
    let mut changed = bytes[..FILE_HEADER_BYTES].to_vec();
    let time_ns = |at: usize| {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4))
    };
    let mut at = FILE_HEADER_BYTES;
    for pair in records(bytes).chunks(2 * block) {
        let lengths: Vec<usize> = pair.chunks(block).map(|block| block.iter().sum()).collect();
        let middle = at + lengths[0];
        let end = at + lengths.iter().sum::<usize>();
        let is_near = middle < end && time_ns(middle) - time_ns(at) <= within_ns;
        let parts = if is_near {
            [middle..end, at..middle]
        } else {
            [at..middle, middle..end]
        };
        parts
            .into_iter()
            .for_each(|part| changed.extend_from_slice(&bytes[part]));
        at = end;
    }
    assert_eq!(changed.len(), bytes.len());
    changed
}

/// As captures with several queues have them.
#[test]
fn records_a_little_out_of_order_change_nothing() {
    let made = Made::new("disorder", &synthesis(8));
    rewrite(&made, "hop1.pcap", |bytes| disorder(&bytes, 1, 2_000_000));
    let report = told::report(&made.folder.0, &made.names());
    check_joined("disorder", &report, &made);
    for (from, to) in [(0, 1), (1, 2)] {
        let told = sum(&report, &format!("hop{from}"), &format!("hop{to}"));
        assert_eq!(told.lost, lost(&made, from, to), "{from} to {to}");
    }
}

/// As when files are put together in a wrong order.
#[test]
fn records_far_out_of_order_are_told() {
    let mut synthesis = synthesis(8);
    // Two flows with the same names would be mixed up before they are joined.
    synthesis.shares.reused = 0.0;
    let made = Made::new("chaos", &synthesis);
    rewrite(&made, "hop1.pcap", |bytes| disorder(&bytes, 200, u64::MAX));
    let run = analyze(&made.folder.0, &made.names(), &[]);
    let report = run.report.unwrap();
    let score = judge(&report, &made.truth, HopProtocol::Tcp);
    assert!(score.wrong.is_empty(), "joined wrongly: {:#?}", score.wrong);
    let hop = &report.all["hops"][1];
    let legs = [(0, 1), (1, 2)].map(|(from, to)| {
        let told = sum(&report, &format!("hop{from}"), &format!("hop{to}"));
        (told.lost, lost(&made, from, to))
    });
    println!("{} of {} joined; lost {legs:?}", score.found, score.joint);
    let is_right = score.found == score.joint && legs.iter().all(|(told, truth)| told == truth);
    let is_told = hop.to_string().contains("back") || run.errors.contains("order");
    assert!(is_right || is_told, "{hop}; {}", run.errors);
}

/// What a damaged file lacks is not lost on the way.
#[test]
fn a_damaged_capture_among_good_ones() {
    let made = Made::new("damaged", &synthesis(9));
    rewrite(&made, "hop1.pcap", |bytes| {
        let lengths = records(&bytes);
        let whole: usize = lengths[..lengths.len() / 2].iter().sum();
        bytes[..FILE_HEADER_BYTES + whole + 21].to_vec()
    });
    let run = analyze(&made.folder.0, &made.names(), &[]);
    assert_eq!(run.code, DAMAGED, "{}", run.errors);
    assert!(run.errors.contains("hop1"), "{}", run.errors);
    let report = run.report.unwrap();
    let joined = report.conversations.iter().filter(|told| {
        let hops: BTreeSet<&str> = told.flows.iter().map(|flow| flow.hop.as_str()).collect();
        hops.contains("hop0") && hops.contains("hop2")
    });
    assert_eq!(joined.count(), made.truth.conversations.len());
    let told = sum(&report, "hop0", "hop1");
    let most = lost(&made, 0, 1);
    println!("{told:?}; {most} were lost, in the whole of it");
    assert!(told.lost <= most, "{told:?}, truth {most} at most");
    let beyond = sum(&report, "hop1", "hop2").lost + sum(&report, "hop0", "hop2").lost;
    assert!(beyond <= most + lost(&made, 1, 2), "{beyond}");
}

#[test]
fn what_is_no_capture_among_good_ones() {
    let made = Made::new("garbage", &synthesis(10));
    rewrite(&made, "hop1.pcap", |_| b"what is this?".repeat(100));
    let run = analyze(&made.folder.0, &made.names(), &[]);
    assert_eq!(run.code, FAILED, "{}", run.errors);
    assert!(run.errors.contains("hop1"), "{}", run.errors);
    let report = run.report.unwrap();
    for told in &report.conversations {
        assert_eq!(told.path, ["hop0", "hop2"], "{}", told.id);
    }
    let told = sum(&report, "hop0", "hop2");
    assert_eq!(told.lost, lost(&made, 0, 1) + lost(&made, 1, 2));
}

/// Any cut, any flipped bit: no crash.
#[test]
fn no_damage_makes_it_fall_over() {
    let mut small = synthesis(11);
    small.conversations = 12;
    let made = Made::new("flipped", &small);
    let whole = std::fs::read(made.path("hop1.pcap")).unwrap();
    let mut random = phalanx_range::random::Random::new(77, 1);
    for case in 0..24 {
        let mut bytes = whole.clone();
        if case % 3 == 0 {
            bytes.truncate(random.next_u32() as usize % bytes.len());
        }
        for _ in 0..case {
            if let Some(last) = bytes.len().checked_sub(1) {
                let at = random.next_u32() as usize % (last + 1);
                bytes[at] ^= 1 << (random.next_u32() % 8);
            }
        }
        std::fs::write(made.path("hop1.pcap"), &bytes).unwrap();
        let run = analyze(&made.folder.0, &made.names(), &[]);
        let code = run
            .code
            .unwrap_or_else(|| panic!("case {case}: killed: {}", run.errors));
        assert!(
            [0, 1, 3].contains(&code),
            "case {case}: {code}: {}",
            run.errors
        );
        assert!(
            !run.errors.contains("panicked"),
            "case {case}: {}",
            run.errors
        );
    }
}

/// A block of a pcapng file, little-endian.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = (12 + padded) as u32;
    let mut block = [kind.to_le_bytes(), length.to_le_bytes()].concat();
    block.extend_from_slice(body);
    block.resize(8 + padded, 0);
    block.extend_from_slice(&length.to_le_bytes());
    block
}

/// Both captures in one file, with the second interface described at first, or with its first
/// packet.
fn merged(captures: [&[u8]; 2], is_late: bool, alone_count: usize) -> Vec<u8> {
    let section = [
        &0x1a2b_3c4d_u32.to_le_bytes()[..],
        &[1, 0, 0, 0],
        &[0xff; 8],
    ];
    // Ethernet, any snap length, times in nanoseconds.
    let interface = block(
        1,
        &[1, 0, 0, 0, 0, 0, 4, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
    );
    let mut packets: Vec<(u64, u32, &[u8])> = Vec::new();
    for (hop, bytes) in (0..).zip(captures) {
        let mut at = FILE_HEADER_BYTES;
        for length in records(bytes) {
            let record = &bytes[at..at + length];
            let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
            let time_ns = u64::from(word(0)) * 1_000_000_000 + u64::from(word(4));
            packets.push((time_ns, hop, record));
            at += length;
        }
    }
    packets.sort_by_key(|it| (it.0, it.1));
    let mut file = block(0x0a0d_0d0a, &section.concat());
    file.extend_from_slice(&interface);
    if !is_late {
        file.extend_from_slice(&interface);
    }
    for (place, (time_ns, hop, record)) in packets.into_iter().enumerate() {
        if place == alone_count && is_late {
            file.extend_from_slice(&interface);
        }
        if place < alone_count && hop == 1 {
            continue;
        }
        let times = [(time_ns >> 32) as u32, time_ns as u32].map(u32::to_le_bytes);
        let mut body = [hop.to_le_bytes(), times[0], times[1]].concat();
        body.extend_from_slice(&record[8..]);
        file.extend_from_slice(&block(6, &body));
    }
    file
}

/// Interfaces may be described anywhere in a file: what stands before the second one counts too.
#[test]
fn an_interface_that_is_described_late_is_a_hop_all_the_same() {
    let mut synthesis = synthesis(12);
    synthesis.requests = (20, 40);
    let made = Made::new("late", &synthesis);
    let captures = ["hop0.pcap", "hop1.pcap"].map(|it| std::fs::read(made.path(it)).unwrap());
    let captures = [&captures[0][..], &captures[1][..]];
    let told = [false, true].map(|is_late| {
        let bytes = merged(captures, is_late, 6_000);
        std::fs::write(made.path("both.pcapng"), bytes).unwrap();
        told::report(&made.folder.0, &["both.pcapng"])
    });
    let joined = |report: &Report| {
        report
            .conversations
            .iter()
            .filter(|it| !it.legs.is_empty())
            .count()
    };
    assert!(joined(&told[0]) > 50, "{}", joined(&told[0]));
    assert_eq!(told[0].all["conversations"], told[1].all["conversations"]);
}

/// Questions and answers every ten seconds, as a hop sees them that is so many milliseconds away,
/// and the times at which its recorder was off.
fn heartbeats(delay_ms: u64, off_s: std::ops::Range<u64>) -> Vec<u8> {
    let mut file = [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1]
        .map(u32::to_le_bytes)
        .concat();
    for index in 0..100_u16 {
        let second = u64::from(index) * 10;
        if off_s.contains(&second) {
            continue;
        }
        let ends = [([10, 0, 0, 1], 5_000), ([10, 0, 0, 2], 6_000)];
        for (from, to, at_ms) in [(0, 1, delay_ms), (1, 0, 20 - delay_ms)] {
            let mut frame = Vec::new();
            let payload = [index.to_be_bytes(), [from as u8; 2]].concat().repeat(10);
            let hop_limit = 64 - if from == 0 { delay_ms } else { 20 - delay_ms } as u8;
            let mut header = etherparse::Ipv4Header::new(
                8 + payload.len() as u16,
                hop_limit,
                etherparse::IpNumber::UDP,
                ends[from].0,
                ends[to].0,
            )
            .unwrap();
            header.identification = 100 + 2 * index + from as u16;
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
                .udp(ends[from].1, ends[to].1)
                .write(&mut frame, &payload)
                .unwrap();
            let times = [1_700_000_000 + second as u32, at_ms as u32 * 1_000_000];
            for word in [times[0], times[1], frame.len() as u32, frame.len() as u32] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            file.extend_from_slice(&frame);
        }
    }
    file
}

/// A flow that was silent for minutes has ended, and what comes then is another. Where the silence
/// is that of one recorder, the other hop knows better.
#[test]
fn a_gap_of_one_recorder_makes_no_second_conversation_and_no_loss() {
    let folder = folder::Folder::new("hops-gap");
    std::fs::write(folder.0.join("client.pcap"), heartbeats(1, 0..0)).unwrap();
    std::fs::write(folder.0.join("server.pcap"), heartbeats(9, 300..700)).unwrap();
    let alone = told::report(&folder.0, &["server.pcap"]);
    assert_eq!(alone.conversations.len(), 2);
    let report = told::report(&folder.0, &["client.pcap", "server.pcap"]);
    assert_eq!(report.all["totals"]["conversations"], 1);
    assert_eq!(report.conversations.len(), 1);
    let told = &report.conversations[0];
    assert_eq!(
        (&told.path[..], told.flows.len()),
        (&["client".to_owned(), "server".to_owned()][..], 2)
    );
    assert_eq!(told.flows[1].packets, Some(120));
    for (from, to, _, way) in told.ways() {
        assert_eq!((way.packets, way.lost), (100, 0), "{from} to {to}");
    }
}
