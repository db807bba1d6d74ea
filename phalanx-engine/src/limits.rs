//! Every bound of the engine, with its arithmetic.

use crate::time::Monotonic;

const SECOND_NS: u64 = 1_000_000_000;

/// Hops watched at once: some hundreds of containers, two interfaces each.
pub const HOP_COUNT_MAX: usize = 4_096;

/// Flows kept by default: what the kernel's table holds by default.
pub const FLOW_COUNT_DEFAULT: usize = phalanx_common::limits::FLOW_COUNT_DEFAULT as usize;

/// Changes waiting to be drained. One input makes at most a dozen; the shell drains after each
/// batch of events.
pub const CHANGE_COUNT_MAX: usize = 16_384;

/// Commands waiting to be drained.
pub const COMMAND_COUNT_MAX: usize = 4_096;

/// Deadlines served by one call: the shell calls again at once while there are more.
pub const DEADLINE_BATCH: usize = 1_024;

/// Slots of the flow table that are looked at by one call after a hop has vanished.
pub const SWEEP_SLOT_COUNT: u32 = 16_384;

/// Flows that are looked at to find a silent one to evict.
pub const EVICTION_TRIES: usize = 16;

/// Default silence after which an established TCP flow is closed. Longer than a keep-alive
/// interval of most servers and pools; shorter than RFC 5382's two hours, since a flow that speaks
/// again is opened again.
pub const TCP_IDLE_TIMEOUT_NS: u64 = 600 * SECOND_NS;

/// Silence after FIN or RST: stragglers still count.
pub const TCP_CLOSED_TIMEOUT_NS: u64 = 5 * SECOND_NS;

/// Silence of UDP and of all other protocols but ICMP.
pub const UDP_IDLE_TIMEOUT_NS: u64 = 60 * SECOND_NS;

/// Silence of ICMP and ICMPv6.
pub const ICMP_IDLE_TIMEOUT_NS: u64 = 30 * SECOND_NS;

/// How long an answer to a read is waited for before the flow is closed without.
pub const READ_TIMEOUT_NS: u64 = 10 * SECOND_NS;

/// How much later than its silence the end of a flow may be told where another engine looks after
/// it, on that one's clock: its read takes 10 s at most, its loop less than one.
pub const TOLD_SLACK_NS: u64 = 30 * SECOND_NS;

/// Flows of one conversation that are followed as its path: a bridge, its veth, a bond and its
/// ports, both ends of a container; more are counted and left out.
pub const PATH_LENGTH_MAX: usize = 16;

/// How far apart the first packets of two flows of one TCP connection may be seen within a host.
pub const JOIN_WINDOW_NS: u64 = 2 * SECOND_NS;

/// Shortest time between two measurements of one conversation or of one service pair.
pub const MEASURE_INTERVAL_NS: u64 = 5 * SECOND_NS;

/// Service pairs kept. Each is a set of series for Prometheus: a thousand times thirty is what one
/// scrape of one host should carry at most.
pub const PAIR_COUNT_MAX: usize = 1_024;

/// Length of a window of the histograms: quantiles speak of the last one to two.
pub const HISTOGRAM_WINDOW_NS: u64 = 60 * SECOND_NS;

/// Attempts to connect that are waited for: as many as the kernel's pending table holds.
pub const ATTEMPT_COUNT_MAX: usize =
    phalanx_common::limits::BUCKET_COUNT as usize * phalanx_common::limits::BUCKET_PLACE_COUNT;

/// How long an attempt waits for its answer: the first four SYNs of a usual client (at 0, 1, 3 and
/// 7 s) and some time for an answer to the last.
pub const ATTEMPT_TIMEOUT_NS: u64 = 10 * SECOND_NS;

/// How long a failed attempt is remembered, so that other hops that tell of it do not count.
pub const ATTEMPT_FAILED_KEEP_NS: u64 = SECOND_NS;

/// Closed flows that are remembered, so that updates still under way do not open them again.
pub const CLOSED_COUNT_MAX: usize = 8_192;

/// Socket owners kept; the oldest make room.
pub const OWNER_COUNT_MAX: usize = 32_768;

/// Local addresses kept: several for each of a thousand namespaces.
pub const LOCAL_ADDRESS_COUNT_MAX: usize = 8_192;

/// Reverse DNS names kept; the oldest make room.
pub const REVERSE_NAME_COUNT_MAX: usize = 8_192;

/// Entries of a names file.
pub const NAMES_FILE_ENTRY_COUNT_MAX: usize = 16_384;

