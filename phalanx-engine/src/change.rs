//! What the engine decided: the only thing that views, store, stream and tests read.
//!
//! Sequence numbers start at 1 and rise by one; a jump tells of changes lost because nobody
//! drained them (see [`crate::Tally::changes_lost`]). To count traffic once, fold `PairUpdated`:
//! the flows of one conversation at several hops saw the same packets.

use std::sync::Arc;

use phalanx_common::abi::{FlowKey, HalfCounters};

use crate::conversation::ConversationId;
use crate::feature::Features;
use crate::flow::FlowId;
use crate::hop::{Hop, HopId};
use crate::measure::{Counts, Measures};
use crate::name::{NameBasis, Service};
use crate::pair::{PairId, PairKey, PairSummary};
use crate::side::{Endpoint, RoleBasis, Sides};
use crate::story::FlowStory;
use crate::time::Monotonic;
use crate::translation::Translation;

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its number, from 1.
    pub sequence: u64,
    /// The time the engine was told when it decided.
    pub at: Monotonic,
    /// What was decided.
    pub kind: ChangeKind,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeKind {
    /// A hop is watched.
    HopAppeared(Arc<Hop>),
    /// A hop is no longer watched. Its flows are closed by changes that follow.
    HopVanished(HopId),
    /// A flow was opened.
    FlowOpened(Box<FlowOpened>),
    /// A flow grew.
    FlowUpdated(Box<FlowUpdated>),
    /// A flow ended. Comes after the last update of it.
    FlowClosed(FlowClosed),
    /// A conversation was opened.
    ConversationOpened(Box<ConversationOpened>),
    /// A conversation changed: its path, its services, or what was measured of it.
    ConversationUpdated(Box<ConversationUpdated>),
    /// A conversation ended: the last of its flows did.
    ConversationClosed(Box<ConversationClosed>),
    /// A host translates addresses or ports of a conversation.
    ConversationTranslated(Box<ConversationTranslated>),
    /// A service pair was seen for the first time.
    PairOpened {
        /// Its number.
        pair: PairId,
        /// Who talks to whom.
        key: Arc<PairKey>,
    },
    /// A service pair grew: what one update adds, counted once however many hops saw it.
    PairUpdated(Box<PairUpdated>),
    /// What is known of a service pair, told from time to time while it is active.
    PairMeasured(Box<PairMeasured>),
    /// A service pair was forgotten to make room. Seen again, it gets a new number.
    PairForgotten(PairId),
    /// An attempt to connect failed.
    AttemptFailed(Box<AttemptFailed>),
    /// An endpoint of a conversation got a name, or a better one.
    NameLearned {
        /// The endpoint.
        endpoint: Endpoint,
        /// What it is called now.
        name: Arc<str>,
        /// Where the name comes from.
        basis: NameBasis,
    },
    /// A flow that was recorded ended, or its recording did: what its packets come to. Told once.
    FlowTraced(Box<FlowTraced>),
}

/// A flow that was followed packet by packet.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowTraced {
    /// Where.
    pub hop: HopId,
    /// What came of it. Its times are of [`Monotonic`]; frames are numbered over all hops. Payload
    /// was not looked at, whether it was captured or not.
    pub story: FlowStory,
}

/// A flow was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowOpened {
    /// Its number.
    pub flow: FlowId,
    /// Where.
    pub hop: HopId,
    /// The conversation it is part of.
    pub conversation: ConversationId,
    /// Its key in the kernel.
    pub key: FlowKey,
    /// Its incarnation in the kernel.
    pub incarnation: u32,
    /// Client and server.
    pub endpoints: Sides<Endpoint>,
    /// How it was decided who is the client.
    pub role_basis: RoleBasis,
    /// When its first packet was seen.
    pub opened: Monotonic,
}

/// A flow grew.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowUpdated {
    /// Its number.
    pub flow: FlowId,
    /// Where.
    pub hop: HopId,
    /// When the kernel made the update.
    pub observed: Monotonic,
    /// The kernel's counters as they stand, by sender.
    pub totals: Sides<HalfCounters>,
    /// What was added to the counters, by sender.
    pub added: Sides<Counts>,
    /// What was measured.
    pub measures: Measures,
    /// Bits of [`phalanx_common::abi::update_reason`].
    pub reason: u32,
    /// The ICMP error that this update tells of; the counts of `added` say of whose packet.
    pub icmp_error: Option<IcmpError>,
    /// Updates of this flow that were lost just before this one, with their samples.
    pub lost_updates: u32,
}

