//! One packet's way: parse, watch, record; each step counted.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use phalanx_common::abi::{Counter, Hook};
use phalanx_common::packet::{self, Headers, LinkKind, Unparsed};
use phalanx_common::watch::{self, Sighting, Tables as _};

use crate::frame::Frame;
use crate::table::Ground;
use crate::{filter, record};

/// Follows a packet. Nothing that happens here changes what becomes of it.
#[inline(always)]
pub(crate) fn follow<F: Frame>(frame: F, hook: Hook, kind: LinkKind) {
    let Some(ground) = Ground::get() else { return };
    ground.count(Counter::Seen, 1);
    ground.count(hook_counter(hook), 1);
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let headers = unsafe { &mut (*ground.scratch()).headers };
    let mut reason = parse(frame, kind, headers);
    if reason == Unparsed::Truncated as u32 && frame.pull() {
        reason = parse(frame, kind, headers);
    }
    if reason != PARSED {
        ground.count_unparsed(reason);
        return;
    }
    ground.count(Counter::Parsed, 1);
    if frame.vlan_tag() != 0 {
        headers.vlan = frame.vlan_tag() & 0x0fff;
    }
    watch_packet(&ground, frame, hook, kind, headers);
}

/// What [`parse`] returns beside the numbers of the reasons.
const PARSED: u32 = u32::MAX;

/// Parses a packet into `headers`; returns [`PARSED`] or the reason why not. A function of its own,
/// so that the verifier goes on with one state from here, however many ways led through it.
#[inline(never)]
fn parse<F: Frame>(frame: F, kind: LinkKind, headers: &mut Headers) -> u32 {
    match packet::parse(frame.bytes(), kind, frame.parse_length()) {
        Ok(parsed) => {
            *headers = parsed;
            PARSED
        }
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
const fn hook_counter(hook: Hook) -> Counter {
    match hook {
        Hook::Xdp => Counter::SeenXdp,
        Hook::TcIngress => Counter::SeenTcIngress,
        Hook::TcEgress => Counter::SeenTcEgress,
    }
}

#[inline(always)]
fn watch_packet<F: Frame>(
    ground: &Ground,
    frame: F,
    hook: Hook,
    kind: LinkKind,
    headers: &Headers,
) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let key = unsafe { &mut (*ground.scratch()).key };
    let direction = watch::write_key(headers, frame.ifindex(), key);
    let key = &*key;
    let sighting = Sighting {
        headers,
        key,
        direction,
        now_ns,
        segments: frame.segments(),
        segment_size: frame.segment_size(),
        bytes: frame.bytes(),
    };
    let entry = if packet::is_error(headers) {
        watch_error(ground, frame, headers, now_ns);
        None
    } else {
        watch::watch(ground, &sighting)
    };
    if ground.control().generation != 0 {
        let (matched, snap) = filter::matched(ground, key, entry);
        if matched != 0 {
            record::record(
                ground,
                frame,
                &sighting,
                record::Origin {
                    hook,
                    kind,
                    matched,
                    snap,
                    entry,
                },
            );
        }
    }
}

/// An ICMP error speaks of another flow.
#[inline(never)]
fn watch_error<F: Frame>(ground: &Ground, frame: F, headers: &Headers, now_ns: u64) {
    ground.count(Counter::IcmpErrors, 1);
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let scratch = unsafe { &mut *ground.scratch() };
    let (quote, key) = (&mut scratch.quote, &mut scratch.quote_key);
    if parse_quote(frame, headers, quote)
        && watch::watch_icmp_error(ground, headers, quote, frame.ifindex(), now_ns, key)
    {
        ground.count(Counter::IcmpErrorsMatched, 1);
    }
}

#[inline(never)]
fn parse_quote<F: Frame>(frame: F, headers: &Headers, quote: &mut Headers) -> bool {
    match packet::parse_quote(frame.bytes(), headers) {
        Ok(parsed) => {
            *quote = parsed;
            true
        }
        Err(_) => false,
    }
}