/// Longest name of a service, host or site, in bytes: what a DNS name may have.
pub const NAME_LENGTH_MAX: usize = 253;

/// Payloads of a stream's side that are looked at for a protocol: a session that turns to TLS
/// (SMTP, IMAP, LDAP) does so within a dozen.
pub const APPLICATION_PROBE_COUNT_MAX: u8 = 32;

/// Datagrams of a flow that are looked at for QUIC, which begins with its handshake.
pub const APPLICATION_DATAGRAM_PROBE_COUNT_MAX: u8 = 8;

/// Segments of a side that wait for those before them; beyond, the bytes before are given up.
/// Reordering within a path is rarely by more than a few segments.
pub const APPLICATION_PARKED_COUNT_MAX: usize = 8;

/// Bytes of a flow's segments that wait.
pub const APPLICATION_PARKED_BYTES_MAX: usize = 16 << 10;

/// Exchanges of a flow that are told one by one: so many first ones, so many worst ones.
pub const APPLICATION_EXAMPLE_COUNT_MAX: usize = 8;

/// What one flow's application side takes at most, in bytes: 1 KiB for its own structures, 18 KiB
/// of segments that wait, 20 KiB of a proxy's HTTP, and the largest of: TLS with two hellos in
/// buffers that doubled (64 KiB), DNS with 64 queries of 384 bytes, 16 examples of 352 and two
/// messages of 8 KiB (46 KiB), HTTP with 32 requests and 16 examples of 352 bytes and two lines of
/// 1 KiB (20 KiB). Once the handshake is over or between messages it is 1 to 6 KiB.
pub const APPLICATION_BYTES_MAX: usize = (1 + 18 + 20 + 64) << 10;

/// What one flow's application side keeps where memory is scarce, in bytes; beyond, messages that
/// are not complete and segments that wait are given up, and of examples two are left. What is left
/// then is 2 KiB at most, behind a proxy 4 KiB.
pub const APPLICATION_SCARCE_BYTES_MAX: usize = 2 << 10;

/// DNS queries of a flow that wait for an answer: far more than a client sends at once over one
/// connection. The oldest make room, and count as unanswered.
pub const DNS_PENDING_COUNT_MAX: usize = 64;

/// Longest DNS message that is kept while its segments come, in bytes: EDNS messages are shorter.
pub const DNS_MESSAGE_KEPT_LENGTH_MAX: usize = 4_096;

/// Segments without a DNS message where one should begin, until a side is given up.
pub const DNS_LOST_COUNT_MAX: u8 = 64;

/// Labels and pointers of one DNS name that are followed: 127 labels fit into 255 bytes.
pub const DNS_LABEL_COUNT_MAX: usize = 160;

/// Compression pointers of one DNS name that are followed: real ones have a few.
pub const DNS_POINTER_COUNT_MAX: usize = 32;

/// Resource records of one DNS message that are passed over on the way to its OPT record.
pub const DNS_RECORD_COUNT_MAX: u32 = 256;

/// Longest text of a DNS name, escapes included, in bytes; longer ones are cut.
pub const DNS_NAME_TEXT_LENGTH_MAX: usize = 255;

/// Different DNS response codes of a flow that are counted apart: all that have a name.
pub const DNS_RCODE_COUNT_MAX: usize = 24;

/// Longest TLS hello that is kept, in bytes: one record full.
pub const TLS_HELLO_LENGTH_MAX: usize = 16 << 10;

/// Longest text of a server's name in TLS, in bytes.
pub const TLS_SERVER_NAME_LENGTH_MAX: usize = 255;

/// Longest text of an ALPN protocol, in bytes: registered ones have at most 26.
pub const TLS_ALPN_LENGTH_MAX: usize = 64;

/// TLS alerts in clear that are kept; a handshake fails once.
pub const TLS_ALERT_COUNT_MAX: usize = 4;

/// Segments without a TLS record where one should begin, until a side is given up.
pub const TLS_LOST_COUNT_MAX: u8 = 64;

/// HTTP requests of a flow that wait for a response; the oldest make room.
pub const HTTP_PENDING_COUNT_MAX: usize = 32;

/// How much of a line of an HTTP head is kept while its segments come, in bytes.
pub const HTTP_LINE_KEPT_LENGTH_MAX: usize = 512;

/// Longest text of an HTTP path, in bytes.
pub const HTTP_PATH_LENGTH_MAX: usize = 128;

