//! One packet's way: parse, watch, record; each step counted.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use phalanx_common::abi::{Counter, Hook};
use phalanx_common::packet::{self, Headers, LinkKind, Unparsed};
use phalanx_common::watch::{self, FlowEntry, Sighting, Tables as _};

use crate::frame::{Frame, OPTIONS_MAX, Options, one_to};
use crate::table::Ground;
use crate::{filter, log, record};

/// Follows a packet. Nothing that happens here changes what becomes of it.
#[inline(always)]
pub(crate) fn follow<F: Frame>(frame: F, hook: Hook, kind: LinkKind) {
    let Some(ground) = Ground::get() else { return };
    let Some(sighting) = sight(&ground, frame, hook, kind) else {
        return;
    };
    let entry = if packet::is_error(&sighting.headers) {
        watch_error(&ground, frame, sighting);
        None
    } else {
        watch::watch(&ground, sighting)
    };
    let control = ground.control();
    let is_promoted =
        entry.is_some_and(|it| it.is_promoted(control.promotion_hold_ns, sighting.now_ns));
    if is_promoted || control.generation != 0 {
        let seen = Seen {
            hook,
            kind,
            entry,
            is_promoted,
        };
        record_wanted(&ground, frame, sighting, seen);
    }
    log::tell(&ground);
}

/// What is known of a packet when it may be recorded.
#[derive(Clone, Copy)]
struct Seen<'entry> {
    hook: Hook,
    kind: LinkKind,
    entry: Option<&'entry FlowEntry>,
    is_promoted: bool,
}

/// Parses a packet and finds its key; `None` for one that takes part in no flow, which is counted.
#[inline(always)]
pub(crate) fn sight<F: Frame>(
    ground: &Ground,
    frame: F,
    hook: Hook,
    kind: LinkKind,
) -> Option<&Sighting> {
    ground.count(Counter::Seen, 1);
    ground.count(hook_counter(hook), 1);
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let sighting = unsafe { &mut (*ground.scratch()).sighting };
    let mut reason = parse(frame, kind, &mut sighting.headers);
    if reason == Unparsed::Truncated as u32 && frame.pull() {
        reason = parse(frame, kind, &mut sighting.headers);
    }
    if reason != PARSED {
        ground.count_unparsed(reason);
        return None;
    }
    ground.count(Counter::Parsed, 1);
    if frame.vlan_tag() != 0 {
        sighting.headers.vlan = frame.vlan_tag() & 0x0fff;
    }
    if packet::is_syn(&sighting.headers) {
        read_syn_options(frame, ground);
    }
    sighting.segments = frame.segments();
    sighting.segment_size = frame.segment_size();
    // A super-segment that came in with a virtio header (from a virtual machine) has a size only.
    if sighting.segments == 0 {
        sighting.segments = watch::segments_of(&sighting.headers, sighting.segment_size);
    }
    sighting.direction =
        watch::write_key(&sighting.headers, frame.ifindex(), &mut sighting.key).into();
    // After the key is written: while the clock is asked, it reaches the cache, where the lookup
    // reads it in other pieces than it was written in.
    // SAFETY: the helper has no preconditions.
    sighting.now_ns = unsafe { bpf_ktime_get_ns() };
    Some(sighting)
}

/// Records the packet where a filter asks for it, or its flow is promoted.
#[inline(always)]
fn record_wanted<F: Frame>(ground: &Ground, frame: F, sighting: &Sighting, seen: Seen<'_>) {
    let (matched, snap) = if ground.control().generation == 0 {
        (0, 0)
    } else {
        filter::matched(ground, sighting, seen.entry)
    };
    let (matched, is_left_out) = sample(ground, matched, snap);
    if matched != 0 || seen.is_promoted {
        let is_spare = matched & !ground.control().lookback == 0;
        let origin = record::Origin {
            hook: seen.hook,
            kind: seen.kind,
            matched,
            snap,
            is_spare,
            is_promoted: seen.is_promoted,
            entry: seen.entry,
        };
        record::record(ground, frame, sighting, origin);
    } else if is_left_out {
        ground.count(Counter::Matched, 1);
        ground.count(Counter::SampledOut, 1);
    }
}

/// The filters that match once flows are sampled for those who look back, and whether that took
/// some away.
#[inline(always)]
fn sample(ground: &Ground, matched: u64, snap: u32) -> (u64, bool) {
    let control = ground.control();
    if matched & control.lookback == 0 || snap >> 16 < control.sample_threshold {
        return (matched, false);
    }
    (matched & !control.lookback, true)
}

/// What [`parse`] returns beside the numbers of the reasons.
const PARSED: u32 = u32::MAX;

/// Parses a packet into `headers`; returns [`PARSED`] or the reason why not. A function of its own,
/// so that the verifier goes on with one state from here, however many ways led through it.
#[inline(never)]
fn parse<F: Frame>(frame: F, kind: LinkKind, headers: &mut Headers) -> u32 {
    match packet::parse_into(frame.bytes(), kind, frame.parse_length(), headers) {
        Ok(()) => {
            packet::read_timestamps(frame.bytes(), headers);
            PARSED
        }
        Err(reason) => reason as u32,
    }
}

/// Copies the options of a SYN beside the stack and reads them there.
#[inline(never)]
fn read_syn_options<F: Frame>(frame: F, ground: &Ground) {
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let scratch = unsafe { &mut *ground.scratch() };
    let headers = &scratch.sighting.headers;
    let length = headers
        .payload_offset
        .wrapping_sub(headers.transport_offset + 20);
    if length == 0 || length > OPTIONS_MAX {
        return;
    }
    let length = one_to(length, OPTIONS_MAX);
    // SAFETY: `options` has room for `OPTIONS_MAX` bytes.
    let is_loaded = unsafe {
        frame.load(
            headers.transport_offset + 20,
            scratch.options.0.as_mut_ptr(),
            length,
        )
    };
    if is_loaded {
        phalanx_syn_options(
            &raw const scratch.options,
            length,
            &raw mut scratch.sighting.headers,
        );
    }
}

/// Reads the options of a SYN. Proven on its own by the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phalanx_syn_options(
    options: *const Options,
    length: u32,
    headers: *mut Headers,
) -> u32 {
    // SAFETY: what is not null lies in the scratch.
    if let (Some(options), Some(headers)) = unsafe { (options.as_ref(), headers.as_mut()) } {
        packet::read_syn_options(options, 0, length, headers);
    }
    0
}

#[inline(always)]
const fn hook_counter(hook: Hook) -> Counter {
    match hook {
        Hook::Xdp => Counter::SeenXdp,
        Hook::TcIngress => Counter::SeenTcIngress,
        Hook::TcEgress => Counter::SeenTcEgress,
    }
}

/// An ICMP error speaks of another flow.
#[inline(never)]
fn watch_error<F: Frame>(ground: &Ground, frame: F, sighting: &Sighting) {
    ground.count(Counter::IcmpErrors, 1);
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let scratch = unsafe { &mut *ground.scratch() };
    let (quote, key) = (&mut scratch.quote, &mut scratch.quote_key);
    let (error, now_ns) = (&sighting.headers, sighting.now_ns);
    if parse_quote(frame, error, quote)
        && watch::watch_icmp_error(ground, error, quote, frame.ifindex(), now_ns, key)
    {
        ground.count(Counter::IcmpErrorsMatched, 1);
    }
}

#[inline(never)]
fn parse_quote<F: Frame>(frame: F, headers: &Headers, quote: &mut Headers) -> bool {
    packet::parse_quote_into(frame.bytes(), headers, quote).is_ok()
}
