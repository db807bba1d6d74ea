//! Frames to test filters on: from capture files, as tcpdump reads them, or made here.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use phalanx_engine::filter::LinkType;

/// One captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) wire_length: u32,
}

/// Frames of one link type.
pub(crate) type Corpus = BTreeMap<LinkType, Vec<Frame>>;

/// Folder of extra captures; `None` and a printed line when it is absent.
pub(crate) fn shared_captures() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var("PHALANX_SHARED").unwrap_or_else(|_| default.into());
    let folder = Path::new(&root).join("pcaps");
    if folder.is_dir() {
        return Some(folder);
    }
    println!(
        "SKIPPED: no captures in {}; set PHALANX_SHARED",
        folder.display()
    );
    None
}

/// Whether tcpdump can be run; prints a line when it cannot.
pub(crate) fn has_tcpdump() -> bool {
    let found = Command::new("tcpdump").arg("--version").output().is_ok();
    if !found {
        println!("SKIPPED: tcpdump is not installed");
    }
    found
}

/// Reads every capture below `folder` through tcpdump; also says which were refused and why.
pub(crate) fn read_folder(folder: &Path) -> (Corpus, BTreeMap<String, Vec<String>>) {
    let (mut corpus, mut refused) = (Corpus::new(), BTreeMap::<_, Vec<_>>::new());
    for path in list(folder) {
        let output = Command::new("tcpdump")
            .arg("-r")
            .arg(&path)
            .args(["-w", "-"])
            .output();
        let output = output.expect("run tcpdump");
        let name = path
            .strip_prefix(folder)
            .unwrap_or(&path)
            .display()
            .to_string();
        let Some((link, frames)) = read_pcap(&output.stdout) else {
            refused
                .entry(complaint(&output.stderr, &path))
                .or_default()
                .push(name);
            continue;
        };
        // The upper half says how long the frame check sequence is.
        match LinkType::from_number(link & 0xffff) {
            Some(link) => corpus.entry(link).or_default().extend(frames),
            None => refused
                .entry(format!("link type {link}"))
                .or_default()
                .push(name),
        }
    }
    (corpus, refused)
}

fn complaint(stderr: &[u8], path: &Path) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text
        .lines()
        .find(|line| line.starts_with("tcpdump:"))
        .unwrap_or("unreadable");
    line.replace(&path.display().to_string(), "FILE")
}

pub(crate) fn list(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("read folder") {
        let path = entry.expect("folder entry").path();
        if path.is_dir() {
            files.extend(list(&path));
        } else if path.extension().is_some_and(|end| {
            ["pcap", "pcapng", "snoop", "cap"].contains(&end.to_string_lossy().as_ref())
        }) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A classic little-endian pcap file: link type and frames.
pub(crate) fn read_pcap(bytes: &[u8]) -> Option<(u32, Vec<Frame>)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let link = word(20)?;
    let mut frames = Vec::new();
    let mut at = 24;
    while let (Some(captured), Some(wire_length)) = (word(at + 8), word(at + 12)) {
        let end = at + 16 + captured as usize;
        let Some(data) = bytes.get(at + 16..end) else {
            break;
        };
        frames.push(Frame {
            bytes: data.to_vec(),
            wire_length,
        });
        at = end;
    }
    Some((link, frames))
}

/// Writes a classic pcap file in which the time of a frame, in microseconds, is its index.
pub(crate) fn write_pcap(path: &Path, link: LinkType, frames: &[Frame]) {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link.number()] {
        out.extend(u32::to_le_bytes(word));
    }
    for (index, frame) in frames.iter().enumerate() {
        let index = u32::try_from(index).expect("few frames");
        let captured = u32::try_from(frame.bytes.len()).expect("short frame");
        for word in [
            index / 1_000_000,
            index % 1_000_000,
            captured,
            frame.wire_length,
        ] {
            out.extend(word.to_le_bytes());
        }
        out.extend(&frame.bytes);
    }
    fs::write(path, out).expect("write capture");
}

/// Indices of the frames that tcpdump selects from a file of `write_pcap`, or its complaint.
pub(crate) fn tcpdump_selects(
    path: &Path,
    flags: &[&str],
    expression: &str,
) -> Result<Vec<usize>, String> {
    let mut command = Command::new("tcpdump");
    command
        .arg("-r")
        .arg(path)
        .args(flags)
        .args(["-w", "-", "--", expression]);
    let output = command.output().expect("run tcpdump");
    if !output.status.success() {
        let text = complaint(&output.stderr, path);
        // An expression that cannot match is an error to tcpdump, an empty answer to us.
        return if text.contains("rejects all packets") {
            Ok(vec![])
        } else {
            Err(text)
        };
    }
    let bytes = output.stdout;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut indices = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(micros), Some(size)) = (word(at), word(at + 4), word(at + 8)) {
        indices.push(seconds as usize * 1_000_000 + micros as usize);
        at += 16 + size as usize;
    }
    Ok(indices)
}

