//! A daemon in a namespace of a range, its API, its metrics, and its tables read past it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData, MapInfo, PerCpuArray};
use phalanx_common::abi::{COUNTER_COUNT, Counter, FlowKey, FlowUpdate};
use phalanx_common::packet::Unparsed;
use phalanx_common::watch::{Bucket, FlowEntry, PendingHalf};
use phalanx_range::Host;
use serde_json::Value;
use zerocopy::FromBytes;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_phalanx");
/// Loading five programs takes the verifier some seconds, more on a busy machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(120);
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Sets where captures are kept; below any flag.
const CAPTURES: &str = "PHALANX_CAPTURE_DIRECTORY";

/// A daemon; ended when dropped.
pub(crate) struct Daemon<'range> {
    child: Child,
    log: Receiver<String>,
    host: &'range Host,
    port: u16,
    pub(crate) folder: std::path::PathBuf,
}

impl<'range> Daemon<'range> {
    /// Starts a daemon on a loopback port of the host, and waits until it watches.
    pub(crate) fn start(host: &'range Host, port: u16, arguments: &[&str]) -> Self {
        let mut command = up(host);
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(arguments);
        let daemon = Self::spawn(host, port, command);
        daemon.await_line("watching;", START_TIMEOUT);
        daemon
    }

    /// Starts a command made from [`up`], and waits for nothing. Captures go to a folder of its
    /// own, unless the command says otherwise.
    pub(crate) fn spawn(host: &'range Host, port: u16, mut command: Command) -> Self {
        let folder = std::env::temp_dir().join(format!("{}-{port}", host.namespace().name()));
        if command.get_envs().all(|(name, _)| name != CAPTURES) {
            command.env(CAPTURES, &folder);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            log,
            host,
            port,
            folder,
        }
    }

