//! What systemd is told, over a socket of the test in its place. Run by
//! `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::{Daemon, START_TIMEOUT, STEP_TIMEOUT, up};
use nix::sys::signal::Signal;
use phalanx_range::{Range, Topology};

const ONE: &str = "
nodes: [{ name: host }, { name: other }]
links: [{ a: { node: host }, b: { node: other } }]
";
const LISTEN: &str = "127.0.0.1:7531";

/// The socket that systemd would have; gone with the value.
struct Manager {
    socket: UnixDatagram,
    folder: PathBuf,
}

impl Manager {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("phx-notify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = UnixDatagram::bind(folder.join("socket")).unwrap();
        Self { socket, folder }
    }

    /// The next message that has a key; those without it are passed over.
    fn next(&self, key: &str, timeout: Duration) -> BTreeMap<String, String> {
        self.socket.set_read_timeout(Some(timeout)).unwrap();
        loop {
            let mut bytes = [0; 4096];
            let size = self.socket.recv(&mut bytes);
            let size = size.unwrap_or_else(|error| panic!("no {key}: {error}"));
            let text = std::str::from_utf8(&bytes[..size]).unwrap();
            let pairs = text.lines().map(|line| line.split_once('=').unwrap());
            let message: BTreeMap<_, _> = pairs
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            if message.contains_key(key) {
                return message;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The first line of the answer to `/readyz`, without any detour.
fn readiness() -> String {
    let mut stream = TcpStream::connect(LISTEN).unwrap();
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {LISTEN}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}

fn monotonic_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(Duration::from(now).as_micros()).unwrap()
}

fn unit() -> String {
    let path = "../examples/systemd/phalanx.service";
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A reload as systemd wants it told: its begin with the time, then its end.
fn check_reload(manager: &Manager, daemon: &Daemon<'_>) {
    let before = monotonic_us();
    daemon.signal(Signal::SIGHUP);
    let reloading = manager.next("RELOADING", STEP_TIMEOUT);
    assert_eq!(reloading["RELOADING"], "1");
    let told: u64 = reloading["MONOTONIC_USEC"].parse().unwrap();
    assert!((before..=monotonic_us()).contains(&told), "{reloading:?}");
    let ready = manager.next("READY", STEP_TIMEOUT);
    assert_eq!(ready["READY"], "1");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn systemd_is_told_of_the_start_reloads_and_the_end() {
    let unit = unit();
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
    let range = Range::build(&Topology::from_yaml_str(ONE).unwrap()).unwrap();
    let host = range.host("host").unwrap();
    let manager = Manager::new();
    let file = manager.folder.join("phalanx.toml");
    std::fs::write(&file, "interfaces = [\"to-other\"]\n").unwrap();
    let mut command = up(host);
    command
        .args(["--listen", LISTEN, "--config"])
        .arg(&file)
        .env("NOTIFY_SOCKET", manager.folder.join("socket"));
    let mut daemon = Daemon::spawn(host, 7531, command);
    let (ready, line) = host
        .enter(|| (manager.next("READY", START_TIMEOUT), readiness()))
        .unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK", "ready, as systemd was told");
    assert!(ready["STATUS"].contains(LISTEN), "{ready:?}");

    // Once a second, whether or not the unit has a watchdog.
    for _ in 0..3 {
        let alive = manager.next("WATCHDOG", Duration::from_secs(3));
        assert_eq!(alive["WATCHDOG"], "1");
    }

    check_reload(&manager, &daemon);
    daemon.await_line("reloaded", STEP_TIMEOUT);
    std::fs::write(&file, "interfaces = 3\n").unwrap();
    check_reload(&manager, &daemon);
    let line = daemon.await_line("nothing was reloaded", STEP_TIMEOUT);
    assert!(line.contains("phalanx.toml:1: interfaces"), "{line}");

    daemon.signal(Signal::SIGTERM);
    let stopping = manager.next("STOPPING", STEP_TIMEOUT);
    assert_eq!(stopping["STOPPING"], "1");
    assert!(daemon.wait().success());
}
