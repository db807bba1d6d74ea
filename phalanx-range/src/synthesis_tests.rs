//! Synthetic captures as the tools of others read them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// Gone with the value.
struct Capture(PathBuf);

impl Capture {
    fn of(tag: &str, bytes: &[u8]) -> Self {
        let name = format!("phx-synthesis-{tag}-{}.pcap", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a program prints about the file; nothing where it is not installed.
fn ask(program: &str, arguments: &[&str], path: &Path) -> Option<String> {
    let command = &mut Command::new(program);
    match command.arg("-r").arg(path).args(arguments).output() {
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program}: {complaint}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            println!("SKIPPED: {program}: {error}");
            None
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_file() {
    let synthesis = Synthesis::default();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let outcome = synthesis.write(&mut first).unwrap();
    assert_eq!(synthesis.write(&mut second).unwrap(), outcome);
    assert!(first == second, "two files of one seed differ");
    let other = Synthesis {
        seed: 2,
        ..synthesis
    };
    assert_ne!(other.write(std::io::sink()).unwrap(), outcome);
}

#[test]
fn there_is_what_was_asked_for() {
    for (connections, packets) in [(1, 5_000), (100, 100_000), (2_000, 50_000)] {
        let synthesis = Synthesis {
            connections,
            packets,
            ..Synthesis::default()
        };
        let outcome = synthesis.write(std::io::sink()).unwrap();
        assert_eq!(outcome.connections, connections.into());
        let share = outcome.packets as f64 / packets as f64;
        assert!((0.97..1.1).contains(&share), "{outcome:?}: asked {packets}");
        assert!(outcome.retransmissions > 0, "{outcome:?}");
    }
    let wrong = Synthesis {
        connections: 0,
        ..Synthesis::default()
    };
    assert!(wrong.write(std::io::sink()).is_err());
}

#[test]
fn tshark_reads_what_was_written() {
    let mut bytes = Vec::new();
    let synthesis = Synthesis {
        connections: 60,
        loss: 0.01,
        ..Synthesis::default()
    };
    let outcome = synthesis.write(&mut bytes).unwrap();
    let capture = Capture::of("tshark", &bytes);
    let mut arguments = Vec::new();
    for check in ["ip", "tcp", "udp"] {
        arguments.push("-o".to_owned());
        arguments.push(format!("{check}.check_checksum:TRUE"));
    }
    arguments.extend(["-T".to_owned(), "fields".to_owned()]);
    for field in [
        "frame.time_epoch",
        "tcp.stream",
        "tcp.checksum.status",
        "udp.checksum.status",
        "ip.checksum.status",
        "tcp.analysis.retransmission",
        "tcp.analysis.out_of_order",
        "tcp.analysis.ack_lost_segment",
        "dns.id",
    ] {
        arguments.extend(["-e".to_owned(), field.to_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(text) = ask("tshark", &arguments, &capture.0) else {
        return;
    };
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let count = |column: usize| rows.iter().filter(|row| !row[column].is_empty()).count() as u64;
    assert_eq!(rows.len() as u64, outcome.packets);
    assert!(rows.is_sorted_by(|a, b| a[0] <= b[0]), "times go backwards");
    let streams = rows.iter().filter_map(|row| row[1].parse::<u64>().ok());
    assert_eq!(
        streams.max().map(|last| last + 1),
        Some(outcome.connections)
    );
    assert_eq!(count(1), outcome.tcp_packets);
    // 0 is "bad".
    assert!(
        rows.iter()
            .all(|row| row[2..5].iter().all(|status| *status != "0"))
    );
    assert!(count(8) > 0, "no DNS");
    assert_eq!(count(7), 0, "acknowledged, but never seen");
    // What fills a hole early looks out of order; what was lost at the end, like new.
    let again = count(5) + count(6);
    let truth = outcome.retransmissions;
    assert!(
        (truth * 8 / 10..=truth).contains(&again),
        "{again} of {truth}"
    );
}

#[test]
fn a_cut_capture_tells_the_true_lengths() {
    let (mut whole, mut cut) = (Vec::new(), Vec::new());
    let synthesis = Synthesis::default();
    let outcome = synthesis.write(&mut whole).unwrap();
    let snapped = Synthesis {
        snap_bytes: 128,
        ..synthesis
    };
    assert_eq!(snapped.write(&mut cut).unwrap(), outcome);
    assert!(
        cut.len() < whole.len() / 4,
        "{} of {}",
        cut.len(),
        whole.len()
    );
    let (whole, cut) = (Capture::of("whole", &whole), Capture::of("cut", &cut));
    let texts = [&whole, &cut].map(|capture| ask("tcpdump", &["-n", "tcp"], &capture.0));
    let [Some(whole), Some(cut)] = texts else {
        return;
    };
    assert_eq!(whole.lines().count() as u64, outcome.tcp_packets);
    // What tcpdump says of HTTP stands after the length.
    let length = |line: &str| line.split(": HTTP").next().map(str::to_owned);
    let is_same = whole
        .lines()
        .zip(cut.lines())
        .all(|(a, b)| length(a) == length(b));
    assert!(is_same, "tcpdump reads the cut file differently");
}

#[test]
fn a_scan_has_its_attempts() {
    let mut bytes = Vec::new();
    let scan = Scan {
        connections: 5_000,
        seed: 1,
        snap_bytes: 0,
    };
    let outcome = scan.write(&mut bytes).unwrap();
    assert_eq!(outcome.connections, 5_000);
    let capture = Capture::of("scan", &bytes);
    let fields = ["-T", "fields", "-e", "tcp.stream", "-e", "tcp.flags.reset"];
    let Some(text) = ask("tshark", &fields, &capture.0) else {
        return;
    };
    assert_eq!(text.lines().count() as u64, outcome.packets);
    let streams = text
        .lines()
        .filter_map(|line| line.split('\t').next()?.parse::<u64>().ok());
    assert_eq!(streams.max(), Some(4_999));
    let resets = text.lines().filter(|line| line.ends_with('1')).count();
    assert!((300..600).contains(&resets), "{resets} resets");
}