    /// The next line of the log that holds `wanted`; those before it are passed over.
    pub(crate) fn await_line(&self, wanted: &str, timeout: Duration) -> String {
        let end = Instant::now() + timeout;
        let mut seen = Vec::new();
        while let Ok(line) = self
            .log
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if line.contains(wanted) {
                return line;
            }
            seen.push(line);
        }
        panic!("no {wanted:?} in {seen:#?}");
    }

    /// The lines of the log that were not passed over yet.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    /// What `phalanx status` tells.
    pub(crate) fn status(&self) -> Value {
        let output = self
            .host
            .command(BINARY)
            .unwrap()
            .args(["status", "--format", "json", "--api", &self.api()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn api(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The body of an answer, whatever its status.
    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> Vec<u8> {
        let output = self
            .host
            .command("curl")
            .unwrap()
            .args(["-s", "--max-time", "20"])
            .args(arguments)
            .arg(format!("http://127.0.0.1:{}{path}", self.port))
            .output()
            .unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        output.stdout
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        serde_json::from_slice(&self.curl(&[], path)).unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let arguments = ["-H", "content-type: application/json", "-d", &body];
        serde_json::from_slice(&self.curl(&arguments, path)).unwrap()
    }

    /// The sum of a family over the lines that hold all of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = String::from_utf8(self.curl(&[], "/metrics")).unwrap();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        let values: Vec<u64> = lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
            .collect();
        assert!(!values.is_empty(), "{name} {labels:?} is not in {text}");
        values.iter().sum()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in bytes, as the kernel says.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS")
    }

    /// A field of `/proc/PID/status` that is a size, in bytes.
    pub(crate) fn memory_bytes(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| *name == field).unwrap();
        let kilobytes = value.trim().trim_end_matches(" kB").trim();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// The daemon's map of this name, by the ids that its descriptors have.
    fn map(&self, name: &str) -> Map {
        let folder = format!("/proc/{}/fdinfo", self.child.id());
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let Ok(text) = std::fs::read_to_string(entry.path()) else {
                continue;
            };
            let id = text.lines().find_map(|line| line.strip_prefix("map_id:"));
            let Some(id) = id.and_then(|id| id.trim().parse().ok()) else {
                continue;
            };
            if MapInfo::from_id(id).unwrap().name_as_str() == Some(name) {
                return Map::from_map_data(MapData::from_id(id).unwrap()).unwrap();
            }
        }
        panic!("the daemon has no map {name}");
    }

    /// The counters of the programs, past the daemon.
    pub(crate) fn counters(&self) -> Accounting {
        let map: PerCpuArray<_, [u64; COUNTER_COUNT]> =
            PerCpuArray::try_from(self.map("COUNTERS")).unwrap();
        let mut sums = [0; COUNTER_COUNT];
        for counters in map.get(&0, 0).unwrap().iter() {
            for (sum, counter) in sums.iter_mut().zip(counters) {
                *sum += counter;
            }
        }
        Accounting(sums)
    }

    /// The table of flows, past the daemon.
    pub(crate) fn flows(&self) -> BTreeMap<FlowKey, [Sent; 2]> {
        const VALUE_SIZE: usize = size_of::<FlowEntry>();
        let map: HashMap<_, [u8; size_of::<FlowKey>()], [u8; VALUE_SIZE]> =
            HashMap::try_from(self.map("FLOWS")).unwrap();
        let entries = map.iter().map(|entry| {
            let (key, value) = entry.unwrap();
            let (update, _) = FlowUpdate::read_from_prefix(&value).unwrap();
            let sent = update.settle().halves.map(|half| Sent {
                packets: half.packets,
                bytes: half.bytes,
            });
            (zerocopy::transmute!(key), sent)
        });
        entries.collect()
    }

    /// Packets that wait in the table of flows not yet open, past the daemon: bits 24 to 35 of the
    /// first word of each half.
    pub(crate) fn pending_packets(&self) -> u64 {
        let map: Array<_, [u8; size_of::<Bucket>()]> =
            Array::try_from(self.map("PENDING")).unwrap();
        let mut packets = 0;
        for bucket in map.iter() {
            for half in bucket.unwrap().chunks(size_of::<PendingHalf>()) {
                packets += u64::from_ne_bytes(half[..8].try_into().unwrap()) >> 24 & 0xfff;
            }
        }
        packets
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
        if std::thread::panicking() {
            let lines: Vec<String> = self.log.try_iter().collect();
            eprintln!("the daemon's log: {lines:#?}");
        }
    }
}

/// What one end of a flow sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Sent {
    pub(crate) fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// The counters of the programs at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accounting([u64; COUNTER_COUNT]);

impl Accounting {
    pub(crate) fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    pub(crate) fn unparsed(&self) -> u64 {
        let first = Counter::UnparsedFirst as usize;
        self.0[first..first + Unparsed::COUNT].iter().sum()
    }

    /// Every identity of the contract; `pending` are the packets that wait still.
    pub(crate) fn check(&self, pending: u64) {
        use Counter as C;
        let sum = |counters: &[Counter]| -> u64 { counters.iter().map(|it| self.of(*it)).sum() };
        let hooks = sum(&[C::SeenXdp, C::SeenTcIngress, C::SeenTcEgress]);
        assert_eq!(self.of(C::Seen), hooks, "{self:?}");
        assert_eq!(
            self.of(C::Seen),
            self.of(C::Parsed) + self.unparsed(),
            "{self:?}"
        );
        let ways = [
            C::Watched,
            C::Pended,
            C::UntrackedTableFull,
            C::IcmpErrors,
            C::Refused,
        ];
        assert_eq!(self.of(C::Parsed), sum(&ways), "{self:?}");
        let records = sum(&[C::Delivered, C::DroppedRingFull, C::SampledOut]);
        assert_eq!(self.of(C::Matched), records, "{self:?}");
        let left = [
            C::PendingFolded,
            C::PendingDisplacedPackets,
            C::PendingCleared,
        ];
        assert_eq!(self.of(C::PendedPackets), sum(&left) + pending, "{self:?}");
    }
}

impl std::fmt::Debug for Accounting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use Counter as C;
        let named = [
            C::Seen,
            C::Parsed,
            C::Watched,
            C::Pended,
            C::UntrackedTableFull,
            C::IcmpErrors,
            C::Refused,
            C::PendingFolded,
            C::PendingDisplacedPackets,
            C::PendingCleared,
            C::FlowsOpened,
            C::EventsDelivered,
            C::EventsDroppedRingFull,
            C::Matched,
            C::Delivered,
            C::DroppedRingFull,
        ];
        let mut map = f.debug_map();
        for counter in named {
            map.entry(&counter, &self.of(counter));
        }
        map.entry(&"Unparsed", &self.unparsed()).finish()
    }
}

/// `phalanx up` in a host.
pub(crate) fn up(host: &Host) -> Command {
    let mut command = host.command(BINARY).unwrap();
    command.arg("up");
    command
}

/// What a status tells of an interface.
pub(crate) fn hop(status: &Value, interface: &str) -> Value {
    let hops = status["hops"].as_array().unwrap();
    hops.iter()
        .find(|hop| hop["interface"] == interface)
        .cloned()
        .unwrap_or_default()
}

/// The error of a program that gave up by itself.
pub(crate) fn error_of(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(output.status.signal(), None);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for something that must come.
pub(crate) fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + STEP_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < end, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The counters once they stand still.
pub(crate) fn await_quiet(daemon: &Daemon<'_>) -> Accounting {
    let mut last = daemon.counters();
    let mut since = Instant::now();
    await_that("the counters stand still", || {
        let now = daemon.counters();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    });
    last
}