/// Longest text of an HTTP host, in bytes.
pub const HTTP_HOST_LENGTH_MAX: usize = 128;

/// QUIC packets of one datagram that are looked at: one of each of four kinds, and some.
pub const QUIC_COALESCED_COUNT_MAX: usize = 8;

/// QUIC versions of one Version Negotiation that are kept.
pub const QUIC_VERSION_COUNT_MAX: usize = 8;

/// Short-header packets of a direction until a spin bit that never changed is said to be disabled.
pub const SPIN_PACKET_COUNT_MIN: u32 = 16;

/// Edges of a spin bit until its order is judged.
pub const SPIN_EDGE_COUNT_MIN: u32 = 8;

/// What the engine's tables take at most with the default number of flows, in bytes: flows and
/// conversations with their indices and deadlines, service pairs with all their histograms,
/// waiting changes, attempts, names; and [`LIVE_TRACE_BYTES_MAX`]. `memory_is_within_its_bound`
/// adds it up.
pub const MEMORY_BYTES_MAX: usize = (288 << 20) + LIVE_TRACE_BYTES_MAX;

/// Flows that are traced live at once, those of all recording filters: of most of them a filter
/// wants some hundreds. One of which only a SYN was seen takes 600 bytes: 2.4 MiB.
pub const LIVE_TRACE_COUNT_MAX: usize = 4_096;

/// Of these, flows that more was seen of.
pub const LIVE_TRACE_DETAIL_COUNT_MAX: usize = 2_048;

/// What flows that are traced live may grow to together, in bytes, as [`TRACE_GROWN_BYTES_MAX`]
/// says: 24 KiB each before one gets less.
pub const LIVE_GROWN_BYTES_MAX: usize = 64 << 20;

/// Stories of traced flows that wait to be drained: a batch of records from the ring, each of which
/// may end a flow, and the silent ones of one look.
pub const LIVE_STORY_COUNT_MAX: usize = 2_048;

/// Traced flows that are ended at once because of their silence or their hop.
pub const LIVE_TRACE_BATCH: usize = 256;

/// How often traced flows are looked at for silence, while there are some: 4,096 slots.
pub const LIVE_TRACE_INTERVAL_NS: u64 = SECOND_NS;

/// What traced flows and stories that wait take at most, in bytes: everything that they may hold
/// full at once, times spread over all of their range.
pub const LIVE_TRACE_BYTES_MAX: usize = 256 << 20;

/// The far future: a deadline that never comes.
pub(crate) const NEVER: Monotonic = Monotonic(u64::MAX);

/// Runs of bytes under way that are kept of one direction: 4,096 of 1,448 bytes are 5.9 MB under
/// way; beyond that neighbours are joined. A run takes 72 bytes: 288 KiB.
pub const RUN_COUNT_MAX: usize = 4_096;

/// The same where memory is scarce.
pub const RUN_COUNT_SCARCE_MAX: usize = 64;

/// Segments sent again of one direction that a DSACK may still call needless.
pub const REPEATED_COUNT_MAX: usize = 8;

/// First bytes of a payload that tell it from another one, by their hash.
pub const DIGEST_LENGTH_MAX: usize = 16;

/// Runs that one segment or one SACK block may touch: a super-segment of 512 KiB over segments of
/// 1,448 bytes touches 363.
pub const RUN_WALK_MAX: usize = 512;

/// Ranges that were acknowledged without being seen that are kept of one direction, in case they
/// come later.
pub const UNSEEN_COUNT_MAX: usize = 16;

/// Acknowledgements on their way to the sender that are kept of one direction: those of a round
/// trip of 25 ms at ten in a millisecond; beyond, the oldest is taken for arrived.
pub const SENDER_VIEW_COUNT_MAX: usize = 256;

/// The same where memory is scarce.
pub const SENDER_VIEW_COUNT_SCARCE_MAX: usize = 16;

/// TCP streams that Wireshark's rules are applied to at once; the one longest silent makes room.
/// One takes some 350 bytes with its key and its first segment: 88 MiB.
pub const WIRESHARK_STREAM_COUNT_MAX: usize = 1 << 18;

/// Segments of one direction that wait for their acknowledgement: as many as tshark keeps.
pub const WIRESHARK_UNACKED_COUNT_MAX: usize = 10_000;

/// Room for such segments in all streams together: 2²¹ of 24 bytes, 48 MiB. A list that doubles
/// goes beyond by one list at most.
pub const WIRESHARK_UNACKED_TOTAL_MAX: usize = 1 << 21;

