//! The packets of a conversation as all its hops saw them, as JSON.

use phalanx_common::packet::TcpFlags;
use phalanx_engine::stitch::{Ladder, Rung, RungCrossing, RungEnd};

use super::across::{HopNames, hop_name, names};
use super::out::{Out, name};
use crate::report::word::{self, milliseconds};

/// Writes the ladder as one object.
pub(super) fn write(
    ladder: &Ladder,
    hops: HopNames<'_>,
    mut out: Out<'_>,
) -> serde_json::Result<()> {
    out.put(name!("hops"), Some(names(&ladder.hops, hops)))?;
    let start_ns = word::ladder_start_ns(ladder);
    let line = out.value(name!("rungs"));
    line.push(b'[');
    for (index, rung) in ladder.rungs.iter().enumerate() {
        if index > 0 {
            line.push(b',');
        }
        write_rung(rung, start_ns, hops, line)?;
    }
    line.push(b']');
    out.put(name!("left_out"), Some(ladder.left_out))?;
    out.end();
    Ok(())
}

fn write_rung(
    rung: &Rung,
    start_ns: i64,
    hops: HopNames<'_>,
    line: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let mut out = Out::begin(line);
    out.put(name!("direction"), Some(word::direction(rung.side)))?;
    let flags = word::flags(TcpFlags(rung.flags), ",");
    out.put(name!("flags"), rung.sequence.map(|_| flags))?;
    out.put(name!("sequence"), rung.sequence)?;
    out.put(name!("length"), Some(rung.length))?;
    out.put(name!("acknowledgement"), rung.acknowledgement)?;
    out.put(name!("class"), rung.class.map(|class| class.name()))?;
    let line = out.value(name!("crossings"));
    line.push(b'[');
    for (index, crossing) in rung.crossings.iter().enumerate() {
        if index > 0 {
            line.push(b',');
        }
        write_crossing(crossing, start_ns, hops, line)?;
    }
    line.push(b']');
    let (end, after) = end(rung.end);
    out.put(name!("end"), Some(end))?;
    out.put(name!("after"), after.map(|hop| hop_name(hop, hops)))?;
    out.put(name!("repeats"), rung.repeats)?;
    out.put(name!("copy_of"), rung.copy_of)?;
    let overtaken_before = rung.overtaken_before.map(|hop| hop_name(hop, hops));
    out.put(name!("overtaken_before"), overtaken_before)?;
    out.end();
    Ok(())
}

/// What became of a packet, and the last hop of which that is known.
fn end(end: RungEnd) -> (&'static str, Option<u32>) {
    match end {
        RungEnd::Arrived => ("arrived", None),
        RungEnd::Lost(after) => ("lost", Some(after)),
        RungEnd::Uncaptured(after) => ("not_captured", Some(after)),
        RungEnd::Unknown(after) => ("unknown", Some(after)),
    }
}

/// Where clocks could not be compared, the reference has no time for it.
fn write_crossing(
    crossing: &RungCrossing,
    start_ns: i64,
    hops: HopNames<'_>,
    line: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let mut out = Out::begin(line);
    out.put(name!("hop"), Some(hop_name(crossing.hop, hops)))?;
    out.put(name!("frame"), Some(crossing.frame))?;
    out.put(name!("time"), Some(word::instant(crossing.time_ns)))?;
    let at_ns = crossing.reference_ns.saturating_sub(start_ns);
    let at_ms = crossing.error_ns.map(|_| milliseconds(at_ns));
    out.put(name!("at_ms"), at_ms)?;
    out.put(name!("error_ms"), crossing.error_ns.map(milliseconds))?;
    out.end();
    Ok(())
}
