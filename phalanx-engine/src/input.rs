//! Everything that can reach the engine: one closed enumeration.

use phalanx_common::abi::{Attempt, FlowKey, FlowUpdate, RecordHeader};

use crate::hop::{Hop, HopId};
use crate::name::NameFact;
use crate::time::Monotonic;

/// What the shell tells the engine.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A hop is being watched from now on. A number in use is taken over: the old hop vanishes.
    HopAppeared(Hop),
    /// A hop is no longer watched: its flows are closed.
    HopVanished(HopId),
    /// The kernel pushed what it has counted of a flow.
    Update {
        /// Where.
        hop: HopId,
        /// What.
        update: &'a FlowUpdate,
    },
    /// The kernel tells of a connection that is not open yet.
    Attempt {
        /// Where.
        hop: HopId,
        /// What.
        attempt: &'a Attempt,
    },
    /// A packet of a recorded flow.
    Record {
        /// Where.
        hop: HopId,
        /// The header.
        header: &'a RecordHeader,
        /// The captured bytes of the frame.
        bytes: &'a [u8],
    },
    /// The answer to [`crate::Command::ReadAndDelete`]: what the entry held when it was deleted.
    /// Its samples are those not pushed yet.
    FlowRead {
        /// Where.
        hop: HopId,
        /// What.
        update: &'a FlowUpdate,
    },
    /// The other answer to [`crate::Command::ReadAndDelete`]: there is no such entry, or it is of
    /// another incarnation.
    FlowGone {
        /// Where.
        hop: HopId,
        /// Which flow was asked for.
        key: FlowKey,
        /// Which incarnation of it.
        incarnation: u32,
    },
    /// All that the kernel told of this hop before `at` has come. Only where flows expire as
    /// [`crate::Expiry::Told`] says.
    HopHeard {
        /// Where.
        hop: HopId,
        /// Until when.
        at: Monotonic,
    },
    /// Something that gives addresses and ports a name.
    Names(NameFact),
}

/// What the engine asks the shell to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Delete this entry of the kernel's flow table, if it is still of this incarnation: its hop
    /// has vanished, and nobody else would. No answer is expected. The shell must know the hop
    /// still when this comes, which is before the engine has no deadline that is past.
    Delete {
        /// At which hop.
        hop: HopId,
        /// Which flow.
        key: FlowKey,
        /// Which incarnation of it.
        incarnation: u32,
    },
    /// Read this entry of the kernel's flow table and delete it, if it is still of this
    /// incarnation; answer with [`Input::FlowRead`] or [`Input::FlowGone`].
    ReadAndDelete {
        /// At which hop.
        hop: HopId,
        /// Which flow.
        key: FlowKey,
        /// Which incarnation of it.
        incarnation: u32,
    },
}
