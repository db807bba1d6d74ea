//! What the programs tell where somebody debugs them: of rare ways only, through the ring of
//! `aya-log`. Off, which is the default of the loader, the level is 0, and the verifier takes all
//! of it out of the programs.
//!
//! What happened is noted where it happens, deep in the calls, and told of when the packet's way
//! has ended: formatting takes stack, of which Linux 6.1 counts all that any call might take.

use aya_log_ebpf::debug;
use aya_log_ebpf::macro_support::{Level, level_enabled};

use crate::table::Ground;

/// What is told of: bits.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Event {
    /// The flow was promoted.
    Promoted = 1,
    /// The flow found the table full.
    TableFull = 2,
    /// The flow is a connection that was refused.
    Refused = 4,
    /// The flow asked the filters, for the first time in their generation.
    Filtered = 8,
}

/// Notes what happens to the packet that is on its way.
#[inline(always)]
pub(crate) fn note(event: Event) {
    if level_enabled(Level::Debug) {
        write(event as u32);
    }
}

/// A function of its own, which asks for the scratch itself: those who call it have no stack left
/// to keep it in.
#[inline(never)]
fn write(event: u32) {
    if let Some(ground) = Ground::get() {
        let noted = ground.noted();
        noted.store(noted.load() | event);
    }
}

/// Tells what was noted, if anything was.
#[inline(always)]
pub(crate) fn tell(ground: &Ground) {
    if level_enabled(Level::Debug) && ground.noted().load() != 0 {
        phalanx_log();
    }
}

/// Writes a line on the packet in the scratch: of several things that happened to it, the rarest.
/// Proven on its own by the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phalanx_log() -> u32 {
    let Some(ground) = Ground::get() else {
        return 0;
    };
    let noted = ground.noted().load();
    ground.noted().store(0);
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let key = unsafe { &(*ground.scratch()).sighting.key };
    let is = |event: Event| noted & event as u32 != 0;
    let (hop, protocol) = (key.ifindex, key.protocol);
    let (low, high) = (key.low_port, key.high_port);
    if is(Event::Promoted) {
        debug!(
            (),
            "promoted: if {} proto {} ports {} {}", hop, protocol, low, high
        );
    } else if is(Event::TableFull) {
        debug!(
            (),
            "table full: if {} proto {} ports {} {}", hop, protocol, low, high
        );
    } else if is(Event::Refused) {
        debug!(
            (),
            "refused: if {} proto {} ports {} {}", hop, protocol, low, high
        );
    } else if is(Event::Filtered) {
        let generation = ground.control().generation;
        debug!(
            (),
            "filters {}: if {} proto {} ports {} {}", generation, hop, protocol, low, high
        );
    }
    0
}
