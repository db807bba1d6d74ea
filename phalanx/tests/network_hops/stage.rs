//! Hosts and routers in a row, or in a ring, captures at chosen places, and what the links counted
//! meanwhile. Captures lie in one folder, which the program is given; the truth stays in memory and
//! in the folder of the journals.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use phalanx_range::channel::Counters;
use phalanx_range::{Direction, Impairment, JournalLine, Range, Topology};

use crate::folder::Folder;

/// Headers fit, and a little more.
const SNAP_BYTES: u32 = 128;
/// Of IP.
const TCP: u8 = 6;
const QUIET: Duration = Duration::from_millis(150);
/// Retransmissions with exponential pauses take their time.
const PATIENCE: Duration = Duration::from_secs(60);
/// A folder where captures are kept, for who wants to look at frames afterwards.
const KEEP: &str = "PHALANX_KEEP_CAPTURES";

/// Where a capture is taken: the hop's name, the node, the interface.
pub(crate) type Place = (&'static str, &'static str, &'static str);

/// Where it happens; one at a time on this machine.
pub(crate) struct Stage {
    pub(crate) range: Range,
    name: String,
    captures: Folder,
    journals: Folder,
    _alone: File,
}

/// What a link did to TCP in a direction while the captures ran.
#[derive(Debug)]
pub(crate) struct LinkTruth {
    pub(crate) entered: u64,
    pub(crate) dropped: u64,
    pub(crate) duplicated: u64,
}

/// All that is known.
pub(crate) struct Evidence {
    /// The hops, in the order in which the places were given.
    pub(crate) hops: Vec<String>,
    /// By link and direction.
    pub(crate) links: BTreeMap<(String, usize), LinkTruth>,
    pub(crate) captures: Folder,
    _journals: Folder,
}

impl Evidence {
    pub(crate) fn path(&self, hop: &str) -> PathBuf {
        self.captures.0.join(file_of(hop))
    }

    /// The files, as the program is given them.
    pub(crate) fn files(&self) -> Vec<String> {
        self.hops.iter().map(|hop| file_of(hop)).collect()
    }
}

pub(crate) fn file_of(hop: &str) -> String {
    format!("{hop}.pcap")
}

impl Stage {
    pub(crate) fn new(name: &str, topology: &str) -> Self {
        let alone = File::create(std::env::temp_dir().join("phalanx-range-network.lock")).unwrap();
        alone.lock().unwrap();
        Self {
            range: Range::build(&Topology::from_yaml_str(topology).unwrap()).unwrap(),
            name: name.to_owned(),
            captures: Folder::new(&format!("hops-{name}")),
            journals: Folder::new(&format!("hops-{name}-truth")),
            _alone: alone,
        }
    }

    /// Sets what a link does, both ways.
    pub(crate) fn impair(&self, link: &str, impairments: [Impairment; 2]) {
        let link = self.range.link(link).unwrap();
        for (direction, impairment) in Direction::BOTH.into_iter().zip(impairments) {
            link.set(direction, impairment).unwrap();
        }
    }

    /// Records what `work` does at these places. Nothing is under way when it begins.
    pub(crate) fn record(self, places: &[Place], work: impl FnOnce(&Self)) -> Evidence {
        let emulated: Vec<_> = self
            .range
            .links()
            .iter()
            .filter(|link| link.impairment(Direction::Forward).is_ok())
            .collect();
        // A late acknowledgement of what came before is none of ours.
        let settle = || -> Vec<_> {
            self.range.settle(QUIET, PATIENCE).unwrap();
            emulated
                .iter()
                .map(|link| link.counters().unwrap())
                .collect()
        };
        let before = settle();
        let mut journals = BTreeMap::new();
        for link in &emulated {
            for (at, direction) in Direction::BOTH.into_iter().enumerate() {
                let path = self.journals.0.join(format!("{}-{at}.csv", link.name()));
                link.log_to(direction, &path).unwrap();
                journals.insert((link.name().to_owned(), at), path);
            }
        }
        let captures: Vec<_> = places
            .iter()
            .map(|(hop, node, interface)| {
                let path = self.captures.0.join(file_of(hop));
                let host = self.range.host(node).unwrap();
                host.capture(interface, &path, SNAP_BYTES).unwrap()
            })
            .collect();
        work(&self);
        let after = settle();
        for capture in captures {
            assert_eq!(capture.finish().unwrap().dropped, 0, "tcpdump was too slow");
        }
        let mut links = BTreeMap::new();
        for (at, link) in emulated.iter().enumerate() {
            link.end_logs().unwrap();
            for (way, direction) in Direction::BOTH.into_iter().enumerate() {
                let key = (link.name().to_owned(), way);
                let journal = JournalLine::read_all(&journals[&key]).unwrap();
                let truth =
                    LinkTruth::between(before[at].of(direction), after[at].of(direction), &journal);
                links.insert(key, truth);
            }
        }
        self.keep(places);
        Evidence {
            hops: places.iter().map(|place| place.0.to_owned()).collect(),
            links,
            captures: self.captures,
            _journals: self.journals,
        }
    }

    fn keep(&self, places: &[Place]) {
        if let Some(folder) = std::env::var_os(KEEP).map(PathBuf::from) {
            for (hop, ..) in places {
                let to = folder.join(format!("{}-{}", self.name, file_of(hop)));
                std::fs::copy(self.captures.0.join(file_of(hop)), to).unwrap();
            }
        }
    }
}

impl LinkTruth {
    fn between(before: &Counters, after: &Counters, journal: &[JournalLine]) -> Self {
        let count =
            |test: fn(&JournalLine) -> bool| journal.iter().filter(|it| test(it)).count() as u64;
        let is_tcp = |line: &JournalLine| line.marks.protocol == TCP;
        let dropped = after.dropped.total() - before.dropped.total();
        assert_eq!(
            count(JournalLine::is_dropped),
            dropped,
            "counters and journal"
        );
        assert_eq!(
            after.device_dropped, before.device_dropped,
            "before the link"
        );
        // Routers tell each other of groups that they are in, now and then.
        let others = journal
            .iter()
            .filter(|it| !is_tcp(it) && it.action == "duplicated");
        Self {
            entered: count(is_tcp),
            dropped: count(|line| line.marks.protocol == TCP && line.is_dropped()),
            duplicated: after.duplicated - before.duplicated - others.count() as u64,
        }
    }
}
