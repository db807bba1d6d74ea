//! Whole captures, redacted: the analysis tells the same stories of them, up to addresses and what
//! only payload tells, and others read them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/captures.rs"]
mod captures;
#[path = "redaction/invariant.rs"]
mod invariant;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use phalanx::capture_file::{self, CaptureFile, OpenOptions};
use phalanx::redaction::{Addresses, Export, Payload, Pseudonyms, Redactor, Tally};
use phalanx_engine::story::FlowStory;
use phalanx_range::synthesis::Synthesis;

/// A folder for files of one test, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("phalanx-redaction-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn replaced() -> Addresses {
    Addresses::Replaced(Box::new(invariant::pseudonyms()))
}

/// Redacts a capture; `None` where it is none.
fn redact(from: &Path, to: &Path, addresses: Addresses) -> Option<Tally> {
    let capture = capture_file::open(from, &OpenOptions::default()).ok()?;
    let redactor = Redactor::new(addresses, Payload::Cut);
    let mut export = Export::new(capture, redactor, Vec::new(), false).unwrap();
    while export.step().unwrap() {}
    let exported = export.finish().unwrap();
    std::fs::write(to, &exported.output).unwrap();
    let tally = exported.tally;
    let omitted: u64 = tally.omitted.values().sum();
    assert_eq!(tally.read, tally.written + omitted, "{}", from.display());
    Some(tally)
}

/// A story without what only payload tells, and without the numbers of frames.
fn without_payload(mut story: Box<FlowStory>) -> Box<FlowStory> {
    story.application = Default::default();
    (story.flow, story.last_frame, story.hop) = (0, 0, 0);
    story
}

/// A story with the stand-ins of its addresses.
fn with_stand_ins(mut story: Box<FlowStory>, pseudonyms: &mut Pseudonyms) -> Box<FlowStory> {
    for end in story
        .endpoints
        .iter_mut()
        .flat_map(|ends| [&mut ends.client, &mut ends.server])
    {
        end.address = match end.address {
            IpAddr::V4(address) => pseudonyms.v4(address.octets()).into(),
            IpAddr::V6(address) => pseudonyms.v6(address.octets()).into(),
        };
    }
    story
}

/// Whether the analysis looked at the content of packets: what it took for copies or for other
/// content may be taken otherwise without.
fn looked_at_content(story: &FlowStory) -> bool {
    [&story.sides.client, &story.sides.server]
        .iter()
        .any(|side| {
            let counts = &side.counts;
            counts.conflicting_packets + counts.network_duplicates + counts.capture_duplicates > 0
                || counts.cut_packets > 0
                || counts.spurious_retransmissions > 0
        })
}

#[derive(Default, Debug)]
struct Compared {
    files: usize,
    stories: usize,
    /// Of these, those that are the same as of the capture itself, of those that can be.
    same: usize,
    comparable: usize,
}

impl Compared {
    fn take(&mut self, path: &Path, folder: &Folder) {
        let (kept, cut) = (folder.file("kept.pcapng"), folder.file("cut.pcapng"));
        if redact(path, &kept, Addresses::Kept).is_none() {
            return;
        }
        redact(path, &cut, replaced()).unwrap();
        self.files += 1;
        let mut pseudonyms = invariant::pseudonyms();
        let original = captures::stories(path, 1);
        let kept = captures::stories(&kept, 1);
        let cut = captures::stories(&cut, 1);
        let name = path.display();
        assert_eq!(kept.len(), cut.len(), "{name}");
        assert_eq!(original.len(), kept.len(), "{name}");
        self.stories += kept.len();
        for ((original, kept), cut) in original.into_iter().zip(kept).zip(cut) {
            let flow = original.flow;
            let is_comparable = !looked_at_content(&original);
            self.comparable += usize::from(is_comparable);
            let mut payload_cut = kept.clone();
            for side in [&mut payload_cut.sides.client, &mut payload_cut.sides.server] {
                side.counts.cut_packets = 0;
            }
            let is_same = without_payload(original.clone()) == without_payload(payload_cut.clone());
            if is_comparable && !is_same {
                println!(
                    "{name} flow {flow}:\n{:?}\n{:?}",
                    without_payload(original),
                    without_payload(payload_cut)
                );
            }
            self.same += usize::from(is_comparable && is_same);
            assert_eq!(
                with_stand_ins(kept, &mut pseudonyms),
                cut,
                "{name} flow {flow}"
            );
        }
    }
}

#[test]
fn synthetic_captures_tell_the_same_stories() {
    let folder = Folder::new("synthesis");
    let path = folder.file("synthesis.pcap");
    let mut compared = Compared::default();
    for (seed, snap_bytes) in [(1, 0), (2, 96)] {
        let synthesis = Synthesis {
            seed,
            snap_bytes,
            loss: 0.01,
            ..Synthesis::default()
        };
        synthesis
            .write(std::fs::File::create(&path).unwrap())
            .unwrap();
        compared.take(&path, &folder);
    }
    println!("{compared:?}");
    assert!(compared.stories > 200, "{compared:?}");
    assert_eq!(compared.same, compared.comparable, "{compared:?}");
}

#[test]
fn captures_of_others_tell_the_same_stories() {
    let Some(shared) = captures::shared() else {
        return;
    };
    let folder = Folder::new("shared");
    let mut compared = Compared::default();
    for path in captures::list(&shared) {
        compared.take(&path, &folder);
    }
    println!("{compared:?}");
    assert_eq!(compared.same, compared.comparable, "{compared:?}");
    assert!(
        compared.files >= 150 && compared.stories > 3_000,
        "{compared:?}"
    );
}

