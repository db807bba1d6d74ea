//! IP fragments put together: makes [`Datagram`]s from the fragments of IPv4 (RFC 791) and IPv6
//! (RFC 8200 section 4.5) that frames hold.
//!
//! An observer must not lose what the receiver may have taken: where fragments overlap, the first
//! byte seen stays and the datagram goes on, though RFC 5722 has an IPv6 receiver drop it. What
//! does not come whole is given back as far as it stands for itself: the first fragment, which has
//! the ports.
//!
//! **Invariant**: every fragment taken is part of a datagram that is released, or is counted in
//! [`Release::unused`], once.

mod header;
mod partial;
mod place;
mod range;
#[cfg(test)]
mod tests;

use phalanx_common::packet::{Encapsulation, Layers, LinkKind, Unparsed};

use self::header::{Fault, Header, Key};
use self::partial::{Added, Partial};
use crate::limits::{FRAGMENT_BYTES_MAX, FRAGMENT_DATAGRAM_COUNT_MAX, FRAGMENT_TIMEOUT_NS};
use crate::record::Decoded;

pub use self::place::{Place, find, is_fragment};

/// A frame that holds a fragment.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// Number of its hop among those of one source.
    pub hop: u32,
    /// Number of the frame at its source.
    pub number: u64,
    /// When it was seen, in nanoseconds since the epoch of its hop's clock.
    pub time_ns: i64,
    /// Length of the frame on the wire, in bytes.
    pub wire_length: u32,
    /// The captured bytes of the frame.
    pub bytes: &'a [u8],
    /// Where the fragment's IP header lies in them, as [`find`] tells it.
    pub place: Place,
}

/// An IP packet made from fragments: its bytes begin with its IP header.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Number of its hop among those of one source.
    pub hop: u32,
    /// The frame that completed it; of a first fragment alone its own.
    pub number: u64,
    /// When that frame was seen, in nanoseconds since the epoch of its hop's clock.
    pub time_ns: i64,
    /// Length of the packet, in bytes.
    pub wire_length: u32,
    /// The packet: the IP header of the first fragment, changed to that of the whole (its checksum
    /// aside), and the payload up to what is missing in the capture; or the first fragment as it
    /// was.
    pub bytes: Box<[u8]>,
    /// Fragments that it was put together from; 0 for a first fragment alone.
    pub fragment_count: u16,
    /// Where the first fragment was found.
    place: Place,
    identification: u16,
}

/// What the reassembler gives back of one datagram.
#[derive(Clone, Debug)]
pub struct Release {
    /// Number of its hop among those of one source.
    pub hop: u32,
    /// The frame at which it was released.
    pub at: u64,
    /// Fragments that are part of nothing: those after the first of what never came whole.
    pub unused: u32,
    /// The datagram, or its first fragment; nothing where that was not seen.
    pub datagram: Option<Datagram>,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is part of a datagram that is or will be released.
    Kept,
    /// It cannot be part of one: nothing of it was kept.
    Refused,
}

/// Why a datagram is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    TimedOut,
    Evicted,
    Unfinished,
}

/// What the fragments came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentCounts {
    /// Fragments seen.
    pub fragments: u64,
    /// Datagrams put together.
    pub datagrams: u64,
    /// Of these, those of which the capture lacks payload, since frames were cut.
    pub cut: u64,
    /// Datagrams given up since a fragment did not come in time.
    pub timed_out: u64,
    /// Datagrams given up to make room.
    pub evicted: u64,
    /// Datagrams that the end of the capture left unfinished.
    pub unfinished: u64,
    /// Datagrams given up, for any reason, whose first fragment was not seen.
    pub without_first: u64,
    /// Fragments of which all was seen before.
    pub duplicates: u64,
    /// Fragments of which a part was seen before.
    pub overlaps: u64,
    /// Fragments that overlap with other bytes than were seen.
    pub conflicts: u64,
    /// Fragments that are not the last, with a length that is no multiple of 8.
    pub uneven: u64,
    /// Fragments refused: beyond the longest IP packet.
    pub too_long: u64,
    /// Fragments refused: beyond the end that the last fragment told, or another such end.
    pub contradictory: u64,
    /// Fragments refused: without payload, or with a header that was not captured.
    pub malformed: u64,
}

impl FragmentCounts {
    /// Each count with its name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 14] {
        [
            ("fragments", self.fragments),
            ("fragmented_datagrams", self.datagrams),
            ("fragmented_datagrams_cut", self.cut),
            ("fragments_timed_out", self.timed_out),
            ("fragments_evicted", self.evicted),
            ("fragments_unfinished", self.unfinished),
            ("fragments_without_first", self.without_first),
            ("fragment_duplicates", self.duplicates),
            ("fragment_overlaps", self.overlaps),
            ("fragment_conflicts", self.conflicts),
            ("fragment_uneven", self.uneven),
            ("fragment_too_long", self.too_long),
            ("fragment_contradictory", self.contradictory),
            ("fragment_malformed", self.malformed),
        ]
    }
}

impl Datagram {
    /// Decodes the innermost IP layer of the packet.
    ///
    /// # Errors
    /// The reason why the packet takes part in no flow.
    pub fn decode(&self, layers: &mut Layers) -> Result<Decoded, Unparsed> {
        let mut decoded = Decoded::of(layers, &self.bytes, LinkKind::None, self.wire_length)?;
        decoded.fragment_count = self.fragment_count;
        if layers.count() == 1 {
            decoded.encapsulation = self.place.encapsulation;
            decoded.headers.vlan = self.place.vlan;
            decoded.headers.ip_id = self.identification;
        }
        Ok(decoded)
    }