/// Farthest jump of a sequence number that is believed: the largest window, 2³⁰ (RFC 7323
/// section 2.3).
pub const SEQUENCE_JUMP_MAX: u64 = 1 << 30;

/// What the flows of a file take at most while they are traced, in bytes, by all its shards
/// together: the entries of [`TRACE_COUNT_MAX`] flows with their index and the RST that refused
/// each of them, [`TRACE_DETAIL_COUNT_MAX`] flows without what they grow to, that
/// ([`TRACE_GROWN_BYTES_MAX`]), and what one packet of each shard may add to it before others make
/// room, 1.2 MiB. Stories of flows that have ended are their reader's, and not part of it.
/// `traces_of_a_file_are_within_their_bound` adds it up.
pub const TRACE_BYTES_MAX: usize = 768 << 20;

/// Flows traced at once. One of which only a SYN was seen takes some 300 bytes, and
/// some 200 more with its RST: 120 MiB.
pub const TRACE_COUNT_MAX: usize = 1 << 18;

/// Of these, flows that more was seen of: some 5 KiB each, tables that do not grow counted.
pub const TRACE_DETAIL_COUNT_MAX: usize = 1 << 16;

/// What flows may grow to together, in bytes: runs and acknowledgements on their way,
/// distributions, application state. A usual flow has one to two KiB of it, the worst 600. From
/// three quarters on each direction gets 64 runs, and application state is kept to its least;
/// beyond the whole, flows end to make room.
pub const TRACE_GROWN_BYTES_MAX: usize = 256 << 20;

/// Flows that give memory back with each packet while it is scarce, in turn.
pub const TRACE_SPARED_COUNT: usize = 2;

/// Silence after which a TCP connection that is over has ended, in the time of its capture: what
/// Linux' TIME_WAIT takes (`TCP_TIMEWAIT_LEN`). What comes later begins another.
pub const TRACE_CLOSED_SILENCE_MAX_NS: i64 = 60_000_000_000;

/// The same of flows that are not TCP's: what RFC 4787 section 4.3 recommends to NATs.
pub const TRACE_DATAGRAM_SILENCE_MAX_NS: i64 = 300_000_000_000;

/// Entries that watch the silence of flows, for each flow that is traced in detail: those of flows
/// that have gone since are counted too. 24 bytes each; beyond, flows end where others need room.
pub const TRACE_WATCHED_PER_DETAIL: usize = 2;

/// Packets of one direction that a copy is looked for among.
pub const COPY_WINDOW: usize = 32;

/// Datagrams whose fragments are waited for: a host that sends them at once has a few under way.
pub const FRAGMENT_DATAGRAM_COUNT_MAX: usize = 256;

/// What datagrams under way take together, in bytes: 64 of the longest, or all 256 of 16 KiB. Each
/// takes its bytes, as far as they have come, and at most 128 KiB for the places of pieces of eight
/// bytes that leave gaps.
pub const FRAGMENT_BYTES_MAX: usize = 4 << 20;

/// Steps in which the room of a datagram grows, in bytes: 16 to the longest.
pub const FRAGMENT_ROOM_STEP: usize = 4 << 10;

/// How long fragments are waited for after the first that came, in nanoseconds of the capture's
/// time: Linux waits as long (`net.ipv4.ipfrag_time`); RFC 8200 section 4.5 has 60 s.
pub const FRAGMENT_TIMEOUT_NS: i64 = 30 * SECOND_NS as i64;

/// How far behind the start of a frame, or of what a tunnel carries, the IP header of a fragment is
/// looked for, in bytes: link headers with their tags and labels take less.
pub const FRAGMENT_PLACE_SPAN: u32 = 256;

/// Places that are tried: few bytes of link headers look like those of a fragment.
pub const FRAGMENT_PLACE_TRIES: usize = 8;

/// Room of one packet of a trail, in bytes.
pub const TRAIL_CROSSING_BYTES: usize = 56;

/// Packets that the trails of all hops of one run keep: 2²³ of [`TRAIL_CROSSING_BYTES`], 448 MiB
/// where several captures are compared. What comes later is counted and left out.
pub const TRAIL_PACKET_COUNT_MAX: usize = 1 << 23;

/// Payload bytes that a digest is of: what records carry (TCP 16, others 32).
pub const TRAIL_DIGEST_BYTES: usize = 32;

/// The same of TCP.
pub const TRAIL_TCP_DIGEST_BYTES: usize = 16;

