//! A daemon that cannot write where it keeps captures. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::{BINARY, Daemon, START_TIMEOUT, await_that, error_of, hop, up};
use phalanx_range::{Range, Topology};
use serde_json::json;

const ONE: &str = "
nodes: [{ name: host }, { name: other }]
links: [{ a: { node: host }, b: { node: other } }]
";
const PORT: u16 = 7541;

/// A file system in memory that was written and is read-only now; gone with the value.
struct ReadOnlyDisk(PathBuf);

impl ReadOnlyDisk {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("phx-readonly-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let disk = Self(path);
        disk.mount(&["-t", "tmpfs", "phalanx-test"]);
        std::fs::create_dir(disk.0.join("there")).unwrap();
        disk.mount(&["-o", "remount,ro"]);
        disk
    }

    fn mount(&self, arguments: &[&str]) {
        let status = Command::new("mount").args(arguments).arg(&self.0).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    }
}

impl Drop for ReadOnlyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A directory of somebody else; gone with the value. The daemon runs as root, but has dropped
/// what lets root write everywhere.
struct Others(PathBuf);

impl Others {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("phx-others-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
        Self(path)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Starts with a directory; the log says that it is no use, and why.
fn start<'range>(range: &'range Range, directory: &Path, why: &str) -> Daemon<'range> {
    let host = range.host("host").unwrap();
    let mut command = up(host);
    command
        .args(["--all", "--listen", &format!("127.0.0.1:{PORT}"), "--set"])
        .arg(format!("capture_directory={}", directory.display()));
    let daemon = Daemon::spawn(host, PORT, command);
    let line = daemon.await_line("captures cannot be kept", START_TIMEOUT);
    println!("{line}");
    assert!(line.contains("WARN") && line.contains(why), "{line}");
    assert!(line.contains(directory.to_str().unwrap()), "{line}");
    daemon.await_line("watching;", START_TIMEOUT);
    daemon
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn where_captures_cannot_be_kept_all_else_works_and_it_is_told() {
    let range = Range::build(&Topology::from_yaml_str(ONE).unwrap()).unwrap();
    let (host, other) = (range.host("host").unwrap(), range.host("other").unwrap());
    let (disk, others) = (ReadOnlyDisk::new(), Others::new());
    for (directory, why) in [
        (disk.0.join("missing"), "Read-only file system"),
        (disk.0.join("there"), "Read-only file system"),
        (others.0.clone(), "Permission denied"),
        (others.0.join("missing"), "Permission denied"),
        (PathBuf::from("/dev/null/captures"), "Not a directory"),
    ] {
        let daemon = start(&range, &directory, why);
        for refused in [
            daemon.post("/api/v1/captures", &json!({"filter": "tcp"})),
            daemon.get("/api/v1/captures"),
        ] {
            assert_eq!(refused["status"], 503, "{refused}");
            let detail = refused["detail"].as_str().unwrap();
            assert!(detail.contains(why), "{refused}");
            let remedy = refused["remedy"].as_str().unwrap();
            assert!(remedy.contains("capture_directory"), "{refused}");
        }
        let capture = host
            .command(BINARY)
            .unwrap()
            .args(["capture", "-w", "-", "--api", &daemon.api(), "tcp"])
            .output()
            .unwrap();
        let error = error_of(&capture);
        assert!(
            error.contains(why) && error.contains("capture_directory"),
            "{error}"
        );
        let target = (other.ipv4().unwrap(), 9);
        await_that("packets are seen", || {
            host.enter(|| std::net::TcpStream::connect(target).is_err())
                .unwrap();
            hop(&daemon.status(), "to-other")["state"] == "running"
        });
    }
}
