//! Every bound that the kernel programs and the parser share, with its arithmetic.

/// IPv6 extension headers that are walked. RFC 8200 section 4.1 recommends at most seven, each
/// once but destination options; four covers all but the contrived, and the verifier's patience.
pub const EXTENSION_COUNT_MAX: usize = 4;

/// What an offset into a packet is masked with before it is read at: the verifier's bound. It is
/// above every offset the parser makes: a network layer at 8,191 at most, an IP header of 60 bytes
/// or one of 40 with [`EXTENSION_COUNT_MAX`] extensions of 2,048 bytes, a transport header of 60,
/// and the same IP header once more in an ICMP quote: 8,191 + 8,232 + 60 + 8,232 = 24,715.
pub const OFFSET_MASK: u32 = 0x7fff;

/// Bytes from the start of the frame up to which an IP header is looked for; see [`OFFSET_MASK`].
pub const NETWORK_OFFSET_MAX: u32 = 8_191;

/// IP layers of one packet that are parsed, the outermost one counted.
pub const LAYER_COUNT_MAX: usize = 4;

/// Headers between two IP layers that are walked (VLAN tags, MPLS labels, PPPoE, PPP, inner
/// Ethernet, each counts as one), which bounds the walk over a hostile frame.
pub const LINK_STEP_COUNT_MAX: usize = 16;

/// TCP options that are walked: 40 bytes of options hold 20 options of two bytes; padding by NOPs
/// beyond that ends the walk.
pub const TCP_OPTION_COUNT_MAX: usize = 20;

/// The latest samples that an update carries: at 16 a busy request–response flow sends one update
/// in seven exchanges (one RTT and one turn each), and an update stays below 512 bytes.
pub const SAMPLE_COUNT: usize = 16;

/// Payload bytes in a record's digest: 16 for TCP, 32 for UDP.
pub const RECORD_DIGEST_SIZE: usize = 32;

/// Payload bytes that the digest of a TCP record carries.
pub const RECORD_DIGEST_TCP: usize = 16;

/// Sizes of the area for captured bytes in a record: a reservation in the ring has a constant size.
/// 128 holds Ethernet, two VLAN tags, IPv6 and a full TCP header (14 + 8 + 40 + 60 = 122).
pub const SNAP_CLASSES: [usize; 4] = [128, 512, 2048, 9216];

/// Recording filters in force at once: a set of them is one word.
pub const FILTER_COUNT_MAX: usize = 64;

/// Shapes in force at once; a new flow asks each, both ways round.
pub const SHAPE_COUNT_MAX: usize = 32;

/// RTT slots of one direction: ranges of data that can be timed at once.
pub const RTT_SLOT_COUNT: usize = 16;

/// Of these, so many are filled as data comes; the others three eighths of a round trip later. So a
/// window of more than these has samples twice in a round trip, and none is without by rights.
pub const RTT_SLOT_FIRST_COUNT: u32 = 8;

/// Default size of the flow table.
pub const FLOW_COUNT_DEFAULT: u32 = 131_072;

/// Buckets of the table of flows not yet open: a power of two, indexed by hash.
pub const BUCKET_COUNT: u32 = 8_192;

/// Places in a bucket, for each direction: 8,192 × 4 = 32,768 flows. With 1,000 flows that wait at
/// once, one in 500,000 finds its four places taken (Poisson with a mean of 1/8).
pub const BUCKET_PLACE_COUNT: usize = 4;

/// Bytes of the ring of events: 2 MiB hold 4,369 updates of 472 bytes and a header of 8 each.
pub const EVENT_RING_SIZE: u32 = 2 << 20;

/// Bytes of the ring of records: 8 MiB hold some 32,000 records of the smallest class.
pub const RECORD_RING_SIZE: u32 = 8 << 20;

/// Outstanding data that was sent within this part of the least round trip is timed as one range:
/// its samples are off by less than a thousandth (2¹⁰) of that.
pub const RTT_RANGE_SHIFT: u32 = 10;

/// Packets of one direction without an answer after which a flow is opened all the same: one-way
/// UDP, or a direction whose answers take another path.
pub const ONE_WAY_PACKETS_MAX: u32 = 3;

/// Silence of a connection after which a SYN with another sequence number begins a new one, in
/// nanoseconds: as long as the SYN of a live connection's peer might go unanswered.
pub const REUSE_SILENCE_NS: u64 = 1_000_000_000;
