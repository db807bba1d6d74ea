//! Looking back: recent packets of chosen flows, kept in a bounded ring, so that a capture can
//! begin before it was asked for. What the ring covers is known: since when, of which flows, and
//! what was lost.
//!
//! The daemon's loop feeds it, captures read it. Deliberately absent: any choice of packets within
//! a flow. A flow is recorded whole or not at all.

mod governor;
mod history;
mod mapping;
mod recent;
mod segment;
mod view;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use phalanx_common::abi::RecordHeader;
use phalanx_engine::filter::{Decision, Filter, LinkType, Program};
use phalanx_engine::{HopId, Link, Monotonic};

pub(crate) use governor::{Governance, Governor};
use history::History;
use mapping::Mapping;
use recent::{Chunk, Recent, Wish};
pub(crate) use segment::{RecentPacket, SEGMENT_SIZE, packets};
pub use view::{Covered, CoveredHop, CoveredSpan, LookbackStatus};

use crate::capture::{link_type, retag, tag_beside};
use crate::clock;
use crate::kernel::RecordingFilter;

/// Recording filters that looking back may take of the kernel's 64: the others are for captures.
pub const FILTER_COUNT_MAX: usize = 16;

/// Mebibytes that stay in memory where there is a file: what is asked for is mostly what came last.
pub const MEMORY_MIB: u32 = 8;

/// What is recorded for looking back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LookbackFeed {
    /// Nothing.
    Off,
    /// Flows that turned sick, from then on.
    #[default]
    Promoted,
    /// Those that a filter selects, and sick ones.
    Filter,
    /// All, as far as the governor allows, and sick ones.
    All,
}

impl LookbackFeed {
    /// The names, as the configuration has them.
    pub const NAMES: &'static [&'static str] = &["promoted", "filter", "all", "off"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Promoted => "promoted",
            Self::Filter => "filter",
            Self::All => "all",
        }
    }
}

impl FromStr for LookbackFeed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Off, Self::Promoted, Self::Filter, Self::All]
            .into_iter()
            .find(|feed| feed.name() == text)
            .ok_or_else(|| format!("{text:?} is not one of {}", Self::NAMES.join(", ")))
    }
}

/// What is asked of looking back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookbackOptions {
    /// What is recorded.
    pub feed: LookbackFeed,
    /// The filter of [`LookbackFeed::Filter`], as written.
    pub filter: String,
    /// Bytes of each packet; 0: headers only.
    pub snaplen: u32,
    /// Mebibytes of packets, in memory and in the file.
    pub size_mib: u32,
    /// Where the file lies; none: all in memory.
    pub directory: Option<PathBuf>,
    /// Percent of one CPU that [`LookbackFeed::All`] may take.
    pub cpu_percent: u32,
}

impl Default for LookbackOptions {
    fn default() -> Self {
        Self {
            feed: LookbackFeed::default(),
            filter: String::new(),
            snaplen: 0,
            size_mib: 64,
            directory: None,
            cpu_percent: 5,
        }
    }
}

/// Where what came before a request ends and what comes after it begins, by numbers of packets in
/// the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seam {
    /// Packets below came before the request's filters: whatever filters they name are others'.
    pub(crate) before: u64,
    /// Packets from here on came when the request's filters were in force everywhere.
    pub(crate) after: u64,
    /// When they were.
    pub(crate) at_ns: u64,
}

/// Recent packets, shared by the loop and the captures.
#[derive(Debug)]
pub struct Lookback {
    options: LookbackOptions,
    /// The filters in the kernel, each under its number: the highest ones.
    filters: Vec<(u8, RecordingFilter)>,
    programs: Option<Vec<(LinkType, Program)>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    recent: Recent,
    history: History,
    governance: Governance,
    filtered_out: u64,
    scratch: Vec<u8>,
}

