//! Synthetic captures of several hops: as tshark reads them, and against their own truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use super::{HopProtocol, HopSynthesis, HopTruth, LegCourse, Shares};

fn make(synthesis: &HopSynthesis) -> (Vec<Vec<u8>>, HopTruth) {
    let mut files = vec![Vec::new(); synthesis.hop_count()];
    let truth = synthesis.write(files.iter_mut().collect()).unwrap();
    (files, truth)
}

fn all_faults() -> HopSynthesis {
    let leg = LegCourse {
        forward_ms: 3.0,
        reverse_ms: 4.0,
        jitter_ms: 0.3,
        loss: 0.02,
        reorder: 0.02,
        duplicate: 0.02,
    };
    HopSynthesis {
        conversations: 400,
        legs: vec![leg; 3],
        shares: Shares {
            relayed: 0.05,
            ..Shares::default()
        },
        ..HopSynthesis::default()
    }
}

/// A packet as tshark tells it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    frame: u64,
    source: SocketAddr,
    destination: SocketAddr,
    /// What survives the way: IP id, lengths, numbers, timestamps.
    identity: Vec<String>,
}

fn rows(bytes: &[u8], tag: &str) -> Option<Vec<Row>> {
    let name = format!("phx-hops-{tag}-{}.pcap", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&path).arg("-n");
    for check in ["ip", "tcp", "udp"] {
        command.args(["-o", &format!("{check}.check_checksum:TRUE")]);
    }
    command.args(["-o", "tcp.relative_sequence_numbers:FALSE", "-T", "fields"]);
    for field in [
        "frame.number",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.srcport",
        "tcp.dstport",
        "udp.srcport",
        "udp.dstport",
        "ip.checksum.status",
        "tcp.checksum.status",
        "udp.checksum.status",
        "icmp.checksum.status",
        "icmpv6.checksum.status",
        "_ws.malformed",
        "frame.protocols",
        "ip.id",
        "tcp.seq",
        "tcp.ack",
        "tcp.options.timestamp.tsval",
        "tcp.len",
        "udp.length",
        "tcp.flags",
    ] {
        command.args(["-e", field]);
    }
    let output = command.output();
    std::fs::remove_file(&path).unwrap();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: tshark: {error}");
            return None;
        }
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(row).collect())
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.split('\t').collect();
    let either = |one: usize, other: usize| {
        if cells[one].is_empty() {
            cells[other]
        } else {
            cells[one]
        }
    };
    // 0 is "bad".
    assert!(
        cells[9..14].iter().all(|status| *status != "0"),
        "checksum: {line}"
    );
    assert!(cells[14].is_empty(), "malformed: {line}");
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let port = |text: &str| text.parse::<u16>().unwrap_or(0);
    Row {
        frame: cells[0].parse().unwrap(),
        source: SocketAddr::new(address(either(1, 3)), port(either(5, 7))),
        destination: SocketAddr::new(address(either(2, 4)), port(either(6, 8))),
        identity: cells[16..].iter().map(|&cell| cell.to_owned()).collect(),
    }
}

#[test]
fn the_same_seed_gives_the_same_files() {
    let synthesis = all_faults();
    let first = make(&synthesis);
    assert!(first == make(&synthesis), "two of one seed differ");
    let other = HopSynthesis {
        seed: 2,
        ..synthesis
    };
    assert!(first.1 != make(&other).1);
}

#[test]
fn there_is_something_of_everything() {
    let synthesis = all_faults();
    let (_, truth) = make(&synthesis);
    let count = |test: fn(&super::TrueConversation) -> bool| {
        truth.conversations.iter().filter(|it| test(it)).count()
    };
    for (what, count) in [
        ("tcp", count(|it| it.protocol == HopProtocol::Tcp)),
        ("udp", count(|it| it.protocol == HopProtocol::Udp)),
        ("icmp", count(|it| it.protocol == HopProtocol::Icmp)),
        ("midstream", count(|it| it.is_midstream)),
        ("without timestamps", count(|it| !it.has_timestamps)),
        ("equal payload", count(|it| it.is_equal_payload)),
        ("reuse", count(|it| it.is_reuse)),
        ("shifted", count(|it| it.is_shifted)),
        ("relayed", count(|it| it.relay_of.is_some())),
    ] {
        assert!(count > 0, "{what}");
        println!("{what}: {count}");
    }
    let sum = |value: fn(&super::TrueLeg) -> u64| truth.legs.iter().map(value).sum::<u64>();
    let packets = sum(|leg| leg.packets) as f64;
    for (what, count) in [
        ("lost", sum(|leg| leg.lost)),
        ("reordered", sum(|leg| leg.reordered)),
        ("duplicated", sum(|leg| leg.duplicated)),
    ] {
        let share = count as f64 / packets;
        println!("{what}: {count} of {packets}");
        // Who has nobody behind him is not overtaken.
        assert!((0.002..0.03).contains(&share), "{what}: {share}");
    }
}

