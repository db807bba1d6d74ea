//! Records: one for each packet of a flow that a filter asks for, or that is promoted.

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use phalanx_common::abi::{Counter, Hook, RecordHeader};
use phalanx_common::limits::{
    RECORD_DIGEST_SIZE, RECORD_DIGEST_TCP, RECORD_RING_SIZE, SNAP_CLASSES,
};
use phalanx_common::packet::{LinkKind, protocol};
use phalanx_common::watch::{FlowEntry, Sighting, Tables as _};

use crate::frame::{Frame, one_to};
use crate::table::Ground;

/// Records of packets, apart from the events: a flood of packets must not drown the updates.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(RECORD_RING_SIZE, 0);

/// Where a packet comes from and why it is recorded.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'entry> {
    pub(crate) hook: Hook,
    pub(crate) kind: LinkKind,
    pub(crate) matched: u64,
    pub(crate) snap: u32,
    /// No capture asks for it.
    pub(crate) is_spare: bool,
    pub(crate) is_promoted: bool,
    pub(crate) entry: Option<&'entry FlowEntry>,
}

#[repr(C)]
struct Record<const SNAP: usize> {
    header: RecordHeader,
    bytes: [u8; SNAP],
}

/// Bytes in the ring beyond which packets that no capture asks for are left out: promotion and
/// looking back take half of the ring at most, and so never cost a capture its packets.
const SPARE_BYTES_MAX: u64 = RECORD_RING_SIZE as u64 / 2;

/// Records a packet.
#[inline(never)]
pub(crate) fn record<F: Frame>(ground: &Ground, frame: F, sighting: &Sighting, origin: Origin<'_>) {
    ground.count(Counter::Matched, 1);
    let is_spare = origin.is_spare;
    if is_spare && RECORDS.query(u64::from(BPF_RB_AVAIL_DATA)) > SPARE_BYTES_MAX {
        ground.count(Counter::SampledOut, 1);
        ground.count(Counter::RecordsWithheld, 1);
        return;
    }
    let is_delivered = match origin.snap & 0xff {
        0 => write::<F, { SNAP_CLASSES[0] }>(ground, frame, sighting, origin),
        1 => write::<F, { SNAP_CLASSES[1] }>(ground, frame, sighting, origin),
        2 => write::<F, { SNAP_CLASSES[2] }>(ground, frame, sighting, origin),
        _ => write::<F, { SNAP_CLASSES[3] }>(ground, frame, sighting, origin),
    };
    let counter = if is_delivered {
        Counter::Delivered
    } else if is_spare {
        ground.count(Counter::RecordsWithheld, 1);
        Counter::SampledOut
    } else {
        Counter::DroppedRingFull
    };
    ground.count(counter, 1);
}

#[inline(never)]
fn write<F: Frame, const SNAP: usize>(
    ground: &Ground,
    frame: F,
    sighting: &Sighting,
    origin: Origin<'_>,
) -> bool {
    let Some(mut place) = RECORDS.reserve::<Record<SNAP>>(0) else {
        return false;
    };
    let record = place.as_mut_ptr();
    // SAFETY: the reservation is ours until it is submitted; every field of the header is written,
    // and of `bytes` the first `captured_length`, which is all that user space reads.
    unsafe {
        let header = &raw mut (*record).header;
        header.write(head(frame, sighting, origin));
        let wanted = wanted_length(frame, sighting, origin, SNAP as u32);
        if wanted != 0 {
            let wanted = one_to(wanted, SNAP as u32);
            let bytes = (&raw mut (*record).bytes).cast::<u8>();
            if frame.load(0, bytes, wanted) {
                (*header).captured_length = wanted;
            }
        }
        if !origin.is_spare {
            digest(frame, sighting, header);
        }
    }
    place.submit(ground.wake_flags());
    true
}

/// How many bytes of the frame are captured: up to the end of the headers, or of the snap length.
#[inline(always)]
fn wanted_length<F: Frame>(frame: F, sighting: &Sighting, origin: Origin<'_>, snap: u32) -> u32 {
    let has_payload = origin.snap & 0x100 != 0;
    let wanted = if has_payload {
        snap
    } else {
        sighting.headers.payload_offset
    };
    let wanted = if wanted > snap { snap } else { wanted };
    let length = frame.length();
    if wanted > length { length } else { wanted }
}

#[inline(always)]
fn head<F: Frame>(frame: F, sighting: &Sighting, origin: Origin<'_>) -> RecordHeader {
    let headers = &sighting.headers;
    RecordHeader {
        time_ns: sighting.now_ns,
        matched: origin.matched,
        key: sighting.key,
        incarnation: origin.entry.map_or(0, |entry| entry.incarnation.load()),
        frame_length: frame.length(),
        captured_length: 0,
        network_offset: headers.network_offset as u16,
        transport_offset: headers.transport_offset as u16,
        payload_offset: headers.payload_offset as u16,
        gso_segments: sighting.segments as u16,
        gso_size: sighting.segment_size as u16,
        vlan_tag: frame.vlan_tag(),
        hook: origin.hook as u8,
        direction: sighting.direction() as u8,
        has_ethernet: (origin.kind as u32 == LinkKind::Ethernet as u32) as u8,
        digest_length: 0,
        digest: [0; RECORD_DIGEST_SIZE],
        is_promoted: origin.is_promoted as u8,
        reserved: [0; 7],
    }
}

/// Copies the first bytes of the payload, which stitching needs.
///
/// # Safety
/// `header` must be a reserved record's.
#[inline(always)]
unsafe fn digest<F: Frame>(frame: F, sighting: &Sighting, header: *mut RecordHeader) {
    let headers = &sighting.headers;
    let most = match headers.protocol {
        protocol::TCP => RECORD_DIGEST_TCP as u32,
        protocol::UDP => RECORD_DIGEST_SIZE as u32,
        _ => return,
    };
    let length = if headers.payload_length < most {
        headers.payload_length
    } else {
        most
    };
    if length != 0 {
        let length = one_to(length, RECORD_DIGEST_SIZE as u32);
        // SAFETY: the digest has room for `RECORD_DIGEST_SIZE` bytes.
        unsafe {
            let digest = (&raw mut (*header).digest).cast::<u8>();
            if frame.load(headers.payload_offset, digest, length) {
                (*header).digest_length = length as u8;
            }
        }
    }
}