/// Samples of one kind that a direction of a flow is known by.
pub const KEY_SAMPLE_COUNT: usize = 32;

/// Places in both sequence spaces that it is known by.
pub const KEY_CELL_COUNT: usize = 8;

/// Hops of one conversation: each packet has a place for each.
pub const HOP_PER_CONVERSATION_MAX: usize = 16;

/// Flows of one conversation, with the parts that hops took for flows of their own: four of each
/// hop.
pub const PART_COUNT_MAX: usize = 4 * HOP_PER_CONVERSATION_MAX;

/// Sendings of the same bytes that are matched at best; longer lists are matched from the front.
pub const ALIGNMENT_LIST_MAX: usize = 8;

/// Packets of either side that a long list is matched by at a time: each costs as many comparisons
/// as two windows have packets, some microseconds, and one window's table takes 33 KiB.
pub const ALIGNMENT_WINDOW_COUNT: usize = 64;

/// Packets of the other side that the delay of one of many equal ones is looked for among.
pub const RHYTHM_NEIGHBOUR_COUNT: usize = 16;

/// Runs that a packet of an alignment covers, on average, at most: a super-segment of 64 KiB covers
/// 45 full segments. Segments that overlap so that there are more are not aligned.
pub const ALIGNMENT_VISITS_PER_PACKET: usize = 64;

/// Stretches of time between which the clocks of a pair of hops were set: more are one.
pub const CLOCK_PIECE_COUNT_MAX: usize = 64;

/// Times at which the bounds of a clock are worked out, in each stretch.
pub const CLOCK_KNOT_COUNT: usize = 128;

/// Packets of neighbouring bytes that are looked at for another sending of the same ones: twice as
/// many as pieces of a super-segment.
pub const FATE_NEIGHBOUR_COUNT_MAX: usize = 96;

/// Packets that two hops both saw in one direction which their clocks are compared by: 16 bytes
/// each; where there are more, the tightest of every four are kept.
pub const SIGHTING_COUNT_MAX: usize = 1 << 18;

/// Shortest chunk of content that tells anything, in bytes: the beginning of a TLS session, as of
/// HTTP, is the same in many.
pub const CONTENT_CHUNK_BYTES_MIN: u32 = 32;

/// Chunks of one direction that are kept: the first 16 KiB or so, 512 bytes of hashes.
pub const CONTENT_CHUNK_COUNT_MAX: usize = 64;

/// Conversations that may hold one chunk: more, and it tells nothing.
pub const CONTENT_HOLDER_COUNT_MAX: usize = 8;

/// Fewest chunks that two conversations of one exchange share: one of each direction.
pub const CONTENT_SHARED_COUNT_MIN: u32 = 2;

/// Silence within what one side says that ends a burst of it, in nanoseconds.
pub const EXCHANGE_PAUSE_MAX_NS: i64 = SECOND_NS as i64;

/// Exchanges of one connection that are compared with those beyond a proxy; a connection of more
/// tells nothing from there on.
pub const EXCHANGE_COUNT_MAX: usize = 4_096;

/// Exchanges of all connections that end or begin at hosts that do both: 2²⁰ of 48 bytes, 48 MiB,
/// and as much again for their index. Where there are more, none is compared.
pub const EXCHANGE_TOTAL_MAX: usize = 1 << 20;

/// Exchanges beyond a proxy that begin within one on the client's side: of more, none is meant.
/// With the exchanges above it bounds all comparisons: 2²⁵ for each hop and each of two places of
/// the proxy, made twice.
pub const EXCHANGE_NESTED_COUNT_MAX: usize = 32;

/// Pairs of exchanges that may belong together, of all connections: 2²¹ of 16 bytes, 24 while they
/// are sorted, 80 MiB. Where there are more, none is told.
pub const EXCHANGE_PAIR_COUNT_MAX: usize = 1 << 21;

/// Pairs of exchanges that hang together and are told apart: of more, none is.
pub const EXCHANGE_CLUSTER_COUNT_MAX: usize = 1 << 12;

/// Trails of all hops of one run: some 700 bytes each without their packets, 360 MiB. Packets of
/// flows beyond are left out.
pub const TRAIL_COUNT_MAX: usize = 1 << 19;

/// Runs that the packets of one alignment cover together at most: 2²⁵, four for each of all the
/// packets that trails keep; with its link one takes some 50 bytes, 1.6 GiB at the very worst.
pub const ALIGNMENT_VISIT_COUNT_MAX: usize = 1 << 25;
