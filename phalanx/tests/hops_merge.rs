//! `phalanx analyze --merge`: the packets of captures whose clocks are an hour apart, in one file
//! by one clock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "network/folder.rs"]
mod folder;
#[path = "hops/made.rs"]
mod made;
#[path = "hops/merged.rs"]
mod merged;
#[path = "hops/told.rs"]
mod told;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use made::{Made, retime};
use merged::{Packet, merge, packets};
use phalanx::capture_file::{Frame, Interface, OpenOptions, open};
use phalanx::pcapng::{self, Writer};
use phalanx_range::random::Random;
use phalanx_range::retiming::{Retiming, Step};
use phalanx_range::synthesis::{HopSynthesis, Shares};
use told::{Report, analyze};

const HOUR_NS: i64 = 3_600_000_000_000;
const NAMES: [&str; 3] = ["a0.pcap", "a1.pcap", "a2.pcap"];
/// Conversations of captures that are longer than what is held of them.
const MANY: u32 = 500;
/// Of an Ethernet and an IPv4 header.
const HEADERS_BYTES: usize = 34;

/// Clocks of the three hops: of the second one an hour ahead and too fast, and so on.
const CLOCKS: [Retiming; 3] = [
    Retiming {
        offset_ns: 0,
        skew_ppm: 0.0,
        step: None,
    },
    Retiming {
        offset_ns: HOUR_NS,
        skew_ppm: 40.0,
        step: None,
    },
    Retiming {
        offset_ns: -HOUR_NS,
        skew_ppm: -25.0,
        step: None,
    },
];

/// Connections over three hops that nothing rewrites, in captures that are not retimed.
fn made(tag: &str, conversations: u32) -> Made {
    let synthesis = HopSynthesis {
        conversations,
        seed: 21,
        shares: Shares {
            lookup: 0.0,
            datagrams: 0.0,
            echo: 0.0,
            no_identification: 0.0,
            ipv6: 0.0,
            translated: 0.0,
            redirected: 0.0,
            shifted: 0.0,
            clamped: 0.0,
            lone: 0.0,
            detour: 0.0,
            ..Shares::default()
        },
        ..HopSynthesis::default()
    };
    Made::new(tag, &synthesis)
}

/// The same by other clocks, as `a0.pcap` and so on.
fn retimed(tag: &str, clocks: [Retiming; 3]) -> Made {
    retimed_many(tag, clocks, 150)
}

fn retimed_many(tag: &str, clocks: [Retiming; 3], conversations: u32) -> Made {
    let made = made(tag, conversations);
    for ((clock, from), to) in clocks.iter().zip(&made.files).zip(NAMES) {
        retime(clock, &made.path(from), &made.path(to));
    }
    made
}

fn read(path: &Path) -> (Vec<Frame>, Vec<Interface>) {
    let mut file = open(path, &OpenOptions::default()).unwrap();
    let frames = file.frames().unwrap();
    (frames, file.interfaces().to_vec())
}

/// Of each hop, the packets in the order of the merged file.
fn by_interface(packets: &[Packet]) -> Vec<Vec<&Packet>> {
    let mut hops = vec![Vec::new(); 3];
    for packet in packets {
        hops[packet.interface].push(packet);
    }
    hops
}

fn check_in_order(packets: &[Packet]) {
    let is_back = |pair: &&[Packet]| pair[0].time_ns > pair[1].time_ns;
    let back = packets.windows(2).filter(is_back).count();
    assert_eq!(back, 0, "packets stand behind later ones");
}

/// Each packet of a hop is in its source, at the time that its comment says and within the error
/// that it states; gives back how many were put right, and the largest error stated.
fn check_hop(hop: usize, merged: &[&Packet], made: &Made) -> (usize, i128) {
    let own = read(&made.path(NAMES[hop])).0;
    let real = read(&made.path(&made.files[hop])).0;
    assert_eq!(merged.len(), own.len(), "hop {hop}");
    let (mut count, mut worst_ns) = (0, 0);
    for ((packet, own), real) in merged.iter().zip(&own).zip(&real) {
        assert_eq!(packet.bytes, own.bytes, "hop {hop}");
        assert_eq!(packet.wire_length, own.wire_length, "hop {hop}");
        let off_ns = packet.time_ns.abs_diff(real.time_ns.into()).cast_signed();
        let Some(remark) = &packet.remark else {
            assert_eq!(packet.time_ns, i128::from(own.time_ns), "hop {hop}");
            assert_eq!(off_ns, 0, "hop {hop}");
            continue;
        };
        assert_eq!(remark.hop, format!("a{hop}"));
        assert_eq!(remark.own_ns, i128::from(own.time_ns), "hop {hop}");
        assert!(off_ns <= remark.error_ns, "hop {hop}: {off_ns}: {remark:?}");
        worst_ns = worst_ns.max(remark.error_ns);
        count += 1;
    }
    (count, worst_ns)
}

