//! Stories: what one flow that was traced packet by packet comes to. Values only; how they are
//! measured is `trace`'s, how they are shown is the shell's.

use crate::application::ApplicationStory;
use crate::budget::TimeBudget;
use crate::distribution::Distribution;
use crate::side::{Endpoint, RoleBasis, Sides};

/// How a connection began and ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionState {
    /// Not a connection: UDP and other protocols.
    #[default]
    None,
    /// SYN without any answer.
    Unanswered,
    /// SYN answered by RST.
    Refused,
    /// SYN answered by an ICMP error.
    Unreachable,
    /// SYN answered by SYN-ACK, which the client never acknowledged.
    HalfOpen,
    /// The client gave up while connecting: RST after its SYN, or after the SYN-ACK.
    Aborted,
    /// Open when the capture ended.
    Established,
    /// One side has sent FIN.
    HalfClosed,
    /// Both sides have sent FIN.
    Closed,
    /// Ended by RST.
    Reset,
}

impl ConnectionState {
    /// The state as reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::HalfOpen => "half_open",
            Self::Aborted => "aborted",
            Self::Established => "established",
            Self::HalfClosed => "half_closed",
            Self::Closed => "closed",
            Self::Reset => "reset",
        }
    }

    /// Whether it never came to be.
    #[must_use]
    pub const fn is_failed(self) -> bool {
        matches!(
            self,
            Self::Unanswered | Self::Refused | Self::Unreachable | Self::HalfOpen | Self::Aborted
        )
    }
}

macro_rules! side_counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What one side of a traced flow sent, or what happened to it. Copies of packets that
        /// were captured twice are in `network_duplicates` and `capture_duplicates` alone.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct SideCounts {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl SideCounts {
            /// The names of the counts, in order.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// The counts in the order of [`Self::NAMES`].
            pub fn values(&self) -> impl Iterator<Item = u64> {
                [$(self.$name),+].into_iter()
            }
        }
    };
}

side_counts! {
    /// Packets, copies aside.
    packets,
    /// IP bytes, headers counted.
    bytes,
    /// Packets with payload.
    data_packets,
    /// Payload bytes, repeated ones counted again.
    payload_bytes,
    /// Payload bytes, each counted once.
    unique_bytes,
    /// Segments that the sender had sent before.
    retransmitted_packets,
    /// Payload bytes of these that had been seen.
    retransmitted_bytes,
    /// Of the retransmitted: after duplicate acknowledgements.
    fast_retransmissions,
    /// Of the retransmitted: after a timeout.
    timeout_retransmissions,
    /// Of the retransmitted: tail-loss probes.
    tail_loss_probes,
    /// Of the retransmitted: acknowledged before, or called needless by DSACK.
    spurious_retransmissions,
    /// Segments lost before this hop and sent again.
    holes_filled,
    /// Segments overtaken by later ones.
    reordered_packets,
    /// Copies that the network made.
    network_duplicates,
    /// Copies from another place on the way.
    capture_duplicates,
    /// Keep-alive segments.
    keep_alives,
    /// Zero-window probes.
    zero_window_probes,
    /// Jumps ahead of the highest sequence number.
    gaps,
    /// Bytes of holes that were never filled here, although the peer acknowledged them.
    unseen_bytes,
    /// Acknowledgements of bytes that were not captured.
    acks_of_unseen,
    /// Segments with ACK and neither payload, SYN, FIN nor RST.
    pure_acks,
    /// Duplicate acknowledgements.
    duplicate_acks,
    /// Window updates.
    window_updates,
    /// Segments that filled the peer's window.
    window_full,
    /// Announcements of a window of 0.
    zero_windows,
    /// Segments with SACK blocks.
    sacks,
    /// Segments with a DSACK block.
    dsacks,
    /// SYN segments.
    syns,
    /// FIN segments.
    fins,
    /// RST segments.
    resets,
    /// RST segments that do not fit their sender.
    unfitting_resets,
    /// Segments whose bytes were seen before with another content.
    conflicting_packets,
    /// Packets after a RST of the same side that are no RST: who resets a connection sends none.
    packets_after_reset,
    /// Packets marked "congestion experienced" (RFC 3168).
    ecn_marked_packets,
    /// Packets whose numbers lie beyond any window.
    implausible_packets,
    /// Packets of which the payload was captured in part.
    cut_packets,
    /// IP datagrams that came in fragments.
    fragmented_packets,
    /// ICMP errors that quoted a packet of this side.
    icmp_errors,
}

