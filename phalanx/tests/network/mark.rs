//! What tells the packets of a capture apart, to compare it with what tcpdump has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use phalanx::capture_file::Frame;
use phalanx_range::range::Capture;

pub(crate) const ETHERNET: usize = 14;
/// Behind an IPv4 header without options.
pub(crate) const TRANSPORT: usize = ETHERNET + 20;
/// Ethernet, IPv4 without options, TCP with all its options.
pub(crate) const HEADERS_MAX: usize = TRANSPORT + 60;
/// Packets of both directions that are seen within this time may be seen in either order.
pub(crate) const ORDER_NS: i64 = 1_000_000;

const TCP: u8 = 6;

/// Both ends' ports, IP id, the first words of the transport header, flags and the length on the
/// wire.
pub(crate) type Mark = (u32, u16, u32, u32, u8, u32);

pub(crate) fn is_tcp(frame: &Frame) -> bool {
    (frame.bytes[ETHERNET], frame.bytes[ETHERNET + 9]) == (0x45, TCP)
}

fn mark(frame: &Frame) -> Mark {
    let (sequence, acknowledgement, flags) = match is_tcp(frame) {
        true => (
            word(frame, TRANSPORT + 4),
            word(frame, TRANSPORT + 8),
            frame.bytes[TRANSPORT + 13],
        ),
        false => (0, 0, 0),
    };
    let (ports, ip_id) = (word(frame, TRANSPORT), half(frame, ETHERNET + 4));
    let length = frame.wire_length;
    (ports, ip_id, sequence, acknowledgement, flags, length)
}

pub(crate) fn marks<'frames>(
    frames: impl IntoIterator<Item = &'frames Frame>,
) -> BTreeMap<Mark, u32> {
    let mut marks = BTreeMap::new();
    for frame in frames {
        *marks.entry(mark(frame)).or_default() += 1;
    }
    marks
}

/// Whether `more` has all that `less` has, as often.
pub(crate) fn holds(more: &BTreeMap<Mark, u32>, less: &BTreeMap<Mark, u32>) -> bool {
    let has = |mark| more.get(mark).copied().unwrap_or_default();
    less.iter().all(|(mark, count)| has(mark) >= *count)
}

/// When the client first sent bytes that it had sent before.
pub(crate) fn first_retransmission_ns(truth: &[Frame], port: u16) -> i64 {
    let mut sent: Option<u32> = None;
    for frame in truth.iter().filter(|it| half(it, TRANSPORT + 2) == port) {
        let headers = 20 + usize::from(frame.bytes[TRANSPORT + 12] >> 4) * 4;
        let payload = u32::from(half(frame, ETHERNET + 2)) - headers as u32;
        let start = word(frame, TRANSPORT + 4);
        if payload == 0 {
            continue;
        }
        if sent.is_some_and(|sent| (start.wrapping_sub(sent) as i32) < 0) {
            return frame.time_ns;
        }
        sent = Some(start.wrapping_add(payload));
    }
    panic!("nothing was sent twice in {} packets", truth.len());
}

/// The file of a capture that lost nothing.
pub(crate) fn finish(capture: Capture) -> PathBuf {
    let path = capture.path().to_owned();
    let counters = capture.finish().unwrap();
    assert_eq!(counters.dropped, 0, "{counters:?}");
    path
}

fn half(frame: &Frame, at: usize) -> u16 {
    u16::from_be_bytes(frame.bytes[at..at + 2].try_into().unwrap())
}

fn word(frame: &Frame, at: usize) -> u32 {
    u32::from_be_bytes(frame.bytes[at..at + 4].try_into().unwrap())
}