#[test]
fn all_packets_are_there_by_one_clock() {
    let made = retimed_many("merge", CLOCKS, MANY);
    let run = merge(&made.folder.0, &NAMES, &[]);
    assert_eq!(run.code, Some(0), "{}", run.errors);
    let path = made.path("merged.pcapng");
    let (all, about) = packets(&path);
    let wanted: u64 = made.truth.packets.iter().sum();
    assert_eq!(all.len() as u64, wanted);
    assert!(
        run.errors.contains(&format!("{wanted} packets")),
        "{}",
        run.errors
    );
    let is_told = NAMES.iter().all(|name| about.contains(name));
    assert!(is_told && about.contains("clock of a0"), "{about}");
    check_in_order(&all);
    for (hop, merged) in by_interface(&all).iter().enumerate() {
        let (count, error_ns) = check_hop(hop, merged, &made);
        println!(
            "a{hop}: {count} of {} put right, by ±{error_ns} ns",
            merged.len()
        );
        assert_eq!(count, if hop == 0 { 0 } else { merged.len() });
        // The round trip to the farthest hop takes 24 ms and some jitter.
        assert!(error_ns < 13_000_000, "a{hop}: ±{error_ns} ns");
    }
    let interfaces = read(&path).1;
    for (hop, merged) in interfaces.iter().enumerate() {
        let source = &read(&made.path(NAMES[hop])).1[0];
        assert_eq!(merged.name, format!("a{hop}"));
        let kept = |it: &Interface| (it.link_type, it.snap_length, it.description.clone());
        assert_eq!(kept(merged), kept(source));
    }
    assert_eq!(interfaces.len(), 3);
}

/// A clock that is set in the middle of a capture is put right from there on, also where it was set
/// back and has shown the same times twice.
#[test]
fn a_clock_that_was_set_is_put_right() {
    for by_ns in [2_000_000_000, -2_000_000_000, -50_000_000] {
        let mut clocks = CLOCKS;
        clocks[1].step = Some(Step {
            after_ns: 9_000_000_000,
            by_ns,
        });
        let made = retimed("merge-step", clocks);
        let run = merge(&made.folder.0, &NAMES, &[]);
        assert_eq!(run.code, Some(0), "{}", run.errors);
        let (all, _) = packets(&made.path("merged.pcapng"));
        check_in_order(&all);
        let merged = by_interface(&all);
        for (hop, merged) in merged.iter().enumerate() {
            let (count, error_ns) = check_hop(hop, merged, &made);
            println!("{by_ns}: a{hop}: {count} put right, by ±{error_ns} ns");
        }
    }
}

/// A packet, and whether it goes to the server.
type Passage<'a> = (&'a Packet, bool);

/// What stays the same of a packet on its way, and whether it goes to the server.
fn passage(packet: &Packet, clients: &[SocketAddr]) -> Option<(Vec<u8>, bool)> {
    let bytes = &packet.bytes;
    let address: [u8; 4] = bytes.get(26..30)?.try_into().unwrap();
    let port = u16::from_be_bytes(bytes.get(34..36)?.try_into().unwrap());
    let from = SocketAddr::from((address, port));
    let same = [&bytes[18..20], &bytes[26..34], bytes.get(HEADERS_BYTES..)?].concat();
    Some((same, clients.binary_search(&from).is_ok()))
}