/// An ICMP error that quoted a packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpError {
    /// Type of the message (ICMPv6 where the addresses are IPv6).
    pub icmp_type: u8,
    /// Its code.
    pub icmp_code: u8,
}

impl IcmpError {
    /// Reads the word of the kernel: type in the upper byte of its lower half, code in the lower.
    pub(crate) const fn new(word: u32) -> Self {
        let [.., icmp_type, icmp_code] = word.to_be_bytes();
        Self {
            icmp_type,
            icmp_code,
        }
    }
}

/// Why a flow or a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// TCP: both ends have sent FIN.
    Fin,
    /// TCP: reset.
    Reset,
    /// Nothing was seen for too long.
    Idle,
    /// The 5-tuple was used again.
    Reused,
    /// Its hop vanished.
    HopVanished,
    /// It made room for another.
    Evicted,
}

/// A flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowClosed {
    /// Its number.
    pub flow: FlowId,
    /// Where.
    pub hop: HopId,
    /// Why.
    pub reason: CloseReason,
    /// When its first packet was seen.
    pub opened: Monotonic,
    /// When it ended: its FIN or RST, else its last packet as far as it is known.
    pub ended: Monotonic,
}

/// A conversation was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationOpened {
    /// Its number.
    pub conversation: ConversationId,
    /// IANA protocol number.
    pub protocol: u8,
    /// Client and server.
    pub endpoints: Sides<Endpoint>,
    /// What runs there.
    pub services: Sides<Arc<Service>>,
    /// How it was decided who is the client.
    pub role_basis: RoleBasis,
    /// Its service pair.
    pub pair: PairId,
    /// When its first packet was seen.
    pub opened: Monotonic,
    /// The hops that saw it.
    pub path: Vec<HopId>,
}

/// A conversation changed.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationUpdated {
    /// Its number.
    pub conversation: ConversationId,
    /// Client and server, as the hops nearest to them see them: NAT may have rewritten what others
    /// see.
    pub endpoints: Sides<Endpoint>,
    /// What runs at its ends.
    pub services: Sides<Arc<Service>>,
    /// Its service pair.
    pub pair: PairId,
    /// The hops that saw it, in the order of their numbers.
    pub path: Vec<HopId>,
    /// What was measured so far.
    pub features: Features,
}

/// A conversation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationClosed {
    /// Its number.
    pub conversation: ConversationId,
    /// Its service pair.
    pub pair: PairId,
    /// Why its last flow ended.
    pub reason: CloseReason,
    /// When its first packet was seen.
    pub opened: Monotonic,
    /// When it ended.
    pub ended: Monotonic,
    /// The hops that saw it, in the order of their numbers.
    pub path: Vec<HopId>,
    /// All that was measured.
    pub features: Features,
}

/// A host translates addresses or ports of a conversation. Told again for every flow that opens.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationTranslated {
    /// The host whose connection tracking says so.
    pub host: Arc<str>,
    /// What becomes of what.
    pub translation: Translation,
    /// The open conversation with the ends inside; it may have those outside as well, where its
    /// packets told that both are one.
    pub inside: Option<ConversationId>,
    /// The open conversation with the ends outside, if that is another one.
    pub outside: Option<ConversationId>,
}

/// A service pair grew.
#[derive(Clone, Debug, PartialEq)]
pub struct PairUpdated {
    /// The pair.
    pub pair: PairId,
    /// The conversation that grew.
    pub conversation: ConversationId,
    /// What was added, by sender.
    pub added: Sides<Counts>,
    /// What was measured.
    pub measures: Measures,
}

/// What is known of a service pair.
#[derive(Clone, Debug, PartialEq)]
pub struct PairMeasured {
    /// The pair.
    pub pair: PairId,
    /// What is known.
    pub summary: PairSummary,
}

/// Why an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttemptFailure {
    /// The SYN was answered by a RST.
    Refused,
    /// Nothing answered, through all the time that retries are waited for.
    Unanswered,
    /// An ICMP error answered.
    Unreachable {
        /// Type of the ICMP message (ICMPv6 where the addresses are IPv6).
        icmp_type: u8,
        /// Its code.
        icmp_code: u8,
    },
}

/// An attempt to connect failed. Told once, however many hops saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptFailed {
    /// The first hop that told of it.
    pub hop: HopId,
    /// Client and server.
    pub endpoints: Sides<Endpoint>,
    /// The service pair.
    pub pair: PairId,
    /// Why.
    pub failure: AttemptFailure,
    /// When the first SYN was seen, where it was.
    pub started: Option<Monotonic>,
    /// SYN to its answer in microseconds, where there was one and it was timed.
    pub answer_us: Option<u32>,
}
