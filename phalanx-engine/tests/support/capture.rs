//! The frames of one capture file with their times, as tcpdump reads them, run through a
//! [`Tracer`].

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use phalanx_common::packet::{Layers, LinkKind};
use phalanx_engine::record::{Decoded, PacketRecord};
use phalanx_engine::segment::Segment;
use phalanx_engine::story::FlowStory;
use phalanx_engine::trace::Tracer;

/// One captured frame.
pub(crate) struct Frame {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) time_ns: i64,
    pub(crate) wire_length: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Folder of extra captures; `None` and a printed line when it is absent.
pub(crate) fn shared_captures(test: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var("PHALANX_SHARED").unwrap_or_else(|_| default.into());
    let folder = Path::new(&root).join("pcaps");
    let has_tcpdump = Command::new("tcpdump").arg("--version").output().is_ok();
    if folder.is_dir() && has_tcpdump {
        return Some(folder);
    }
    println!(
        "SKIPPED: {test}: needs tcpdump and captures in {}; set PHALANX_SHARED",
        folder.display()
    );
    None
}

/// All files below `folder`, sorted.
pub(crate) fn list(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("read folder") {
            let path = entry.expect("read folder").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths
}

/// The link type and the frames of a file; nothing where tcpdump refuses it.
pub(crate) fn read(path: &Path) -> Option<(LinkKind, Vec<Frame>)> {
    let output = Command::new("tcpdump")
        .arg("--time-stamp-precision=nano")
        .arg("-r")
        .arg(path)
        .args(["-w", "-"])
        .output()
        .expect("run tcpdump");
    let bytes = output.stdout;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    assert!(
        word(0).is_none_or(|magic| magic == 0xa1b2_3c4d),
        "little-endian nanoseconds"
    );
    let kind = LinkKind::from_linktype(word(20)? & 0xffff)?;
    let mut frames = Vec::new();
    let mut at = 24;
    while let Some(wire_length) = word(at + 12) {
        let end = at + 16 + word(at + 8)? as usize;
        let Some(data) = bytes.get(at + 16..end) else {
            break;
        };
        frames.push(Frame {
            number: frames.len() as u64 + 1,
            time_ns: i64::from(word(at)?) * 1_000_000_000 + i64::from(word(at + 4)?),
            wire_length,
            bytes: data.to_vec(),
        });
        at = end;
    }
    Some((kind, frames))
}

/// Runs frames through a tracer and gives the stories in the order of their first frames;
/// `each` sees every packet with what was said of it.
pub(crate) fn trace(
    kind: LinkKind,
    frames: &[Frame],
    mut each: impl FnMut(&PacketRecord<'_>, &Segment),
) -> Vec<FlowStory> {
    let (mut layers, mut tracer) = (Layers::default(), Tracer::new(1));
    for frame in frames {
        let Ok(decoded) = Decoded::of(&mut layers, &frame.bytes, kind, frame.wire_length) else {
            continue;
        };
        let record = decoded.record(frame.number, frame.time_ns, frame.wire_length, &frame.bytes);
        let segment = tracer.handle(&record);
        each(&record, &segment);
    }
    let mut stories: Vec<FlowStory> = tracer.finish().map(|ended| *ended.into_story()).collect();
    stories.sort_by_key(|story| story.flow);
    stories
}