impl Lookback {
    /// An empty ring. Where the file cannot be had, all of it lies in memory, and the log says so.
    ///
    /// # Errors
    /// A filter that cannot be understood, or that takes more than its part of the kernel's.
    pub fn new(options: LookbackOptions) -> Result<Self, String> {
        let (filters, programs) = standing(&options)?;
        let segments = segment_count(&options);
        let directory = options.directory.as_deref();
        let directory = directory.filter(|_| options.feed != LookbackFeed::Off);
        let mapping = directory.and_then(|directory| {
            let mapping = map(directory, segments);
            if let Err(error) = &mapping {
                tracing::error!("{error}; recent packets are kept in memory");
            }
            mapping.ok()
        });
        let cpu_share = f64::from(options.cpu_percent) / 100.0;
        let state = State {
            recent: Recent::new(segments, mapping),
            history: History::new(clock::now().0),
            governance: Governor::new(cpu_share).state(),
            filtered_out: 0,
            scratch: Vec::new(),
        };
        Ok(Self {
            options,
            filters,
            programs,
            state: Mutex::new(state),
        })
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> &LookbackOptions {
        &self.options
    }

    /// The filters that stand in the kernel for it, each under its number.
    pub(crate) fn filters(&self) -> &[(u8, RecordingFilter)] {
        &self.filters
    }

    /// Their numbers as bits.
    pub(crate) fn mask(&self) -> u64 {
        self.filters
            .iter()
            .fold(0, |mask, (number, _)| mask | 1 << number)
    }

    /// The governor, where there is something to govern.
    pub(crate) fn governor(&self) -> Option<Governor> {
        let share = f64::from(self.options.cpu_percent) / 100.0;
        (self.options.feed == LookbackFeed::All).then(|| Governor::new(share))
    }

    /// Whether the ring is fed at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.options.feed != LookbackFeed::Off
    }

    /// Opens the ring for a batch of packets.
    pub(crate) fn open(&self) -> Keeping<'_> {
        Keeping {
            lookback: self,
            mask: self.mask(),
            state: self.lock(),
        }
    }

    /// Programs watch a hop from now on.
    pub(crate) fn add_hop(&self, hop: HopId, now: Monotonic) {
        self.lock().history.add_hop(hop, now.0);
    }

    /// They do so no longer.
    pub(crate) fn remove_hop(&self, hop: HopId) {
        self.lock().history.remove_hop(hop);
    }

    /// The governor stands like this; the threshold moved between two times, if it did.
    pub(crate) fn govern(&self, governance: Governance, moved_ns: Option<(u64, u64)>) {
        let mut state = self.lock();
        state.governance = governance;
        if let Some((before_ns, after_ns)) = moved_ns {
            let threshold = governance.threshold;
            state.history.move_threshold(threshold, before_ns, after_ns);
        }
    }

    /// So many records were lost on their way between two times.
    pub(crate) fn lose(&self, count: u64, from: Monotonic, until: Monotonic) {
        self.lock().history.lose(count, from.0, until.0);
    }

    /// Number that the next packet will have.
    pub(crate) fn next(&self) -> u64 {
        self.lock().recent.next()
    }

    /// Number of the first packet that may not be older than a time.
    pub(crate) fn first_since(&self, since_ns: u64) -> u64 {
        self.lock().recent.first_since(since_ns)
    }

    /// Copies the next segment that may hold what is wished for. The lock is held for the copy of
    /// one segment, 1 MiB, so that the loop waits for a fraction of a millisecond.
    pub(crate) fn read(
        &self,
        from: u64,
        since_ns: u64,
        hops: &BTreeSet<HopId>,
        into: &mut Vec<u8>,
    ) -> Option<Chunk> {
        let wish = Wish {
            from,
            since_ns,
            hops,
        };
        self.lock().recent.read(wish, into)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ring, open for a batch.
pub(crate) struct Keeping<'a> {
    lookback: &'a Lookback,
    mask: u64,
    state: MutexGuard<'a, State>,
}