/// Frames of all supported link types made here, many of them cut short.
pub(crate) fn made_here() -> Corpus {
    let mut packets: Vec<(u16, Vec<u8>)> = Vec::new();
    for (source, destination) in [(1, 2), (2, 1), (3, 77)] {
        for (protocol, transport) in transports() {
            let ipv4 = ipv4(source, destination, protocol, 0, &transport);
            packets.push((0x0800, ipv4));
            packets.push((0x86dd, ipv6(source, destination, protocol, &transport)));
        }
        packets.push((0x0806, arp(source, destination)));
        packets.push((0x8035, arp(destination, source)));
        let (protocol, transport) = &transports()[0];
        packets.push((0x0800, ipv4(source, destination, *protocol, 100, transport)));
        let fragment = [&[*protocol, 0, 0, 1, 0, 0, 0, 7][..], transport].concat();
        packets.push((0x86dd, ipv6(source, destination, 44, &fragment)));
    }
    let mut corpus = Corpus::new();
    for (ether_type, packet) in &packets {
        for (link, bytes) in encapsulate(*ether_type, packet) {
            let wire_length = u32::try_from(bytes.len()).expect("short frame");
            for cut in [0, 1, 3, 7, 12, 20, 21, 34, 40, 47] {
                let bytes = bytes[..bytes.len().saturating_sub(cut)].to_vec();
                corpus
                    .entry(link)
                    .or_default()
                    .push(Frame { bytes, wire_length });
            }
        }
    }
    corpus
}

fn transports() -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for (source, destination) in [(40_000, 80), (443, 40_001), (53, 53)] {
        let ports = [u16::to_be_bytes(source), u16::to_be_bytes(destination)].concat();
        for flags in [0x02, 0x12, 0x18, 0x11, 0x04] {
            let rest = [0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0];
            all.push((6, [&ports[..], &rest, &[0xaa; 9]].concat()));
        }
        all.push((17, [&ports[..], &[0, 20, 0, 0], &[0xbb; 12]].concat()));
        all.push((
            132,
            [&ports[..], &[0, 0, 0, 9, 1, 2, 3, 4], &[1, 0, 0, 4]].concat(),
        ));
    }
    for kind in [8, 0, 3, 128, 129] {
        all.push((1, [&[kind, 1, 0, 0, 0, 1, 0, 2][..], &[0xcc; 16]].concat()));
        all.push((58, [&[kind, 0, 0, 0, 0, 1, 0, 2][..], &[0xdd; 16]].concat()));
    }
    all.push((2, vec![0x16, 0, 0, 0, 224, 0, 0, 5]));
    all.push((50, vec![0; 24]));
    all
}

fn ipv4(source: u8, destination: u8, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let options = usize::from(source % 2) * 4;
    let length = u16::try_from(20 + options + payload.len()).expect("short packet");
    let mut out = vec![0x45 + u8::try_from(options / 4).expect("few"), 0];
    out.extend(length.to_be_bytes());
    out.extend([0, 9]);
    out.extend(fragment.to_be_bytes());
    out.extend([60 + source, protocol, 0, 0, 10, 1, 0, source]);
    out.extend(if destination == 77 {
        [224, 0, 0, 5]
    } else {
        [10, 2, 0, destination]
    });
    out.extend(vec![1; options]);
    out.extend(payload);
    out
}

fn ipv6(source: u8, destination: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short packet");
    let mut out = vec![0x60, 0, 0, 0];
    out.extend(length.to_be_bytes());
    out.extend([next, 60 + source]);
    out.extend([0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, source]);
    let group = if destination == 77 { 0xff } else { 0x20 };
    out.extend([
        group,
        1,
        0x0d,
        0xb8,
        0,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        destination,
    ]);
    out.extend(payload);
    out
}

fn arp(source: u8, destination: u8) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4, 0, 1];
    out.extend([2, 0, 0, 0, 0, source, 10, 1, 0, source]);
    out.extend([2, 0, 0, 0, 0, destination, 10, 2, 0, destination]);
    out
}

fn encapsulate(ether_type: u16, packet: &[u8]) -> Vec<(LinkType, Vec<u8>)> {
    let kind = ether_type.to_be_bytes();
    let host = packet[packet.len() / 2] % 4;
    let group = if packet.len().is_multiple_of(5) {
        0xff
    } else {
        2
    };
    let macs = [
        group, group, group, group, group, group, 2, 0, 0, 0, 0, host,
    ];
    let tag = |id: u8| [0x81, 0x00, 0, id];
    let mut frames = vec![
        (LinkType::Ethernet, [&macs[..], &kind, packet].concat()),
        (
            LinkType::Ethernet,
            [&macs[..], &tag(5), &kind, packet].concat(),
        ),
        (
            LinkType::Ethernet,
            [&macs[..], &tag(6), &tag(host), &kind, packet].concat(),
        ),
        (
            LinkType::LinuxSll,
            [&[0, 0, 0, 1, 0, 6][..], &macs[..8], &kind, packet].concat(),
        ),
        (
            LinkType::LinuxSll2,
            [&kind[..], &[0; 6], &macs, packet].concat(),
        ),
        (
            LinkType::CiscoHdlc,
            [&[0x0f, 0][..], &kind, packet].concat(),
        ),
    ];
    let ppp = match ether_type {
        0x0800 => [0, 0x21],
        0x86dd => [0, 0x57],
        _ => kind,
    };
    for link in [LinkType::Ppp, LinkType::PppSerial] {
        frames.push((link, [&[0xff, 3][..], &ppp, packet].concat()));
    }
    let session = [0x11, 0, 0, 7, 0, 40];
    frames.push((LinkType::PppEther, [&session[..], &ppp, packet].concat()));
    let family = match ether_type {
        0x0800 => 2,
        0x86dd => 10,
        _ => return frames,
    };
    frames.push((LinkType::Raw, packet.to_vec()));
    frames.push((LinkType::Null, [&[family, 0, 0, 0][..], packet].concat()));
    frames.push((LinkType::Loop, [&[0, 0, 0, family][..], packet].concat()));
    let bare = if family == 2 {
        LinkType::Ipv4
    } else {
        LinkType::Ipv6
    };
    frames.push((bare, packet.to_vec()));
    frames
}