/// A packet comes to a hop after it has been at the one before, as far as the error allows.
#[test]
fn packets_cross_the_legs_in_the_order_of_the_path() {
    let made = retimed("merge-order", CLOCKS);
    let run = merge(&made.folder.0, &NAMES, &[]);
    assert_eq!(run.code, Some(0), "{}", run.errors);
    let (all, _) = packets(&made.path("merged.pcapng"));
    let mut clients: Vec<SocketAddr> = made.truth.flows.iter().map(|it| it.pair.client).collect();
    clients.sort_unstable();
    // Copies cannot be told apart, so they are left out.
    let mut seen: HashMap<(usize, Vec<u8>), Vec<Passage<'_>>> = HashMap::new();
    for packet in &all {
        let (same, is_onward) = passage(packet, &clients).unwrap();
        let places = seen.entry((packet.interface, same)).or_default();
        places.push((packet, is_onward));
    }
    let (mut crossings, mut strict) = (0_u64, 0_u64);
    for ((hop, same), here) in &seen {
        let Some(there) = seen.get(&(hop + 1, same.clone())) else {
            continue;
        };
        let ([(here, is_onward)], [(there, _)]) = (&here[..], &there[..]) else {
            continue;
        };
        let (before, after) = if *is_onward {
            (here, there)
        } else {
            (there, here)
        };
        let error = |it: &Packet| it.remark.as_ref().map_or(0, |it| it.error_ns);
        let slack_ns = error(here) + error(there);
        assert!(
            before.time_ns <= after.time_ns + slack_ns,
            "{before:?} after {after:?}"
        );
        crossings += 1;
        strict += u64::from(before.time_ns < after.time_ns);
    }
    let wanted: u64 = made.truth.legs.iter().map(|it| it.packets - it.lost).sum();
    println!("{strict} of {crossings} crossings, of {wanted}, in the order of the path");
    assert!(crossings * 100 > wanted * 95, "{crossings} of {wanted}");
}

/// What is told of each conversation, by what does not depend on the names of files.
fn facts(report: &Report) -> BTreeMap<String, String> {
    let bare = |hop: &str| hop.replace("merged:", "");
    let facts = report.conversations.iter().map(|it| {
        let name = format!(
            "{} {} {} {}",
            it.protocol, it.client, it.server, it.start_ns
        );
        let path: Vec<String> = it.path.iter().map(|hop| bare(hop)).collect();
        let flows: Vec<_> = it
            .flows
            .iter()
            .map(|it| (bare(&it.hop), it.packets))
            .collect();
        let ways: Vec<_> = it
            .ways()
            .map(|(from, to, _, way)| {
                let told = (way.packets, way.lost, way.reordered, way.duplicated);
                (bare(from), bare(to), told, way.not_captured)
            })
            .collect();
        (name, format!("{path:?} {flows:?} {ways:?}"))
    });
    facts.collect()
}

#[test]
fn the_merged_capture_has_the_report_of_its_sources() {
    let made = retimed_many("merge-again", CLOCKS, MANY);
    let before = merge(&made.folder.0, &NAMES, &[]);
    let after = analyze(&made.folder.0, &["merged.pcapng"], &[]);
    assert_eq!(after.code, Some(0), "{}", after.errors);
    let (before, after) = (before.report.unwrap(), after.report.unwrap());
    let names: Vec<&str> = after.hops.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(names, ["merged:a0", "merged:a1", "merged:a2"]);
    let (before, after) = (facts(&before), facts(&after));
    assert_eq!(before.len(), made.truth.conversations.len());
    for (name, told) in &before {
        assert_eq!(Some(told), after.get(name), "{name}");
    }
    assert_eq!(before.len(), after.len());
}