impl Keeping<'_> {
    /// Keeps a record, if it is one that looking back is for.
    pub(crate) fn keep(&mut self, hop: HopId, header: &RecordHeader, bytes: &[u8]) {
        let lookback = self.lookback;
        let is_wanted = header.matched & self.mask != 0;
        if !lookback.is_on() || !(is_wanted || header.is_promoted != 0) {
            return;
        }
        let packet = RecentPacket::new(hop, header, bytes);
        let state = &mut *self.state;
        if header.is_promoted == 0
            && let Some(programs) = &lookback.programs
            && !decide(programs, &packet, &mut state.scratch)
        {
            state.filtered_out += 1;
            return;
        }
        let packet = packet.cut(lookback.options.snaplen as usize);
        if !state.recent.push(&packet) {
            state.history.lose(1, packet.time_ns, packet.time_ns);
        }
    }
}

/// Whether the whole of a filter selects a packet; what it cannot tell stays.
fn decide(
    programs: &[(LinkType, Program)],
    packet: &RecentPacket<'_>,
    scratch: &mut Vec<u8>,
) -> bool {
    let link = if packet.has_ethernet {
        link_type(Link::Ethernet)
    } else {
        link_type(Link::Ip)
    };
    let tag = tag_beside(packet.vlan_tag, packet.has_ethernet);
    let bytes = retag(tag, packet.bytes, scratch).unwrap_or(packet.bytes);
    programs
        .iter()
        .filter(|(of, _)| *of == link)
        .any(|(_, program)| program.decide(bytes, packet.frame_length) != Decision::NoMatch)
}

type Standing = (Vec<(u8, RecordingFilter)>, Option<Vec<(LinkType, Program)>>);

/// The filters that stand in the kernel, and what tells the rest.
fn standing(options: &LookbackOptions) -> Result<Standing, String> {
    let text = match options.feed {
        LookbackFeed::Off | LookbackFeed::Promoted => return Ok(Standing::default()),
        LookbackFeed::Filter => options.filter.as_str(),
        LookbackFeed::All => "",
    };
    let filter = Filter::parse(text).map_err(|error| format!("{}: {error}", options.filter))?;
    let filters = crate::capture::recording_filters(&filter, options.snaplen)
        .map_err(|bad| format!("{}: {}", options.filter, bad.detail))?;
    if filters.len() > FILTER_COUNT_MAX {
        return Err(format!(
            "it takes {} of the kernel's filters, of which {FILTER_COUNT_MAX} are for looking back",
            filters.len()
        ));
    }
    let most = phalanx_common::limits::FILTER_COUNT_MAX;
    let numbers = (0..most as u8).rev();
    let programs = (options.feed == LookbackFeed::Filter).then(|| {
        // A filter on a link layer that a hop does not have matches nothing there.
        [Link::Ethernet, Link::Ip]
            .map(link_type)
            .into_iter()
            .filter_map(|link| Some((link, filter.compile(link).ok()?)))
            .collect()
    });
    Ok((numbers.zip(filters).collect(), programs))
}

fn segment_count(options: &LookbackOptions) -> usize {
    const _: () = assert!(SEGMENT_SIZE == 1 << 20);
    options.size_mib as usize
}

fn map(directory: &Path, segments: usize) -> Result<Mapping, String> {
    let slots = Recent::slot_count(segments);
    Mapping::new(directory, slots).map_err(|error| {
        format!(
            "lookback_directory: {slots} MiB in {}: {error}",
            directory.display()
        )
    })
}

/// Whether the filter can stand.
///
/// # Errors
/// Why not.
pub fn check(options: &LookbackOptions) -> Result<(), String> {
    standing(options).map(drop)
}

/// Tries the file that [`Lookback::new`] makes, and gives it back.
///
/// # Errors
/// Why all of the ring would lie in memory.
pub fn examine(options: &LookbackOptions) -> Result<(), String> {
    let directory = options.directory.as_deref();
    let directory = directory.filter(|_| options.feed != LookbackFeed::Off);
    directory.map_or(Ok(()), |directory| {
        map(directory, segment_count(options)).map(drop)
    })
}
