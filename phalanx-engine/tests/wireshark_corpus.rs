//! What Wireshark's rules say of real captures, beside what tshark 4.0.17 said of the same ones:
//! frame by frame, every column.

#[path = "support/capture.rs"]
mod capture;
#[path = "support/tshark.rs"]
mod tshark;

use std::collections::BTreeMap;
use std::path::Path;

use phalanx_common::packet::Layers;
use phalanx_engine::record::Decoded;
use phalanx_engine::wireshark::{Analysis, AnalysisFlag, Wireshark, WiresharkTally};

use tshark::{COLUMNS, Row};

/// The column of a frame in which only one of the two sees TCP.
const FRAME: &str = "frame";

/// Broken TCP headers: tshark analyses them, or at least gives them a stream; here they are no
/// packets.
const BROKEN: &str = "a TCP header whose length is below its minimum or beyond the packet";

/// What differs, and how many frames of a file it is: file, column, frames, cause.
const KNOWN: [(&str, &str, usize, &str); 12] = [
    (
        "gopacket/layers__testdata__linux_sll_oversized_addr.pcapng",
        FRAME,
        2,
        BROKEN,
    ),
    (
        "gopacket/layers__testdata__linux_sll_oversized_addr.pcapng",
        "bytes_in_flight",
        30,
        "after such a header, whose data tshark believes to be in flight",
    ),
    (
        "ndpi/cfgs__default__pcap__h323.pcap",
        "completeness",
        21,
        "tshark's dissector of H.225 foretells the stream, so that its SYN is not the first of it",
    ),
    (
        "ndpi/cfgs__default__pcap__kerberos_fuzz.pcapng",
        FRAME,
        1,
        BROKEN,
    ),
    (
        "ndpi/cfgs__default__pcap__tls_invalid_reads.pcap",
        FRAME,
        3,
        "in GTP, which the parser does not open",
    ),
    (
        "pcapplusplus/ExamplesTest__pcap_examples__solaris.snoop",
        FRAME,
        15,
        "snoop, which tcpdump does not read for this test",
    ),
    (
        "pcapplusplus/Packet++Test__PacketExamples__GrePackets.pcap",
        FRAME,
        1,
        "interfaces of two snapshot lengths, which tcpdump does not read for this test",
    ),
    (
        "suricata-verify/filestore-5408__input.pcap",
        FRAME,
        2,
        "samples in sFlow, which the parser does not open",
    ),
    (
        "suricata-verify/filestore-5408__input.pcap",
        "stream",
        24,
        "numbers after the streams of those samples",
    ),
    (
        "suricata-verify/transform-base64-7296__input.pcap",
        FRAME,
        2,
        BROKEN,
    ),
    (
        "suricata-verify/transform-base64-7296__input.pcap",
        "stream",
        40,
        "numbers after the stream of such a header",
    ),
    (
        "tcpdump/tcp_header_heapoverflow.pcap",
        FRAME,
        1,
        "a TCP header that was cut short when it was captured",
    ),
];

/// Counts of one flag over all files.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    both: usize,
    only_ours: usize,
    only_theirs: usize,
    neither: usize,
}

impl Score {
    fn precision(self) -> f64 {
        share(self.both, self.both + self.only_ours)
    }

    fn recall(self) -> f64 {
        share(self.both, self.both + self.only_theirs)
    }

    fn is_good(self) -> bool {
        if self.both + self.only_theirs < 100 {
            self.only_ours + self.only_theirs <= 1
        } else {
            self.precision() >= 0.99 && self.recall() >= 0.99
        }
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        return 1.0;
    }
    part as f64 / whole as f64
}

#[derive(Default)]
struct Comparison {
    scores: BTreeMap<AnalysisFlag, Score>,
    /// By file and column: the frames that differ, each with what the two say.
    differences: BTreeMap<(String, &'static str), Vec<String>>,
    /// Files in which the two put other frames together.
    partitions: Vec<String>,
    files: usize,
    frames: usize,
    frames_equal: usize,
    quoted: usize,
}

impl Comparison {
    fn differ(&mut self, file: &str, column: &'static str, text: String) {
        let key = (file.to_owned(), column);
        self.differences.entry(key).or_default().push(text);
    }

    fn add(&mut self, file: &str, row: &Row, analysis: Option<&Analysis>) {
        let frame = row.number("frame.number").expect("a frame");
        self.frames += 1;
        let mut is_equal = analysis.is_some();
        if analysis.is_none() {
            self.differ(file, FRAME, format!("{frame}: only tshark"));
        }
        for flag in AnalysisFlag::ALL {
            let theirs = row.has(flag);
            let ours = analysis.is_some_and(|analysis| analysis.flags.has(flag));
            let score = self.scores.entry(flag).or_default();
            match (ours, theirs) {
                (true, true) => score.both += 1,
                (true, false) => score.only_ours += 1,
                (false, true) => score.only_theirs += 1,
                (false, false) => score.neither += 1,
            }
            if ours != theirs && analysis.is_some() {
                is_equal = false;
                self.differ(file, flag.name(), format!("{frame}: {theirs}, ours {ours}"));
            }
        }
        for column in COLUMNS {
            let Some(analysis) = analysis else { continue };
            let (theirs, ours) = (row.value(column), tshark::value(analysis, column));
            if !tshark::is_equal(column, theirs, ours) {
                is_equal = false;
                self.differ(file, column, format!("{frame}: {theirs:?}, ours {ours:?}"));
            }
        }
        self.frames_equal += usize::from(is_equal);
    }

