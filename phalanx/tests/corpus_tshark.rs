//! The rules of Wireshark beside tshark 4.0.17 itself: every column of every TCP frame of the
//! reference results.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/captures.rs"]
mod captures;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;

use phalanx::analysis::walk;
use phalanx_engine::wireshark::{Analysis, AnalysisFlag, Wireshark};

/// Columns beside the flags.
const VALUES: [&str; 5] = [
    "duplicate_ack_num",
    "acks_frame",
    "ack_rtt",
    "initial_rtt",
    "bytes_in_flight",
];

/// Times may differ by a microsecond: the reference is rounded.
const TIME_SLACK_NS: i64 = 1_000;

/// Differences that are known: file, column, how many, and why.
const KNOWN: &[(&str, &str, usize, &str)] = &[
    (
        "gopacket/layers__testdata__linux_sll_oversized_addr.pcapng",
        "bytes_in_flight",
        30,
        "a damaged SYN-ACK in the middle: Wireshark counts from another base afterwards",
    ),
    (
        "suricata-verify/transform-base64-7296__input.pcap",
        "ack_rtt",
        2,
        "fractions of more than a second: Wireshark subtracts them as they are",
    ),
    (
        "suricata-verify/transform-base64-7296__input.pcap",
        "ack_lost_segment",
        1,
        "one of its packets has a TCP header that Wireshark refuses and we do not see",
    ),
    (
        "suricata-verify/transform-base64-7296__input.pcap",
        "duplicate_ack_num",
        1,
        "as above",
    ),
    (
        "tcpdump/beep-oobr.pcap",
        "bytes_in_flight",
        1,
        "Wireshark does not know the length of a segment whose IP length is a lie",
    ),
];

/// A frame of the reference: its columns by name.
type Row = BTreeMap<String, String>;

fn reference(path: &Path) -> BTreeMap<u64, Row> {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let row = |line: &str| {
        let row: Row = names
            .iter()
            .zip(line.split('\t'))
            .map(|(name, value)| ((*name).to_owned(), value.to_owned()))
            .collect();
        (row["frame.number"].parse().unwrap(), row)
    };
    lines.map(row).collect()
}

fn nanoseconds(text: &str) -> Option<i64> {
    let (seconds, rest) = text.split_once('.')?;
    let rest: i64 = format!("{rest:0<9}").get(..9)?.parse().ok()?;
    Some(seconds.trim_start_matches('-').parse::<i64>().ok()? * 1_000_000_000 + rest)
}

#[derive(Default)]
struct Tally {
    /// By column: theirs, ours, both.
    columns: BTreeMap<String, [usize; 3]>,
    frames: usize,
    equal_frames: usize,
    skipped: usize,
    /// By file and column, with some frames.
    differences: BTreeMap<(String, String), Vec<u64>>,
}

impl Tally {
    fn note(&mut self, file: &str, column: &str, frame: u64, theirs: bool, ours: bool, same: bool) {
        let counts = self.columns.entry(column.to_owned()).or_default();
        counts[0] += usize::from(theirs);
        counts[1] += usize::from(ours);
        counts[2] += usize::from(theirs && ours && same);
        if !same {
            let key = (file.to_owned(), column.to_owned());
            self.differences.entry(key).or_default().push(frame);
        }
    }
}

/// Compares one frame; whether all is equal.
fn compare(tally: &mut Tally, file: &str, frame: u64, row: &Row, ours: &Analysis) -> bool {
    let mut is_equal = true;
    let field = |name: &str| {
        row.get(&format!("tcp.analysis.{name}"))
            .map_or("", |it| it.as_str())
    };
    for flag in AnalysisFlag::ALL {
        let theirs = !field(flag.name()).is_empty();
        let same = theirs == ours.flags.has(flag);
        tally.note(file, flag.name(), frame, theirs, ours.flags.has(flag), same);
        is_equal &= same;
    }
    for name in VALUES {
        let theirs = field(name);
        let (is_told, same) = match name {
            "duplicate_ack_num" => number(theirs, ours.duplicate_ack_number.map(u64::from)),
            "acks_frame" => number(theirs, ours.acks_frame),
            "bytes_in_flight" => number(theirs, ours.bytes_in_flight.map(u64::from)),
            "ack_rtt" => time(theirs, ours.ack_rtt_ns),
            _ => time(theirs, ours.initial_rtt_ns),
        };
        tally.note(file, name, frame, !theirs.is_empty(), is_told, same);
        is_equal &= same;
    }
    is_equal
}

