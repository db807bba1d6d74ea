//! What tshark 4.0.17 printed of a capture: one line for each frame in which it found TCP.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use phalanx_engine::wireshark::{Analysis, AnalysisFlag};

/// The columns beside the flags.
pub(crate) const COLUMNS: [&str; 8] = [
    "stream",
    "completeness",
    "duplicate_ack_num",
    "acks_frame",
    "ack_rtt",
    "initial_rtt",
    "rto",
    "bytes_in_flight",
];

/// How far apart two times may be.
const TIME_TOLERANCE_NS: i64 = 1_000;

fn is_time(column: &str) -> bool {
    matches!(column, "ack_rtt" | "initial_rtt" | "rto")
}

/// What we say in one of [`COLUMNS`]; times in nanoseconds.
pub(crate) fn value(analysis: &Analysis, column: &str) -> Option<i64> {
    match column {
        "stream" => Some(analysis.stream.into()),
        "completeness" => Some(analysis.completeness.into()),
        "duplicate_ack_num" => analysis.duplicate_ack_number.map(Into::into),
        "acks_frame" => analysis.acks_frame.and_then(|frame| frame.try_into().ok()),
        "ack_rtt" => analysis.ack_rtt_ns,
        "initial_rtt" => analysis.initial_rtt_ns,
        "rto" => analysis.rto_ns,
        _ => analysis.bytes_in_flight.map(Into::into),
    }
}

/// Whether two values of a column are the same, times within a microsecond.
pub(crate) fn is_equal(column: &str, theirs: Option<i64>, ours: Option<i64>) -> bool {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if is_time(column) => (theirs - ours).abs() <= TIME_TOLERANCE_NS,
        _ => theirs == ours,
    }
}

/// One line: its fields by the names of their columns; an empty field is absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row(BTreeMap<String, String>);

impl Row {
    /// The field as it was printed.
    fn text(&self, column: &str) -> Option<&str> {
        self.0.get(column).map(String::as_str)
    }

    pub(crate) fn number(&self, column: &str) -> Option<i64> {
        Some(self.text(column)?.parse().expect("a number"))
    }

    /// A time in seconds, in nanoseconds.
    fn time_ns(&self, column: &str) -> Option<i64> {
        let text = self.text(column)?;
        let (text, sign) = match text.strip_prefix('-') {
            Some(text) => (text, -1),
            None => (text, 1),
        };
        let (seconds, fraction) = text.split_once('.').expect("a fraction");
        let seconds: i64 = seconds.parse().expect("seconds");
        let fraction: i64 = format!("{fraction:0<9}").parse().expect("nanoseconds");
        Some(sign * (seconds * 1_000_000_000 + fraction))
    }

    /// Whether a flag is set.
    pub(crate) fn has(&self, flag: AnalysisFlag) -> bool {
        self.text(&field(flag.name())).is_some()
    }

    /// What tshark says in one of [`COLUMNS`]; times in nanoseconds.
    pub(crate) fn value(&self, column: &str) -> Option<i64> {
        if is_time(column) {
            self.time_ns(&field(column))
        } else {
            self.number(&field(column))
        }
    }

    /// The innermost TCP header is one that an ICMP error quotes.
    pub(crate) fn is_quoted(&self) -> bool {
        let protocols = self.text("frame.protocols").unwrap_or_default();
        ["icmp:ip:", "icmpv6:ipv6:"]
            .iter()
            .any(|quote| protocols.contains(quote))
    }
}

/// The lines of a file that gzip packed, by the number of the frame.
pub(crate) fn read(path: &Path) -> BTreeMap<u64, Row> {
    let output = Command::new("gzip").arg("-dc").arg(path).output();
    let output = output.expect("run gzip");
    assert!(output.status.success(), "unpack {}", path.display());
    parse(&output.stdout)
}

/// What the installed tshark prints of a capture.
pub(crate) fn run(path: &Path) -> BTreeMap<u64, Row> {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(path);
    command.args(["-Y", "tcp", "-T", "fields", "-E", "header=y"]);
    let mut fields = vec!["frame.number".to_owned(), "frame.protocols".to_owned()];
    let flags = AnalysisFlag::ALL.map(AnalysisFlag::name);
    fields.extend(COLUMNS.into_iter().chain(flags).map(field));
    for field in fields {
        command.arg("-e").arg(field);
    }
    let output = command.output().expect("run tshark");
    assert!(output.status.success(), "tshark: {output:?}");
    parse(&output.stdout)
}

/// The name of a column's field.
fn field(column: &str) -> String {
    match column {
        "stream" | "completeness" => format!("tcp.{column}"),
        _ => format!("tcp.analysis.{column}"),
    }
}

fn parse(bytes: &[u8]) -> BTreeMap<u64, Row> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let rows = lines.map(|line| {
        let fields = names.iter().zip(line.split('\t'));
        let filled = fields.filter(|(_, field)| !field.is_empty());
        let row = Row(filled
            .map(|(name, field)| ((*name).to_owned(), field.to_owned()))
            .collect());
        let number = row.number("frame.number").expect("a frame");
        (u64::try_from(number).expect("a frame"), row)
    });
    rows.collect()
}
