//! What senders send again, and probes, where a packet of the capture is more or less than a
//! segment: each case is a conversation, packet by packet.

#[path = "support/conversation.rs"]
mod conversation;

use conversation::{ACK, Packet, SYN, trace};
use phalanx_engine::segment::{Class, Mark, Segment};
use phalanx_engine::story::FlowStory;

const MILLISECOND_NS: i64 = 1_000_000;

/// An IP packet's most payload, beside what is sent here: what a network card cuts later.
const BURST: u16 = 20_272;
const MSS: u16 = 1_448;

/// A conversation that was opened; both sides begin at number 1,000, their first byte is 1,001.
struct Conversation {
    packets: Vec<Packet>,
    ids: [u16; 2],
}

impl Conversation {
    fn new() -> Self {
        let mut it = Self {
            packets: Vec::new(),
            ids: [100, 5_000],
        };
        it.add(false, 0, SYN, (1_000, 0), 0)
            .add(true, 20, SYN | ACK, (1_000, 1_001), 0);
        it.client(20, 1_001, 0);
        it
    }

    fn add(
        &mut self,
        is_server: bool,
        time_ms: i64,
        flags: u8,
        numbers: (u32, u32),
        length: u16,
    ) -> &mut Self {
        let id = &mut self.ids[usize::from(is_server)];
        *id += 1;
        self.packets.push(Packet {
            is_server,
            time_ns: time_ms * MILLISECOND_NS,
            sequence: numbers.0,
            acknowledgement: numbers.1,
            flags,
            window: 1_000,
            length,
            id: *id,
            ttl: 64,
            is_whole: true,
            ..Packet::default()
        });
        self
    }

    fn client(&mut self, time_ms: i64, sequence: u32, length: u16) -> &mut Self {
        self.add(false, time_ms, ACK, (sequence, 1_001), length)
    }

    /// The server acknowledges.
    fn ack(&mut self, time_ms: i64, number: u32, sacks: &[(u32, u32)]) -> &mut Self {
        self.add(true, time_ms, ACK, (1_001, number), 0);
        self.last().sacks = sacks.to_vec();
        self
    }

    fn last(&mut self) -> &mut Packet {
        self.packets.last_mut().expect("a packet")
    }

    fn tell(&self) -> (Vec<Segment>, Vec<FlowStory>) {
        let mut segments = Vec::new();
        let stories = trace(&self.packets, |segment| segments.push(*segment));
        (segments, stories)
    }
}

/// One burst of 14 segments of which the second and the fourth are lost; the receiver's host joins
/// what came and acknowledges it at once.
#[test]
fn a_part_of_a_burst_is_sent_again_fast() {
    let mut it = Conversation::new();
    it.client(21, 1_001, BURST);
    let second = 1_001 + u32::from(MSS);
    let fourth = second + 2 * u32::from(MSS);
    let end = 1_001 + u32::from(BURST);
    let sacks = [
        (fourth + u32::from(MSS), end),
        (second + u32::from(MSS), fourth),
    ];
    it.ack(41, second, &sacks);
    it.client(41, second, MSS).client(41, fourth, MSS);
    let (segments, stories) = it.tell();
    for again in &segments[5..] {
        assert_eq!(
            again.class,
            Some(Class::FastRetransmission),
            "{}",
            again.why
        );
        assert_eq!(again.repeats_frame, Some(4));
    }
    assert_eq!(segments[6].flight, Some(2 * u64::from(MSS)));
    assert_eq!(stories[0].sides.client.counts.fast_retransmissions, 2);
}

/// What was SACKed of a burst and is sent again all the same is needless; the rest is not.
#[test]
fn only_what_was_sacked_of_a_burst_is_sent_again_in_vain() {
    let mut it = Conversation::new();
    it.client(21, 1_001, BURST);
    let middle = 1_001 + u32::from(BURST) / 2;
    let end = 1_001 + u32::from(BURST);
    it.ack(41, 1_001, &[(middle, end)]);
    it.client(300, 1_001, MSS)
        .client(300, end - u32::from(MSS), MSS);
    let (segments, _) = it.tell();
    assert_eq!(segments[5].class, Some(Class::TimeoutRetransmission));
    assert_eq!(segments[6].class, Some(Class::SpuriousRetransmission));
}

/// What follows, or comes before, what is sent again gives a round trip.
#[test]
fn a_part_of_a_burst_that_was_sent_once_gives_a_round_trip() {
    let mut it = Conversation::new();
    it.client(21, 1_001, BURST);
    let last = 1_001 + u32::from(BURST - MSS);
    it.client(101, last, MSS).ack(121, last, &[]);
    it.ack(122, last + u32::from(MSS), &[]);
    let (segments, _) = it.tell();
    assert_eq!(segments[4].class, Some(Class::TailLossProbe));
    assert_eq!(segments[5].rtt_ns, Some(100 * MILLISECOND_NS));
    assert_eq!(segments[6].rtt_ns, None, "Karn");
}

/// The receiver closes its window; a byte is sent into it twice, and taken the second time.
fn probes() -> Conversation {
    let mut it = Conversation::new();
    it.client(21, 1_001, 1_000).ack(41, 2_001, &[]);
    it.last().window = 0;
    it.client(241, 2_001, 1).ack(261, 2_001, &[]);
    it.last().window = 0;
    it.client(641, 2_001, 1);
    it
}

#[test]
fn a_probe_that_is_taken_counts_as_data() {
    let mut it = probes();
    it.ack(661, 2_002, &[]);
    it.last().window = 0;
    it.ack(700, 2_002, &[])
        .client(701, 2_002, 1_000)
        .ack(721, 3_002, &[]);
    let (segments, stories) = it.tell();
    for probe in [&segments[5], &segments[7]] {
        assert_eq!(probe.class, Some(Class::ZeroWindowProbe));
    }
    for answer in [&segments[6], &segments[8]] {
        assert!(answer.marks.has(Mark::ZeroWindowProbeAck));
    }
    assert_eq!(segments[8].acknowledged_frame, Some(6));
    assert_eq!(segments[8].rtt_ns, None, "Karn");
    assert_eq!(segments[10].class, Some(Class::New));
    let counts = &stories[0].sides.client.counts;
    assert_eq!((counts.unique_bytes, counts.gaps), (2_001, 0));
    assert_eq!((counts.unseen_bytes, counts.zero_window_probes), (0, 2));
}

#[test]
fn who_goes_on_behind_a_probe_knows_that_it_was_taken() {
    let mut it = probes();
    // The acknowledgement that tells so was not captured.
    it.client(701, 2_002, 1_000).ack(721, 3_002, &[]);
    let (segments, stories) = it.tell();
    assert_eq!(segments[8].class, Some(Class::New));
    assert!(!segments[8].marks.has(Mark::Gap));
    let counts = &stories[0].sides.client.counts;
    assert_eq!((counts.unique_bytes, counts.unseen_bytes), (2_001, 0));
}

#[test]
fn a_probe_that_is_refused_is_sent_again_as_new() {
    let mut it = probes();
    it.ack(661, 2_001, &[])
        .client(701, 2_001, 1_000)
        .ack(721, 3_001, &[]);
    let (segments, stories) = it.tell();
    assert_eq!(segments[9].class, Some(Class::New));
    assert_eq!(segments[10].rtt_ns, Some(20 * MILLISECOND_NS));
    assert_eq!(stories[0].sides.client.counts.unique_bytes, 2_000);
}
