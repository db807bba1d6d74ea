//! The daemon on a kernel, end to end: it loads, attaches, watches and records a TCP connection
//! whose bytes are known, and leaves nothing behind. `cargo xtask test --ring kernels` runs this
//! file on Debian's kernels in a virtual machine, the program ring on this machine's.
#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

const REQUEST_BYTES: usize = 300_000;
const RESPONSE_BYTES: usize = 50_000;
const SERVER_PORT: u16 = 7979;
/// Software emulation takes its time.
const WAIT_MAX: Duration = Duration::from_secs(180);

#[test]
#[ignore = "needs root: run by cargo xtask test --ring kernels"]
fn tc_watches_and_records_and_leaves_nothing() {
    watch("tc", "kt");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring kernels"]
fn clsact_watches_and_records_and_leaves_nothing() {
    watch("clsact", "kc");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring kernels"]
fn xdp_watches_and_records_and_leaves_nothing() {
    watch("xdp", "kx");
}

/// Runs the daemon on one end of a veth pair and a connection through it. The daemon's own flags
/// are drawn from `way`: how it is attached.
fn watch(way: &str, prefix: &str) {
    let pair = Pair::new(prefix);
    let server = pair.serve();
    let mut daemon = Daemon::start(&pair, way);
    let filter = format!(r#"{{"filter": "tcp port {SERVER_PORT}", "duration": 300}}"#);
    let capture = daemon.ask("POST", "/api/v1/captures", &filter).unwrap();
    let capture = format!("/api/v1/captures/{}", capture["id"].as_str().unwrap());
    exchange();
    server.join().unwrap();
    let path = format!("/api/v1/flows?port={SERVER_PORT}&state=closed");
    let flows = daemon.wait_for(&path, |page| page["flows"].get(0).is_some());
    let flow = &flows["flows"][0];
    println!("{way}: {flow}");
    assert_eq!(flow["protocol"], "tcp");
    assert_eq!(flow["hop"]["interface"], Value::from(pair.interface()));
    assert_eq!(flow["close_reason"], "fin");
    assert_eq!(flow["server"]["port"], SERVER_PORT);
    // Seen from the opening: headers come on top of the payload, nothing is lost on a veth.
    for (side, payload_bytes) in [
        ("client_sent", REQUEST_BYTES),
        ("server_sent", RESPONSE_BYTES),
    ] {
        let sent = &flow[side];
        let bytes = usize::try_from(sent["bytes"].as_u64().unwrap()).unwrap();
        let packets = usize::try_from(sent["packets"].as_u64().unwrap()).unwrap();
        let retransmitted = sent["retransmitted_bytes"].as_u64().unwrap();
        assert!(packets >= 3, "{side}: {packets} packets");
        // Each packet has 20 bytes of IP header and 20 to 60 of TCP header.
        let header_bytes = bytes - payload_bytes - usize::try_from(retransmitted).unwrap();
        assert!(
            (40 * packets..=80 * packets).contains(&header_bytes),
            "{side}: {bytes} bytes in {packets} packets"
        );
    }
    assert!(flow["handshake_server_ms"].as_f64().unwrap() > 0.0);
    // Handshake, data, both ends' FIN: a record for each packet or super-segment.
    let records = daemon.wait_for(&capture, |capture| capture["packets"].as_u64() >= Some(8));
    assert_eq!(records["losses"], Value::Array(Vec::new()));
    let status = daemon.stop();
    assert!(status.success(), "the daemon ended with {status}");
    pair.assert_detached();
}

/// Sends a request of known length, and reads the answer to its end.
fn exchange() {
    let mut stream = TcpStream::connect(("198.51.100.2", SERVER_PORT)).unwrap();
    stream.write_all(&vec![b'q'; REQUEST_BYTES]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), RESPONSE_BYTES);
}

/// A veth pair: one end here, the other in a namespace of its own.
struct Pair {
    name: String,
}

impl Pair {
    fn new(prefix: &str) -> Self {
        let pair = Self {
            name: format!("{prefix}{}", std::process::id()),
        };
        let (name, near, far) = (&pair.name, pair.interface(), pair.far());
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {near} type veth peer name {far} netns {name}"
        ));
        ip(&format!("address add 198.51.100.1/30 dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!(
            "-netns {name} address add 198.51.100.2/30 dev {far}"
        ));
        ip(&format!("-netns {name} link set {far} up"));
        pair
    }

    fn interface(&self) -> String {
        format!("{}a", self.name)
    }

    fn far(&self) -> String {
        format!("{}b", self.name)
    }

    /// Answers one connection in the namespace, and closes it after the client.
    fn serve(&self) -> JoinHandle<()> {
        let namespace = std::fs::File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let server = std::thread::spawn(move || {
            // Of this thread alone.
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind(("198.51.100.2", SERVER_PORT)).unwrap();
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut vec![0; REQUEST_BYTES]).unwrap();
            stream.write_all(&vec![b'a'; RESPONSE_BYTES]).unwrap();
        });
        is_ready.recv().unwrap();
        server
    }

    /// Nothing of the daemon is on the interface: no XDP program, no TC filter.
    fn assert_detached(&self) {
        let link = ip(&format!("-details link show {}", self.interface()));
        assert!(!link.contains("prog/"), "{link}");
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "delete", &self.interface()])
            .output();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .output();
    }
}

/// Runs `ip` and gives what it prints.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A running daemon; killed where the test ends before it was stopped.
struct Daemon {
    child: Child,
    address: SocketAddr,
}

impl Daemon {
    fn start(pair: &Pair, way: &str) -> Self {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let captures = std::env::temp_dir().join(&pair.name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
        command.args([
            "up",
            "--config",
            "/dev/null",
            "--interface",
            &pair.interface(),
        ]);
        command.args(["--listen", &address.to_string(), "--flow-count-max", "4096"]);
        command.args([
            "--set",
            &format!("capture_directory={}", captures.display()),
        ]);
        match way {
            "clsact" => command.args(["--hook", "tc", "--set", "tc_attachment=clsact"]),
            hook => command.args(["--hook", hook]),
        };
        let mut daemon = Self {
            child: command.spawn().unwrap(),
            address,
        };
        daemon.wait_for("/readyz", |health| health["status"] == "ok");
        daemon
    }

    /// Asks until the answer is as it should be.
    fn wait_for(&mut self, path: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        let mut last = Value::Null;
        while start.elapsed() < WAIT_MAX {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}");
            }
            if let Some(answer) = self.get(path) {
                if is_right(&answer) {
                    return answer;
                }
                last = answer;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{path} still answers {last}");
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.ask("GET", path, "")
    }

    /// The answer as JSON, if there is one.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let (host, length) = (self.address, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn stop(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
