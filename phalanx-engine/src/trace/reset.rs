//! RSTs that do not fit their sender: says why, from what is known of it before the RST.
//!
//! A sender may leave timestamps out (RFC 7323 section 3.2): only those that are there say
//! something. A receiver that follows RFC 5961 section 3.2 believes no RST but one of the very next
//! number; one elsewhere in its window is what somebody sends who has to guess.

use phalanx_common::packet::TcpFlags;

use super::sides::SideFacts;
use crate::record::PacketRecord;
use crate::segment::{Half, ResetNumber};

/// Largest difference of TTL between packets of one sender: routes change by a few hops.
const TTL_STEP_MAX: u8 = 3;

/// How far the timestamp of a RST may be behind, in ticks: a second of the fastest usual clock.
const TIMESTAMP_STEP_MAX: i32 = 1_000;

/// Why a RST does not fit its sender; `None` for what fits, and for what is no RST.
pub(crate) fn unfit(
    record: &PacketRecord<'_>,
    facts: &SideFacts,
    half: &Half,
) -> Option<&'static str> {
    if !record.flags().any(TcpFlags::RST) || facts.counts.packets == 0 {
        return None;
    }
    let headers = record.headers;
    let number = half.reset_number(headers.sequence, headers.ip_id);
    if facts.ttl_last.abs_diff(headers.ttl) > TTL_STEP_MAX {
        Some("a RST whose TTL is not its sender's")
    } else if number == ResetNumber::Outside {
        Some("a RST with a number that its sender would not use")
    } else if !half.fits_id(headers.ip_id) {
        Some("a RST whose IP id is not its sender's")
    } else if is_behind(record, facts) {
        Some("a RST whose timestamp is far behind its sender's")
    } else if number == ResetNumber::Within {
        Some("a RST within the window, but not where its sender stands")
    } else {
        None
    }
}

fn is_behind(record: &PacketRecord<'_>, facts: &SideFacts) -> bool {
    let options = record.options;
    // Some send 0 in a RST, as if they had none.
    let value = Some(options.timestamp_value).filter(|it| options.has_timestamps && *it != 0);
    let step = value
        .zip(facts.timestamp_last)
        .map(|(value, last)| last.wrapping_sub(value) as i32);
    step.is_some_and(|step| step > TIMESTAMP_STEP_MAX)
}
