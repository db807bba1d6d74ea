//! Captures with IP fragments: the datagrams that come of them are those that tshark puts
//! together, and are the same for any number of threads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/captures.rs"]
mod captures;
#[path = "fragment/maker.rs"]
mod maker;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use phalanx::analysis::{Outside, walk};
use phalanx_common::packet::{Unparsed, protocol};

use maker::{Made, make};

/// A UDP datagram that came in fragments: its ports and its payload, by its last frame.
type Datagrams = BTreeMap<u64, (u16, u16, Vec<u8>)>;

fn ours(path: &Path) -> Datagrams {
    let mut datagrams = Datagrams::new();
    let request = captures::request(path, 1);
    let walked = walk(&request, |told| {
        if let Ok((record, _)) = &told.packet
            && record.fragment_count > 0
            && record.headers.protocol == protocol::UDP
        {
            let headers = record.headers;
            let ports = (headers.source_port, headers.destination_port);
            let datagram = (ports.0, ports.1, record.payload().to_vec());
            assert!(datagrams.insert(record.number, datagram).is_none());
        }
        ControlFlow::Continue(())
    });
    assert!(walked.unwrap().error.is_none());
    datagrams
}

/// What tshark puts together; `None` and a printed line where it is missing.
fn theirs(path: &Path) -> Option<Datagrams> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path);
    command.args([
        "-Y",
        "udp && (ip.fragment || ipv6.fragment)",
        "-T",
        "fields",
    ]);
    command.args(["-E", "occurrence=l", "-E", "separator=,"]);
    for field in ["frame.number", "udp.srcport", "udp.dstport", "udp.payload"] {
        command.args(["-e", field]);
    }
    let Ok(output) = command.output() else {
        println!("SKIPPED: tshark is not installed");
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let datagrams = text.lines().map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        let digits = fields[3].as_bytes().chunks(2);
        let payload =
            digits.map(|it| u8::from_str_radix(std::str::from_utf8(it).unwrap(), 16).unwrap());
        let datagram = (
            fields[1].parse().unwrap(),
            fields[2].parse().unwrap(),
            payload.collect(),
        );
        (fields[0].parse().unwrap(), datagram)
    });
    Some(datagrams.collect())
}

fn compare(path: &Path) -> usize {
    let Some(theirs) = theirs(path) else {
        return 0;
    };
    let ours = ours(path);
    for (number, datagram) in &theirs {
        assert_eq!(
            ours.get(number),
            Some(datagram),
            "frame {number} of {}",
            path.display()
        );
    }
    assert_eq!(ours.len(), theirs.len(), "{}", path.display());
    theirs.len()
}

#[test]
fn captures_of_others_give_what_tshark_gives() {
    let Some(folder) = captures::shared() else {
        return;
    };
    let files = [
        "deepflow/flow_generator__ip-fragment.pcap",
        "tcpdump/esp_truncated.pcap",
        "tcpdump/isakmp-ikev1_n_print-oobr.pcap",
        "tcpdump/olsr-oobr-1.pcap",
        "tcpdump/rpki-rtr-oobr.pcap",
    ];
    for file in files {
        println!("{file}: {} datagrams", compare(&folder.join(file)));
    }
}

#[test]
fn made_captures_give_what_tshark_gives() {
    for seed in 1..=3 {
        let made = make(seed, 300);
        println!(
            "seed {seed}: {} datagrams of {}",
            compare(&made.path),
            made.whole
        );
    }
}

#[test]
fn each_fragment_is_accounted_for_with_any_number_of_threads() {
    let made = make(7, 1_000);
    let told = |threads: usize| {
        let outcome = captures::outcome(&made.path, threads).unwrap();
        check(&made, &outcome);
        let stories: Vec<String> = outcome.stories.iter().map(|it| format!("{it:?}")).collect();
        (outcome.hops, outcome.notes, stories)
    };
    let one = told(1);
    assert_eq!(one.0, told(3).0);
    assert_eq!(one, told(3));
}

fn check(made: &Made, outcome: &phalanx::analysis::Outcome) {
    assert_eq!(outcome.hops.len(), 1);
    let hop = &outcome.hops[0];
    assert_eq!(hop.frames, made.frames);
    assert_eq!(
        hop.unparsed[Unparsed::NonFirstFragment as usize],
        made.unused
    );
    assert_eq!(hop.unparsed.iter().sum::<u64>(), made.unused);
    let note = |name: &str| outcome.notes.get(name).copied().unwrap_or_default();
    assert_eq!(note("fragments"), made.fragments);
    assert_eq!(note("fragmented_datagrams"), made.whole);
    let given_up = note("fragments_timed_out") + note("fragments_unfinished");
    assert_eq!(given_up, made.incomplete);
    assert_eq!(
        note("fragments_without_first"),
        made.incomplete - made.first_alone
    );
    let sum = |count: fn(&phalanx_engine::story::SideCounts) -> u64| -> u64 {
        let stories = outcome.stories.iter();
        stories
            .map(|it| count(&it.sides.client.counts) + count(&it.sides.server.counts))
            .sum()
    };
    // Copies count as packets of no side, and there are none.
    assert_eq!(
        sum(|it| it.packets),
        made.whole + made.first_alone + made.plain
    );
    assert_eq!(
        sum(|it| it.fragmented_packets),
        made.whole + made.first_alone
    );
}

#[test]
fn every_frame_is_told_once() {
    let made = make(9, 200);
    let mut fragments = BTreeMap::<u64, u32>::new();
    let mut packets = BTreeMap::<u64, u32>::new();
    let request = captures::request(&made.path, 1);
    let walked = walk(&request, |told| {
        let counts = match told.packet {
            Ok(_) => &mut packets,
            Err(reason) => {
                assert_eq!(reason, Outside::Fragment);
                &mut fragments
            }
        };
        *counts.entry(told.frame.number).or_default() += 1;
        ControlFlow::Continue(())
    });
    assert!(walked.is_ok());
    assert!(
        fragments
            .values()
            .chain(packets.values())
            .all(|it| *it == 1)
    );
    let both = fragments
        .keys()
        .filter(|it| packets.contains_key(it))
        .count() as u64;
    assert_eq!(both, made.first_alone);
    assert_eq!((fragments.len() + packets.len()) as u64 - both, made.frames);
}