    /// The packet as a fragment, where one lies in it that the parser found with `layers`: of
    /// tunnels both packets may be in fragments.
    #[must_use]
    pub fn inner_fragment(
        &self,
        layers: &mut Layers,
        error: Option<Unparsed>,
    ) -> Option<Fragment<'_>> {
        let (kind, wire_length) = (LinkKind::None, self.wire_length);
        if self.fragment_count == 0 || !is_fragment(layers, error, &self.bytes, kind, wire_length) {
            return None;
        }
        Some(Fragment {
            hop: self.hop,
            number: self.number,
            time_ns: self.time_ns,
            wire_length,
            bytes: &self.bytes,
            place: find(layers, &self.bytes, kind, wire_length)?,
        })
    }
}

/// Datagrams under way.
#[derive(Debug, Default)]
pub struct Reassembler {
    /// The oldest first.
    partials: Vec<Partial>,
    bytes: usize,
    released: Vec<Release>,
    counts: FragmentCounts,
}

impl Reassembler {
    /// Holds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the fragments came to.
    #[must_use]
    pub const fn counts(&self) -> &FragmentCounts {
        &self.counts
    }

    /// Whether no datagram is under way.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Bytes that datagrams under way take; at most [`FRAGMENT_BYTES_MAX`].
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes
    }

    /// Whether something was released since [`Self::released`].
    #[must_use]
    pub const fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// What was released since.
    pub fn released(&mut self) -> impl Iterator<Item = Release> + use<> {
        std::mem::take(&mut self.released).into_iter()
    }

    /// Takes a fragment in. Frames come in the order of their capture.
    pub fn take(&mut self, fragment: &Fragment<'_>) -> Taken {
        self.counts.fragments += 1;
        let header = match Header::read(fragment) {
            Ok(header) => header,
            Err(fault) => return self.refuse(fault),
        };
        self.counts.uneven += u64::from(header.is_uneven);
        self.expire(fragment.time_ns, fragment.number);
        let (index, mut partial) = match self.position(&header.key) {
            Some(index) => (index, self.partials.remove(index)),
            None => (self.partials.len(), Partial::new(header.key, fragment)),
        };
        let before = if index == self.partials.len() && partial.is_new() {
            0
        } else {
            partial.size()
        };
        let added = partial.add(fragment, &header);
        self.bytes -= before;
        match added {
            Err(fault) => {
                if !partial.is_new() {
                    self.bytes += partial.size();
                    self.partials.insert(index, partial);
                }
                return self.refuse(fault);
            }
            Ok(added) => self.count(added),
        }
        if let Some(datagram) = partial.whole(fragment) {
            self.counts.datagrams += 1;
            self.counts.cut += u64::from((datagram.bytes.len() as u32) < datagram.wire_length);
            self.release(fragment.hop, fragment.number, 0, Some(datagram));
            return Taken::Kept;
        }
        self.bytes += partial.size();
        self.partials.insert(index, partial);
        self.make_room(fragment.number);
        Taken::Kept
    }

    /// Gives up what has waited too long for its fragments; `at` is the frame that has come
    /// meanwhile.
    pub fn expire(&mut self, now_ns: i64, at: u64) {
        let is_late = |it: &Partial| now_ns.saturating_sub(it.started_ns()) > FRAGMENT_TIMEOUT_NS;
        while self.partials.first().is_some_and(is_late) {
            self.give_up(Loss::TimedOut, at);
        }
    }

    /// Gives up all that is under way: the capture has ended with the frame `at`.
    pub fn finish(&mut self, at: u64) {
        while !self.partials.is_empty() {
            self.give_up(Loss::Unfinished, at);
        }
    }

    /// Those that began last are asked for most.
    fn position(&self, key: &Key) -> Option<usize> {
        self.partials.iter().rposition(|it| it.key() == key)
    }

    fn make_room(&mut self, at: u64) {
        while self.partials.len() > FRAGMENT_DATAGRAM_COUNT_MAX || self.bytes > FRAGMENT_BYTES_MAX {
            self.give_up(Loss::Evicted, at);
        }
    }

    /// Gives up the oldest.
    fn give_up(&mut self, loss: Loss, at: u64) {
        let partial = self.partials.remove(0);
        self.bytes -= partial.size();
        let count = match loss {
            Loss::TimedOut => &mut self.counts.timed_out,
            Loss::Evicted => &mut self.counts.evicted,
            Loss::Unfinished => &mut self.counts.unfinished,
        };
        *count += 1;
        let hop = partial.key().hop;
        let frames = partial.frame_count();
        let datagram = partial.first_alone();
        self.counts.without_first += u64::from(datagram.is_none());
        let unused = frames - u32::from(datagram.is_some());
        self.release(hop, at, unused, datagram);
    }

    fn release(&mut self, hop: u32, at: u64, unused: u32, datagram: Option<Datagram>) {
        self.released.push(Release {
            hop,
            at,
            unused,
            datagram,
        });
    }

    fn count(&mut self, added: Added) {
        self.counts.duplicates += u64::from(added.is_duplicate);
        self.counts.overlaps += u64::from(added.is_overlap);
        self.counts.conflicts += u64::from(added.is_conflict);
    }

    fn refuse(&mut self, fault: Fault) -> Taken {
        let count = match fault {
            Fault::TooLong => &mut self.counts.too_long,
            Fault::Contradictory => &mut self.counts.contradictory,
            Fault::Malformed => &mut self.counts.malformed,
        };
        *count += 1;
        Taken::Refused
    }
}

/// The encapsulation and VLAN of a fragment's IP layer tell where it was seen, its tunnel to which
/// network it belongs.
impl Place {
    const fn tunnel(&self) -> phalanx_common::packet::Tunnel {
        let Encapsulation { tunnel, .. } = self.encapsulation;
        tunnel
    }
}