/// What one side announced and did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SideStory {
    /// Counts.
    pub counts: SideCounts,
    /// Round trips of its data and SYN: from the hop to the peer and back.
    pub rtt: Distribution,
    /// Retransmission timeout as the hop would estimate it at the end (RFC 6298), in nanoseconds.
    pub rto_ns: Option<i64>,
    /// MSS option, 0 where absent.
    pub mss: u16,
    /// Window scale shift it announced.
    pub window_scale: Option<u8>,
    /// Whether it announced SACK.
    pub sack_permitted: bool,
    /// Whether it sends timestamps.
    pub has_timestamps: bool,
    /// Smallest window announced after the SYN, in bytes; `None` where there was none.
    pub window_min: Option<u32>,
    /// Largest.
    pub window_max: u32,
    /// Most bytes under way at once.
    pub flight_max: u64,
    /// The congestion window as estimated at the end, in bytes: the most under way in a round trip
    /// since the last loss (after Dapper, SOSR 2017).
    pub congestion_window: u64,
    /// Largest segment, in payload bytes.
    pub segment_max: u32,
    /// Smallest and largest TTL.
    pub ttl_min: u8,
    /// Largest TTL.
    pub ttl_max: u8,
    /// Smallest MTU that an ICMP error told to it (RFC 1191, RFC 8201), 0 where none did.
    pub icmp_mtu: u32,
    /// Longest silence between two of its packets, in nanoseconds.
    pub silence_max_ns: i64,
    /// First and last packet with payload, in nanoseconds since the epoch.
    pub data_first_ns: Option<i64>,
    /// See above.
    pub data_last_ns: Option<i64>,
}

/// Requests and answers: pairs of a run of the client's payload and one of the server's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnStory {
    /// Answered requests.
    pub count: u64,
    /// Whether the last request has no answer.
    pub is_last_unanswered: bool,
    /// Last byte of the request, arrived, to the first of the answer: the server's own time.
    pub think: Distribution,
    /// Last byte of the answer, arrived, to the next request: the client's own time.
    pub idle: Distribution,
    /// First to last byte of the answer.
    pub transfer: Distribution,
}

/// What one flow comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowStory {
    /// Number of the hop that saw it.
    pub hop: u32,
    /// Number of its first frame: names the flow.
    pub flow: u64,
    /// Number of its last frame.
    pub last_frame: u64,
    /// IANA protocol number.
    pub protocol: u8,
    /// Client and server.
    pub endpoints: Option<Sides<Endpoint>>,
    /// How the roles were decided.
    pub role_basis: Option<RoleBasis>,
    /// First packet, in nanoseconds since the epoch.
    pub start_ns: i64,
    /// First to last packet in nanoseconds, never negative.
    pub duration_ns: i64,
    /// How long it was watched after its last packet, in nanoseconds; a second stands for that and
    /// all beyond. Less means that the capture ended, or that room was needed.
    pub watched_after_ns: i64,
    /// How it began and ended.
    pub state: ConnectionState,
    /// Whether its first packet was not the beginning of the connection.
    pub starts_mid_stream: bool,
    /// Whether the 5-tuple was used by an earlier connection of the capture, one that had not been
    /// over and silent for a minute.
    pub reuses_ports: bool,
    /// What each side sent.
    pub sides: Sides<SideStory>,
    /// SYN to SYN-ACK: hop to server and back, in nanoseconds; from the last SYN before it.
    pub handshake_server_ns: Option<i64>,
    /// SYN-ACK to ACK: hop to client and back, in nanoseconds.
    pub handshake_client_ns: Option<i64>,
    /// Where the time went (TCP).
    pub budget: Option<TimeBudget>,
    /// Requests and answers.
    pub turns: TurnStory,
    /// Largest and mean gap between datagrams, and their sizes (not TCP).
    pub gaps: Option<Distribution>,
    /// What its payload tells, as far as it is in clear.
    pub application: ApplicationStory,
    /// VXLAN or Geneve network identifier.
    pub network_identifier: Option<u32>,
}

impl FlowStory {
    /// How long it was watched in all, from its first packet, in nanoseconds; at least, where that
    /// was more than a second after its last one.
    #[must_use]
    pub const fn watched_ns(&self) -> i64 {
        self.duration_ns.saturating_add(self.watched_after_ns)
    }
}