/// Every frame of a file holds what stands in for its addresses, and none of the old ones.
#[test]
fn frames_of_others_are_redacted_as_they_must_be() {
    let Some(shared) = captures::shared() else {
        return;
    };
    let mut ground = invariant::Ground::new(Payload::Cut);
    let (mut redacted, mut left_out) = (0, 0);
    for path in captures::list(&shared) {
        let Ok(mut capture) = capture_file::open(&path, &OpenOptions::default()) else {
            continue;
        };
        for frame in capture.frames().unwrap() {
            let link_type = u32::from(frame.link_type);
            match ground.check(&frame.bytes, link_type, frame.wire_length) {
                Ok(_) => redacted += 1,
                Err(_) => left_out += 1,
            }
        }
    }
    println!("{redacted} frames redacted, {left_out} left out");
    assert!(redacted > 39_000, "{redacted}");
}

/// What a program prints; `None` and a printed line where it is not installed.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        println!("SKIPPED: {program} is not installed");
        return None;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {error}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn others_read_what_we_redact() {
    let folder = Folder::new("others");
    let (from, to) = (folder.file("from.pcap"), folder.file("to.pcapng"));
    let synthesis = Synthesis {
        packets: 2_000,
        ..Synthesis::default()
    };
    synthesis
        .write(std::fs::File::create(&from).unwrap())
        .unwrap();
    let tally = redact(&from, &to, replaced()).unwrap();
    let fields = |path: &Path| {
        let path = path.display().to_string();
        let mut arguments = vec!["-n", "-r", &path, "-o", "ip.check_checksum:TRUE"];
        arguments.extend(["-o", "tcp.check_checksum:TRUE", "-T", "fields"]);
        for field in [
            "frame.time_epoch",
            "frame.len",
            "ip.checksum.status",
            "ip.len",
            "tcp.seq_raw",
            "tcp.ack_raw",
            "tcp.len",
            "tcp.flags",
            "tcp.options.timestamp.tsval",
            "tcp.stream",
            "udp.length",
            "tcp.analysis.retransmission",
            "tcp.analysis.ack_rtt",
        ] {
            arguments.extend(["-e", field]);
        }
        output("tshark", &arguments)
    };
    if let (Some(before), Some(after)) = (fields(&from), fields(&to)) {
        assert_eq!(before.lines().count() as u64, tally.written);
        for (before, after) in before.lines().zip(after.lines()) {
            assert_eq!(before, after);
        }
    }
    // Where nothing was cut, the checksum of TCP can be verified.
    let path = to.display().to_string();
    let arguments = ["-n", "-r", &path, "-o", "tcp.check_checksum:TRUE", "-Y"];
    let wrong = ["tcp.len == 0 && !(tcp.checksum.status == 1)"];
    if let Some(text) = output("tshark", &[&arguments[..], &wrong].concat()) {
        assert_eq!(text, "");
    }
    if let Some(text) = output("tcpdump", &["-n", "-r", &path]) {
        assert_eq!(text.lines().count() as u64, tally.written);
    }
}

#[test]
fn nothing_but_packets_is_copied() {
    let mut writer = phalanx::pcapng::Writer::new(Vec::new(), "of host secret-host").unwrap();
    writer
        .add_interface(&phalanx::pcapng::Interface {
            name: "secret-name".into(),
            description: "secret-description".into(),
            link_type: 1,
            snap_length: 0,
            filter: "host secret-filter".into(),
        })
        .unwrap();
    let mut arp = [0; 42];
    arp[12..20].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4]);
    writer
        .write(&phalanx::pcapng::Packet {
            interface: 0,
            time_ns: 5,
            wire_length: 60,
            bytes: &arp,
            comment: "secret-comment",
        })
        .unwrap();
    let note = "phalanx-translation/1 tcp 10.0.0.1:51000 10.0.0.2:443 192.0.2.1:1025 10.0.0.2:443 \
        secret-edge";
    assert!(phalanx::translation::Note::parse(note.as_bytes()).is_some());
    writer.write_remarks(0, 5, &[note.to_owned()]).unwrap();
    let mut input = writer.finish().unwrap();
    // A name resolution block, in the byte order of the file: 10.0.0.1 is secret-peer.
    let is_little = input[8] == 0x4d;
    let mut names = Vec::new();
    let mut word = |number: u32| {
        names.extend(if is_little {
            number.to_le_bytes()
        } else {
            number.to_be_bytes()
        });
    };
    word(4);
    word(40);
    word(if is_little {
        16 << 16 | 1
    } else {
        1 << 16 | 16
    });
    word(u32::from_ne_bytes([10, 0, 0, 1]));
    for part in [b"secr", b"et-p", b"eer\0"] {
        word(if is_little {
            u32::from_le_bytes(*part)
        } else {
            u32::from_be_bytes(*part)
        });
    }
    for number in [0, 0, 40] {
        word(number);
    }
    input.extend(names);
    for (are_names_kept, expected) in [(false, 0), (true, 1)] {
        let capture = CaptureFile::from_reader("m", std::io::Cursor::new(input.clone())).unwrap();
        let redactor = Redactor::new(replaced(), Payload::Cut);
        let mut export = Export::new(capture, redactor, Vec::new(), are_names_kept).unwrap();
        while export.step().unwrap() {}
        let exported = export.finish().unwrap();
        assert_eq!((exported.tally.read, exported.tally.written), (1, 1));
        let told = exported
            .output
            .windows(7)
            .filter(|it| it == b"secret-")
            .count();
        assert_eq!(told, expected);
        assert!(exported.damage.is_none());
    }
}
