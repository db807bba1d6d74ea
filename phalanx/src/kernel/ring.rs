//! The rings of one instance: events and records, read in batches.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use phalanx_common::abi::{Attempt, FlowUpdate, RecordHeader, event_kind};
use zerocopy::FromBytes;

use super::syscall::RingGauge;
use super::table::take;

/// A ring and how full it is.
pub(crate) struct Ring {
    ring: RingBuf<MapData>,
    gauge: RingGauge,
}

/// An event of the kernel programs.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one turn of the loop"
)]
pub(crate) enum Event {
    /// What was counted of a flow.
    Update(FlowUpdate),
    /// A connection that is not open yet.
    Attempt(Attempt),
    /// Of a kind or length that this daemon does not know.
    Unknown,
}

impl Event {
    fn parse(bytes: &[u8]) -> Self {
        let kind = bytes.first_chunk().map(|kind| u32::from_ne_bytes(*kind));
        match kind {
            Some(event_kind::FLOW_UPDATE) => FlowUpdate::read_from_prefix(bytes)
                .map_or(Self::Unknown, |(it, _)| Self::Update(it.settle())),
            Some(event_kind::ATTEMPT) => {
                Attempt::read_from_prefix(bytes).map_or(Self::Unknown, |(it, _)| Self::Attempt(it))
            }
            _ => Self::Unknown,
        }
    }
}

impl Ring {
    pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Self> {
        let map = take(ebpf, name)?;
        let ring =
            RingBuf::try_from(map).with_context(|| format!("open the ring buffer {name}"))?;
        let gauge = RingGauge::new(&ring).with_context(|| format!("map the ring buffer {name}"))?;
        Ok(Self { ring, gauge })
    }

    /// The next event, if there is one.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.ring.next().map(|item| Event::parse(&item))
    }

    /// Hands the next record to `take`, if there is one: its header and the captured bytes, `None`
    /// where it is too short for what it says. Returns whether there was one.
    pub(crate) fn take_record(&mut self, take: impl FnOnce(Option<(RecordHeader, &[u8])>)) -> bool {
        let Some(item) = self.ring.next() else {
            return false;
        };
        take(parse_record(&item));
        true
    }

    /// Bytes that wait.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.gauge.used_bytes()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

fn parse_record(bytes: &[u8]) -> Option<(RecordHeader, &[u8])> {
    let (header, rest) = RecordHeader::read_from_prefix(bytes).ok()?;
    let captured = rest.get(..header.captured_length as usize)?;
    Some((header, captured))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros, IntoBytes};

    #[test]
    fn events_are_told_apart_and_short_ones_are_unknown() {
        let mut update = FlowUpdate::new_zeroed();
        update.kind = event_kind::FLOW_UPDATE;
        update.version = 7;
        let bytes = update.as_bytes();
        assert!(matches!(Event::parse(bytes), Event::Update(read) if read.version == 7));
        assert!(matches!(
            Event::parse(&bytes[..bytes.len() - 1]),
            Event::Unknown
        ));
        let mut attempt = Attempt::new_zeroed();
        attempt.kind = event_kind::ATTEMPT;
        assert!(matches!(
            Event::parse(attempt.as_bytes()),
            Event::Attempt(_)
        ));
        assert!(matches!(Event::parse(&[9, 0, 0, 0, 0]), Event::Unknown));
        assert!(matches!(Event::parse(&[]), Event::Unknown));
    }

    #[test]
    fn a_record_is_cut_to_what_was_captured() {
        let mut header = RecordHeader::new_zeroed();
        header.captured_length = 3;
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([1, 2, 3, 0, 0]);
        assert_eq!(parse_record(&bytes).unwrap().1, [1, 2, 3]);
        assert!(parse_record(&bytes[..bytes.len() - 3]).is_none());
    }
}