fn number(theirs: &str, ours: Option<u64>) -> (bool, bool) {
    (ours.is_some(), theirs.parse().ok() == ours)
}

fn time(theirs: &str, ours: Option<i64>) -> (bool, bool) {
    let same = match (nanoseconds(theirs), ours) {
        (Some(theirs), Some(ours)) => theirs.abs_diff(ours.abs()) <= TIME_SLACK_NS as u64,
        (None, None) => true,
        _ => false,
    };
    (ours.is_some(), same)
}

fn compare_file(tally: &mut Tally, folder: &Path, file: &str) {
    let rows = reference(&folder.join(format!("ref/{file}.tshark.tsv.gz")));
    let mut wireshark = Wireshark::new(1);
    let mut streams: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let request = captures::request(&folder.join(file), 1);
    walk(&request, |told| {
        if let Ok((record, _)) = &told.packet
            && let Some(ours) = wireshark.handle(record)
        {
            let Some(row) = rows.get(&record.number) else {
                tally.skipped += 1;
                return ControlFlow::Continue(());
            };
            seen.insert(record.number);
            // Several TCP headers in one frame.
            if row["tcp.stream"].contains(',') {
                tally.skipped += 1;
                return ControlFlow::Continue(());
            }
            tally.frames += 1;
            let mut is_equal = compare(tally, file, record.number, row, &ours);
            let theirs = streams.entry(row["tcp.stream"].clone()).or_default();
            theirs.insert(ours.stream);
            let is_same = theirs.len() == 1;
            tally.note(file, "stream", record.number, true, true, is_same);
            is_equal &= is_same;
            tally.equal_frames += usize::from(is_equal);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    tally.skipped += rows.keys().filter(|frame| !seen.contains(frame)).count();
}

#[test]
fn what_wireshark_says_is_what_tshark_says() {
    let Some(folder) = captures::shared() else {
        return;
    };
    let mut tally = Tally::default();
    for path in captures::list(&folder) {
        let file = path.strip_prefix(&folder).unwrap().display().to_string();
        if folder.join(format!("ref/{file}.tshark.tsv.gz")).is_file() {
            compare_file(&mut tally, &folder, &file);
        }
    }
    println!(
        "{:<26} {:>7} {:>7} {:>7} precision  recall",
        "column", "tshark", "ours", "both"
    );
    let mut faults = Vec::new();
    for (column, [theirs, ours, both]) in &tally.columns {
        let share = |of: usize| {
            if of == 0 {
                1.0
            } else {
                *both as f64 / of as f64
            }
        };
        let (precision, recall) = (share(*ours), share(*theirs));
        println!("{column:<26} {theirs:>7} {ours:>7} {both:>7} {precision:>9.4} {recall:>7.4}");
        let errors = (ours - both).max(theirs - both);
        let is_good = (precision >= 0.99 && recall >= 0.99) || (*theirs < 100 && errors <= 1);
        if !is_good {
            faults.push(format!(
                "{column}: {theirs} theirs, {ours} ours, {both} in both"
            ));
        }
    }
    let equal = tally.equal_frames as f64 / tally.frames as f64;
    println!(
        "{} frames, {:.4} equal in every column, {} not compared",
        tally.frames, equal, tally.skipped
    );
    for ((file, column), frames) in &tally.differences {
        let some = &frames[..frames.len().min(6)];
        let known = KNOWN.iter().find(|it| it.0 == file && it.1 == column);
        let cause = known.map_or("UNKNOWN", |it| it.3);
        println!("{file} {column}: {} {some:?} {cause}", frames.len());
        if known.is_none_or(|it| it.2 != frames.len()) {
            faults.push(format!(
                "{file} {column}: {} frames differ {some:?}",
                frames.len()
            ));
        }
    }
    assert!(equal >= 0.995, "{equal} of the frames are equal");
    assert!(tally.frames > 30_000, "only {} frames", tally.frames);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
