//! Every bound of a merge, with its arithmetic.

/// Packets of a stream that are held to be put in order: what the queues of an interface give by
/// turns, 64 each, of 64 queues. What goes back further is written where it comes, and counted.
pub(super) const WINDOW_PACKET_COUNT: usize = 64 * 64;

/// Captured bytes of the packets held of all streams: 4,096 packets of 1,024 bytes, of 16 streams.
/// Each stream has its share, and one packet at least.
pub(super) const WINDOWS_BYTES_MAX: usize = 4_096 * 1_024 * 16;

/// How far the corrections of two interfaces of a capture may be apart for one stream to have both,
/// in nanoseconds: two million packets a second come to 2,000 in that time, which are put in order.
pub(super) const APART_MAX_NS: u64 = 1_000_000;

/// Streams of one capture, each of which reads it as a whole with 300 KiB of its own; interfaces of
/// yet other clocks share the last one. As many as one conversation has hops.
pub(super) const STREAM_COUNT_MAX: usize = 16;
