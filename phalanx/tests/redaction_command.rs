//! `phalanx redact` as it is typed: files, folders, keys, exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use phalanx::capture_file::{CaptureFile, Frame};
use phalanx_range::synthesis::Synthesis;

/// A folder for the files of one test, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    /// With two captures of one host.
    fn new(name: &str) -> Self {
        let name = format!("phalanx-redact-{name}-{}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        for name in ["client.pcap", "server.pcap"] {
            let synthesis = Synthesis {
                packets: 300,
                connections: 5,
                ..Synthesis::default()
            };
            let file = std::fs::File::create(folder.0.join(name)).unwrap();
            synthesis.write(file).unwrap();
        }
        folder
    }

    fn run(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_phalanx"))
            .arg("redact")
            .args(arguments.split(' '))
            .current_dir(&self.0)
            .output()
            .unwrap()
    }

    /// Runs it and gives what it said; it must end with this code.
    fn told(&self, arguments: &str, code: i32) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {error}");
        error
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }

    fn frames(&self, name: &str) -> Vec<Frame> {
        frames(self.read(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn frames(bytes: Vec<u8>) -> Vec<Frame> {
    let mut capture = CaptureFile::from_reader("output", std::io::Cursor::new(bytes)).unwrap();
    let frames = capture.frames().unwrap();
    assert!(capture.damage().is_none());
    frames
}

#[test]
fn files_of_one_run_match_and_runs_do_not() {
    let folder = Folder::new("runs");
    let told = folder.told("-o shared client.pcap server.pcap", 0);
    assert!(told.contains("client.pcap: "), "{told}");
    let client = folder.read("shared/client.pcapng");
    assert_eq!(client, folder.read("shared/server.pcapng"));
    folder.told("-o again.pcapng client.pcap", 0);
    assert_ne!(client, folder.read("again.pcapng"));
    let original = folder.frames("client.pcap");
    let redacted = folder.frames("again.pcapng");
    assert_eq!(original.len(), redacted.len());
    for (original, redacted) in original.iter().zip(&redacted) {
        assert_eq!(original.time_ns, redacted.time_ns);
        assert_eq!(original.wire_length, redacted.wire_length);
        assert_ne!(original.bytes[26..34], redacted.bytes[26..34], "addresses");
    }
    let piped = folder.run("-o - client.pcap");
    assert!(piped.status.success());
    assert_eq!(frames(piped.stdout).len(), original.len());
}

#[test]
fn a_key_makes_later_runs_match() {
    let folder = Folder::new("keys");
    folder.told("--new-key key -o one.pcapng client.pcap", 0);
    folder.told("--key-file key -o other.pcapng client.pcap", 0);
    assert_eq!(folder.read("one.pcapng"), folder.read("other.pcapng"));
    let told = folder.told("--new-key key -o one.pcapng client.pcap", 1);
    assert!(told.contains("write the key key"), "{told}");
    let told = folder.told("--key-file none -o one.pcapng client.pcap", 1);
    assert!(told.contains("read the key none"), "{told}");
    folder.told("--key-file key --new-key new -o one.pcapng client.pcap", 2);
    folder.told(
        "--key-file key --keep-addresses -o one.pcapng client.pcap",
        2,
    );
}

#[test]
fn payload_is_kept_only_where_that_is_asked_for() {
    let folder = Folder::new("payload");
    folder.told(
        "--keep-payload --mask 0..4 --keep-addresses -o kept.pcapng client.pcap",
        0,
    );
    folder.told("--keep-addresses -o cut.pcapng client.pcap", 0);
    let (original, kept) = (folder.frames("client.pcap"), folder.frames("kept.pcapng"));
    let cut = folder.frames("cut.pcapng");
    let mut masked = 0;
    for ((original, kept), cut) in original.iter().zip(&kept).zip(&cut) {
        assert_eq!(original.bytes.len(), kept.bytes.len());
        let end = cut.bytes.len();
        let masked_end = (end + 4).min(kept.bytes.len());
        assert!(kept.bytes[end..masked_end].iter().all(|byte| *byte == b'*'));
        assert_eq!(kept.bytes[masked_end..], original.bytes[masked_end..]);
        masked += usize::from(masked_end > end);
    }
    assert!(masked > 50, "{masked}");
    folder.told("--mask 0..4 -o kept.pcapng client.pcap", 2);
}

#[test]
fn what_goes_wrong_is_told_with_its_exit_code() {
    let folder = Folder::new("wrong");
    let before = folder.read("client.pcap");
    let told = folder.told("-o client.pcap client.pcap", 2);
    assert!(told.contains("written over"), "{told}");
    let told = folder.told("-o ../missing/../x/client.pcap none.pcap", 1);
    assert!(told.contains("read none.pcap"), "{told}");
    std::fs::create_dir_all(folder.0.join("a")).unwrap();
    std::fs::copy(folder.0.join("client.pcap"), folder.0.join("a/client.pcap")).unwrap();
    let told = folder.told("-o out client.pcap a/client.pcap", 2);
    assert!(told.contains("would both become"), "{told}");
    assert_eq!(folder.read("client.pcap"), before);
    std::fs::write(folder.0.join("cut.pcap"), &before[..before.len() - 3]).unwrap();
    let told = folder.told("-o cut.pcapng cut.pcap", 3);
    assert!(told.contains("damaged at byte"), "{told}");
    assert_eq!(
        folder.frames("cut.pcapng").len() + 1,
        folder.frames("client.pcap").len()
    );
    std::fs::write(
        folder.0.join("text.pcap"),
        b"this is no capture at all, is it",
    )
    .unwrap();
    assert!(Path::new(&folder.0.join("text.pcap")).exists());
    folder.told("-o text.pcapng text.pcap", 1);
    folder.told("client.pcap", 2);
}