/// As mergecap does it: by the times that stand there.
fn put_together(made: &Made, to: &str) {
    let mut writer = Writer::new(File::create(made.path(to)).unwrap(), "").unwrap();
    let mut all = Vec::new();
    for (hop, name) in NAMES.iter().enumerate() {
        let (frames, interfaces) = read(&made.path(name));
        let interface = pcapng::Interface {
            name: format!("port{hop}"),
            description: String::new(),
            link_type: interfaces[0].link_type,
            snap_length: interfaces[0].snap_length,
            filter: String::new(),
        };
        writer.add_interface(&interface).unwrap();
        all.extend(frames.into_iter().map(|frame| (hop, frame)));
    }
    all.sort_by_key(|(_, frame)| frame.time_ns);
    for (interface, frame) in &all {
        let packet = pcapng::Packet {
            interface: *interface,
            time_ns: frame.time_ns.cast_unsigned(),
            wire_length: frame.wire_length,
            bytes: &frame.bytes,
            comment: "",
        };
        writer.write(&packet).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn one_capture_is_merged_by_its_interfaces() {
    let made = retimed_many("merge-one", CLOCKS, MANY);
    put_together(&made, "all.pcapng");
    let run = merge(&made.folder.0, &["all.pcapng"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.errors);
    let (all, about) = packets(&made.path("merged.pcapng"));
    assert_eq!(all.len() as u64, made.truth.packets.iter().sum::<u64>());
    assert!(about.contains("all.pcapng"), "{about}");
    check_in_order(&all);
    let real: Vec<Vec<Frame>> = made.files.iter().map(|it| read(&made.path(it)).0).collect();
    for (merged, real) in by_interface(&all).iter().zip(&real) {
        for (packet, real) in merged.iter().zip(real) {
            assert_eq!(packet.bytes, real.bytes);
        }
    }
    // The clock of reference may be that of any of them; two hops of three are put right by it.
    let put_right = |hop: &Vec<&Packet>| hop.iter().all(|it| it.remark.is_some());
    assert_eq!(
        by_interface(&all).iter().filter(|it| put_right(it)).count(),
        2
    );
}

#[test]
fn a_hop_that_cannot_be_compared_keeps_its_times() {
    let made = retimed("merge-alone", CLOCKS);
    let others = Made::new(
        "merge-elsewhere",
        &HopSynthesis {
            seed: 99,
            ..HopSynthesis::default()
        },
    );
    std::fs::copy(others.path("hop1.pcap"), made.path("a1.pcap")).unwrap();
    let run = merge(&made.folder.0, &NAMES, &[]);
    assert_eq!(run.code, Some(0), "{}", run.errors);
    let path = made.path("merged.pcapng");
    let (all, _) = packets(&path);
    let own = read(&made.path("a1.pcap")).0;
    let merged = &by_interface(&all)[1];
    assert_eq!(merged.len(), own.len());
    for (packet, own) in merged.iter().zip(&own) {
        assert_eq!(
            (packet.time_ns, &packet.bytes),
            (own.time_ns.into(), &own.bytes)
        );
        assert!(packet.remark.is_none());
    }
    let is_told = |it: &Interface| it.description.contains("could not be compared");
    let told: Vec<bool> = read(&path).1.iter().map(is_told).collect();
    assert_eq!(told, [false, true, false]);
}

#[test]
fn filter_and_times_hold_for_the_merged_capture() {
    let made = retimed("merge-filter", CLOCKS);
    let server = made.truth.flows[0].pair.server;
    let filter = format!("host {}", server.ip());
    let run = merge(&made.folder.0, &NAMES, &["--filter", &filter]);
    let report = run.report.unwrap();
    let (all, _) = packets(&made.path("merged.pcapng"));
    for (hop, merged) in by_interface(&all).iter().enumerate() {
        assert_eq!(merged.len() as u64, report.hops[hop].packets, "a{hop}");
        let address = |it: &&&Packet| [&it.bytes[26..30], &it.bytes[30..34]].concat();
        let octets = match server.ip() {
            std::net::IpAddr::V4(it) => it.octets(),
            std::net::IpAddr::V6(_) => panic!("there is none"),
        };
        let fits = |it: &&&Packet| address(it).chunks(4).any(|it| it == octets);
        assert_eq!(merged.iter().filter(fits).count(), merged.len());
        assert!(!merged.is_empty() && merged.len() < made.truth.packets[hop] as usize);
    }
    let first = read(&made.path("a0.pcap")).0;
    let (since, until) = (first[100].time_ns, first[899].time_ns);
    let time = |ns: i64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let times = ["--since", &time(since), "--until", &time(until)];
    merge(&made.folder.0, &["a0.pcap"], &times);
    let (all, _) = packets(&made.path("merged.pcapng"));
    let wanted = first
        .iter()
        .filter(|it| (since..=until).contains(&it.time_ns));
    assert_eq!(all.len(), wanted.count());
    assert!(all.len() >= 800);
}

#[test]
fn tshark_reads_it() {
    let made = retimed("merge-tshark", CLOCKS);
    merge(&made.folder.0, &NAMES, &[]);
    let fields = [
        "-T",
        "fields",
        "-e",
        "frame.interface_name",
        "-e",
        "frame.time_epoch",
        "-e",
    ];
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(made.path("merged.pcapng"))
        .args(fields)
        .arg("frame.comment")
        .output();
    let Ok(output) = output else {
        println!("SKIPPED: tshark is not installed");
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for line in errors.lines() {
        let is_about_root = line.contains("Running as user");
        assert!(is_about_root || line.is_empty(), "{errors}");
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let (all, _) = packets(&made.path("merged.pcapng"));
    assert_eq!(text.lines().count(), all.len());
    for (line, packet) in text.lines().zip(&all) {
        let second = 1_000_000_000;
        let time = format!("{}.{:09}", packet.time_ns / second, packet.time_ns % second);
        let wanted = format!("a{}\t{time}\t{}", packet.interface, packet.comment);
        assert_eq!(line, wanted);
    }
}

/// What can be read only once is kept to be read again.
#[test]
fn the_standard_input_is_merged_too() {
    let made = retimed("merge-pipe", CLOCKS);
    let files = ["-", "a1.pcap"];
    let arguments = ["analyze", "-o", "report.txt", "--merge", "-"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    let child = child
        .current_dir(&made.folder.0)
        .args(arguments)
        .args(files);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut source = File::open(made.path("a0.pcap")).unwrap();
    let feeder = std::thread::spawn(move || std::io::copy(&mut source, &mut input).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.status.success());
    std::fs::write(made.path("merged.pcapng"), &output.stdout).unwrap();
    let (all, _) = packets(&made.path("merged.pcapng"));
    assert_eq!(
        all.len() as u64,
        made.truth.packets[..2].iter().sum::<u64>()
    );
    check_in_order(&all);
    let names: Vec<String> = read(&made.path("merged.pcapng"))
        .1
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(names, ["stdin", "a1"]);
}

#[test]
fn nothing_is_written_over() {
    let made = retimed("merge-usage", CLOCKS);
    let folder = &made.folder.0;
    std::os::unix::fs::symlink("a1.pcap", folder.join("link.pcap")).unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["--merge", "a0.pcap"], "is a capture to be read"),
        (&["--merge", "./a1.pcap"], "is a capture to be read"),
        (&["--merge", "link.pcap"], "is a capture to be read"),
        (&["--merge", "new", "-o", "./new"], "name one file"),
        (&["--merge", "-"], "standard output"),
        (
            &["--merge", "new", "--conversation", "tcp-1"],
            "cannot be used",
        ),
    ];
    let sizes = || NAMES.map(|name| std::fs::metadata(folder.join(name)).unwrap().len());
    let before = sizes();
    for (more, told) in cases {
        let run = analyze(folder, &NAMES, more);
        assert_eq!(run.code, Some(2), "{more:?}: {}", run.errors);
        assert!(run.errors.contains(told), "{more:?}: {}", run.errors);
    }
    assert_eq!(sizes(), before);
    assert!(!folder.join("new").exists());
    let run = analyze(folder, &NAMES, &["--merge", "nowhere/new"]);
    assert_eq!(run.code, Some(1), "{}", run.errors);
    assert!(run.report.is_some(), "the report is there all the same");
    assert!(
        run.errors.contains("nowhere/new is not complete"),
        "{}",
        run.errors
    );
}

/// Any cut, any flipped bit: no crash, and a file that can be read.
#[test]
fn no_damage_makes_it_fall_over() {
    let made = retimed("merge-flipped", CLOCKS);
    let whole = std::fs::read(made.path("a1.pcap")).unwrap();
    let mut random = Random::new(78, 1);
    for case in 0..12 {
        let mut bytes = whole.clone();
        if case % 3 == 0 {
            bytes.truncate(random.next_u32() as usize % bytes.len());
        }
        for _ in 0..case * 4 {
            if let Some(last) = bytes.len().checked_sub(1) {
                let at = random.next_u32() as usize % (last + 1);
                bytes[at] ^= 1 << (random.next_u32() % 8);
            }
        }
        std::fs::write(made.path("a1.pcap"), &bytes).unwrap();
        let run = merge(&made.folder.0, &NAMES, &[]);
        let is_ended = matches!(run.code, Some(0 | 1 | 3));
        assert!(
            is_ended && !run.errors.contains("panicked"),
            "case {case}: {}",
            run.errors
        );
        let told: u64 = run.report.unwrap().hops.iter().map(|it| it.packets).sum();
        let (frames, _) = read(&made.path("merged.pcapng"));
        assert_eq!(frames.len() as u64, told, "case {case}");
    }
}