    fn compare(&mut self, folder: &Path, reference: &Path) {
        let name = reference.strip_prefix(folder.join("ref")).expect("below");
        let name = name.to_string_lossy();
        let Some(file) = name.strip_suffix(".tshark.tsv.gz") else {
            return;
        };
        self.files += 1;
        let mut rows = tshark::read(reference);
        let (mut layers, mut wireshark) = (Layers::default(), Wireshark::new(1));
        let mut streams = Streams::default();
        let (kind, frames) = capture::read(&folder.join(file)).unzip();
        for frame in frames.iter().flatten() {
            let kind = kind.expect("a link type");
            let row = rows.remove(&frame.number);
            let decoded = Decoded::of(&mut layers, &frame.bytes, kind, frame.wire_length).ok();
            let analysis = decoded.and_then(|decoded| {
                let (number, length) = (frame.number, frame.wire_length);
                wireshark.handle(&decoded.record(number, frame.time_ns, length, &frame.bytes))
            });
            match (row, analysis) {
                (Some(row), _) if row.is_quoted() => self.quoted += 1,
                (Some(row), analysis) => {
                    self.add(file, &row, analysis.as_ref());
                    streams.add(&row, analysis.as_ref());
                }
                (None, Some(_)) => self.differ(file, FRAME, format!("{}: only ours", frame.number)),
                (None, None) => {}
            }
        }
        for row in rows.values() {
            self.add(file, row, None);
        }
        if !streams.agrees {
            self.partitions.push(file.to_owned());
        }
        assert_eq!(wireshark.tally(), WiresharkTally::default(), "{file}");
    }

    fn print(&self) {
        println!(
            "{} files, {} TCP frames ({} more that ICMP quotes), {:.3} % equal in every column",
            self.files,
            self.frames,
            self.quoted,
            100.0 * share(self.frames_equal, self.frames)
        );
        println!(
            "flag                     tshark   ours   both  -ours +ours  neither  prec.  recall"
        );
        for (flag, score) in &self.scores {
            println!(
                "{:<24} {:>6} {:>6} {:>6} {:>6} {:>5} {:>8}  {:.4} {:.4}",
                flag.name(),
                score.both + score.only_theirs,
                score.both + score.only_ours,
                score.both,
                score.only_theirs,
                score.only_ours,
                score.neither,
                score.precision(),
                score.recall()
            );
        }
        for (file, column, count, cause) in KNOWN {
            println!("{file}: {column}: {count}: {cause}");
        }
    }
}

/// Whether the same frames are put together into streams, whatever their numbers.
struct Streams {
    ours_of_theirs: BTreeMap<i64, u32>,
    theirs_of_ours: BTreeMap<u32, i64>,
    agrees: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            ours_of_theirs: BTreeMap::new(),
            theirs_of_ours: BTreeMap::new(),
            agrees: true,
        }
    }
}

impl Streams {
    fn add(&mut self, row: &Row, analysis: Option<&Analysis>) {
        let Some(analysis) = analysis else { return };
        let theirs = row.value("stream").expect("a stream");
        let ours = self.ours_of_theirs.entry(theirs).or_insert(analysis.stream);
        self.agrees &= *ours == analysis.stream;
        let theirs_known = self.theirs_of_ours.entry(analysis.stream).or_insert(theirs);
        self.agrees &= *theirs_known == theirs;
    }
}

#[test]
fn wireshark_rules_say_what_tshark_says() {
    let Some(folder) = capture::shared_captures("wireshark_rules_say_what_tshark_says") else {
        return;
    };
    let mut comparison = Comparison::default();
    for reference in capture::list(&folder.join("ref")) {
        comparison.compare(&folder, &reference);
    }
    comparison.print();
    for ((file, column), frames) in &comparison.differences {
        let known = KNOWN
            .iter()
            .find(|known| (known.0, known.1) == (file, column));
        let count = known.map_or(0, |known| known.2);
        assert_eq!(frames.len(), count, "{file}: {column}: {frames:#?}");
    }
    for (file, column, _, cause) in KNOWN {
        let key = (file.to_owned(), column);
        assert!(
            comparison.differences.contains_key(&key),
            "{file}: {column} differs no longer: {cause}"
        );
    }
    assert_eq!(comparison.partitions, [""; 0], "other streams");
    for (flag, score) in &comparison.scores {
        assert!(score.is_good(), "{}: {score:?}", flag.name());
    }
    assert!(comparison.frames > 38_000, "{} frames", comparison.frames);
    assert!(share(comparison.frames_equal, comparison.frames) >= 0.995);
}
