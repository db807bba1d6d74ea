//! A client and a server with a link of known faults between them, and all that is known about
//! what happened: a capture at each host, the link's journals, the counters of both kernels.
//!
//! Segments are not merged and not split on the way (no GSO, no GRO), so that a packet at one tap
//! is a packet at the other.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use phalanx_range::range::{KernelCounters, SocketTruth};
use phalanx_range::{Direction, Host, Impairment, JournalLine, Patch, Range, Topology};

use crate::folder::Folder;

const TOPOLOGY: &str = "
nodes:
  - { name: client }
  - { name: left, kind: router }
  - { name: right, kind: router }
  - { name: server }
links:
  - a: { node: client }
    b: { node: left }
    offload: { tso: false, gso: false, gro: false, tx_checksum: false }
  - { name: wan, kind: emulated, a: { node: left }, b: { node: right } }
  - a: { node: right }
    b: { node: server }
    offload: { tso: false, gso: false, gro: false, tx_checksum: false }
";

/// Ethernet, IPv4 and TCP headers fit.
const SNAP_BYTES: u32 = 128;
const QUIET: Duration = Duration::from_millis(100);
/// A folder where captures are kept, for who wants to look at frames afterwards.
const KEEP: &str = "PHALANX_KEEP_CAPTURES";
/// Retransmissions with exponential pauses take their time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where it happens; one at a time on this machine.
pub(crate) struct Stage {
    name: String,
    range: Range,
    folder: Folder,
    _alone: File,
}

/// All that is known about what happened.
pub(crate) struct Evidence {
    pub(crate) client_capture: PathBuf,
    pub(crate) server_capture: PathBuf,
    /// Decisions of the link, towards the server and towards the client.
    pub(crate) journals: [Vec<JournalLine>; 2],
    /// What the kernels counted meanwhile.
    pub(crate) client_counters: KernelCounters,
    pub(crate) server_counters: KernelCounters,
    _folder: Folder,
}

impl Stage {
    /// The link does this towards the server, and that towards the client.
    pub(crate) fn new(name: &str, impairments: [Impairment; 2]) -> Self {
        let alone = File::create(std::env::temp_dir().join("phalanx-range-network.lock")).unwrap();
        alone.lock().unwrap();
        let range = Range::build(&Topology::from_yaml_str(TOPOLOGY).unwrap()).unwrap();
        let link = range.link("wan").unwrap();
        for (direction, impairment) in Direction::BOTH.into_iter().zip(impairments) {
            link.set(direction, impairment).unwrap();
        }
        Self {
            name: name.to_owned(),
            range,
            folder: Folder::new(&format!("analyze-{name}")),
            _alone: alone,
        }
    }

    pub(crate) fn client(&self) -> &Host {
        self.range.host("client").unwrap()
    }

    pub(crate) fn server(&self) -> &Host {
        self.range.host("server").unwrap()
    }

    /// Nothing passes towards the server for so long.
    pub(crate) fn interrupt(&self, time: Duration) {
        let set = |is_out| {
            let patch = Patch {
                outage: Some(is_out),
                ..Patch::default()
            };
            let link = self.range.link("wan").unwrap();
            link.patch(Direction::Forward, patch).unwrap();
        };
        set(true);
        std::thread::sleep(time);
        set(false);
    }

    /// Runs a conversation between the two, to its end, with everything recorded.
    pub(crate) fn record<T>(self, work: impl FnOnce(&Self) -> T) -> (Evidence, T) {
        let path = |name: &str| self.folder.0.join(name);
        let link = self.range.link("wan").unwrap();
        let journals = Direction::BOTH.map(|direction| {
            let path = path(direction.name());
            link.log_to(direction, &path).unwrap();
            path
        });
        let (client, server) = (self.client(), self.server());
        let captures = [
            client.capture("to-left", &path("client.pcap"), SNAP_BYTES),
            server.capture("to-right", &path("server.pcap"), SNAP_BYTES),
        ]
        .map(Result::unwrap);
        let hosts = [client, server];
        let before = hosts.map(|host| host.kernel_counters().unwrap());
        let outcome = work(&self);
        self.range.settle(QUIET, PATIENCE).unwrap();
        let after = hosts.map(|host| host.kernel_counters().unwrap());
        for capture in captures {
            let counters = capture.finish().unwrap();
            assert_eq!(counters.dropped, 0, "tcpdump was too slow");
        }
        link.end_logs().unwrap();
        for side in ["client", "server"] {
            self.keep(&format!("{side}.pcap"));
        }
        let [client_counters, server_counters] = [0, 1].map(|at| after[at].since(&before[at]));
        let evidence = Evidence {
            client_capture: path("client.pcap"),
            server_capture: path("server.pcap"),
            journals: journals.map(|path| JournalLine::read_all(&path).unwrap()),
            client_counters,
            server_counters,
            _folder: self.folder,
        };
        (evidence, outcome)
    }
}

impl Stage {
    fn keep(&self, file: &str) {
        if let Some(folder) = std::env::var_os(KEEP).map(PathBuf::from) {
            let to = folder.join(format!("{}-{file}", self.name));
            std::fs::copy(self.folder.0.join(file), to).unwrap();
        }
    }
}

/// What `ss` tells of the one connection from a host to a port, once all is acknowledged.
pub(crate) fn ask_when_acknowledged(host: &Host, port: u16) -> SocketTruth {
    let end = Instant::now() + PATIENCE;
    loop {
        let told = host.connections_to(port).unwrap();
        let [truth] = &told[..] else {
            panic!("{} connections", told.len());
        };
        if truth.unacknowledged == 0 && truth.not_sent_bytes == 0 {
            return truth.clone();
        }
        assert!(Instant::now() < end, "not acknowledged: {truth:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The clock of captures, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64
}