#[test]
fn tshark_finds_the_flows_where_the_truth_has_them() {
    let synthesis = all_faults();
    let (files, truth) = make(&synthesis);
    for (hop, bytes) in files.iter().enumerate() {
        let Some(rows) = rows(bytes, &format!("flows-{hop}")) else {
            return;
        };
        assert_eq!(rows.len() as u64, truth.packets[hop]);
        let own: Vec<_> = truth.flows.iter().filter(|flow| flow.hop == hop).collect();
        let packets: u64 = own.iter().map(|flow| flow.packets).sum();
        assert_eq!(packets, truth.packets[hop]);
        for flow in own {
            let row = &rows[flow.first_frame as usize - 1];
            let pair = flow.pair;
            let mut ends = [row.source, row.destination];
            let mut told = [pair.client, pair.server];
            if truth.conversations[flow.conversation as usize].protocol == HopProtocol::Icmp {
                // An identifier is no port.
                told.iter_mut().for_each(|end| end.set_port(0));
            }
            ends.sort_unstable();
            told.sort_unstable();
            assert_eq!(ends, told, "hop {hop}, frame {}", row.frame);
        }
    }
}

/// Where IP ids tell packets apart, comparing two captures packet by packet gives the legs.
#[test]
fn the_legs_are_what_the_captures_show() {
    let synthesis = HopSynthesis {
        shares: Shares {
            lookup: 0.0,
            datagrams: 0.0,
            echo: 0.0,
            ipv6: 0.0,
            translated: 0.0,
            redirected: 0.0,
            reused: 0.0,
            no_identification: 0.0,
            lone: 0.0,
            detour: 0.0,
            ..Shares::default()
        },
        conversations: 150,
        requests: (5, 20),
        ..all_faults()
    };
    let (files, truth) = make(&synthesis);
    let told: Option<Vec<Vec<Row>>> = files
        .iter()
        .enumerate()
        .map(|(hop, bytes)| rows(bytes, &format!("legs-{hop}")))
        .collect();
    let Some(told) = told else {
        return;
    };
    for flow in truth.flows.iter().filter(|flow| flow.hop == 0) {
        for leg in truth
            .legs
            .iter()
            .filter(|leg| leg.conversation == flow.conversation)
        {
            let source = if leg.is_reverse {
                flow.pair.server
            } else {
                flow.pair.client
            };
            let destination = if leg.is_reverse {
                flow.pair.client
            } else {
                flow.pair.server
            };
            let of = |hop: usize| -> Vec<&Vec<String>> {
                let own = told[hop].iter();
                own.filter(|row| (row.source, row.destination) == (source, destination))
                    .map(|row| &row.identity)
                    .collect()
            };
            let (enter, leave) = if leg.is_reverse {
                (of(leg.to), of(leg.from))
            } else {
                (of(leg.from), of(leg.to))
            };
            let copies =
                |all: &[&Vec<String>]| all.len() - all.iter().collect::<BTreeSet<_>>().len();
            let arrived: BTreeMap<&Vec<String>, usize> = leave
                .iter()
                .enumerate()
                .rev()
                .map(|(at, it)| (*it, at))
                .collect();
            if copies(&enter) == 0 {
                let lost = enter.iter().filter(|it| !arrived.contains_key(*it)).count();
                let told = (leg.packets, leg.lost, leg.duplicated);
                let shown = (enter.len() as u64, lost as u64, copies(&leave) as u64);
                assert_eq!(told, shown, "{leg:?}");
                let order: Vec<usize> = enter
                    .iter()
                    .filter_map(|it| arrived.get(*it).copied())
                    .collect();
                // Who arrived before one that had entered earlier overtook it.
                let late = (0..order.len())
                    .filter(|at| order[at + 1..].iter().any(|later| *later < order[*at]))
                    .count();
                assert_eq!(leg.reordered, late as u64, "{leg:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let sinks = |count| (0..count).map(|_| std::io::sink()).collect();
    let one = HopSynthesis::default();
    assert!(one.write(sinks(2)).is_err());
    let none = HopSynthesis {
        legs: Vec::new(),
        ..one.clone()
    };
    assert!(none.write(sinks(1)).is_err());
    let nobody = HopSynthesis {
        conversations: 0,
        ..one
    };
    assert!(nobody.write(sinks(3)).is_err());
}
