//! Promotion on scripted segments: which packets show a flow sick, when it is promoted, and the
//! limit on how many are.

#[path = "support/ground.rs"]
mod ground;

use ground::Ground;
use phalanx_common::abi::{Counter, FlowKey};
use phalanx_common::packet::{LinkKind, TcpFlags};
use phalanx_common::watch::{PromotionLimit, WINDOW_NS};

const ACK: u8 = TcpFlags::ACK;
const MS: u64 = 1_000_000;
const HOLD_NS: u64 = 500 * MS;

/// Connections of 10.0.0.1 with 10.0.0.2:443, told apart by the client's port.
struct Script {
    ground: Ground,
    now_ns: u64,
    ip_id: u16,
}

impl Script {
    fn new(count_max: u32) -> Self {
        let mut ground = Ground::new();
        ground.promotion_limit = PromotionLimit {
            hold_ns: HOLD_NS,
            count_max,
        };
        Self {
            ground,
            // The begin of a window.
            now_ns: 1_000 * WINDOW_NS,
            ip_id: 0,
        }
    }

    /// A segment of the client; flags, sequence number, payload and window.
    fn client(&mut self, port: u16, flags: u8, sequence: u32, payload: usize, window: u16) {
        self.send([port, 443], flags, [sequence, 1], payload, window);
    }

    fn send(&mut self, ports: [u16; 2], flags: u8, numbers: [u32; 2], payload: usize, window: u16) {
        self.ip_id += 1;
        self.now_ns += MS;
        let length = 40 + payload;
        let mut frame = vec![0x45, 0];
        frame.extend((length as u16).to_be_bytes());
        frame.extend(self.ip_id.to_be_bytes());
        frame.extend([0x40, 0, 64, 6, 0, 0]);
        let ends = [[10, 0, 0, 1], [10, 0, 0, 2]];
        let is_client = ports[1] == 443;
        frame.extend(ends[usize::from(!is_client)]);
        frame.extend(ends[usize::from(is_client)]);
        for port in ports {
            frame.extend(port.to_be_bytes());
        }
        for number in numbers {
            frame.extend(number.to_be_bytes());
        }
        frame.extend([5 << 4, flags]);
        frame.extend(window.to_be_bytes());
        frame.resize(length, 0);
        self.ground.see(&frame, LinkKind::None, 7, self.now_ns);
    }

    /// A connection on which the client has sent bytes 1 to 1,000.
    fn open(&mut self, port: u16) {
        self.client(port, TcpFlags::SYN, 0, 0, 500);
        self.send([443, port], TcpFlags::SYN | ACK, [0, 1], 0, 500);
        self.client(port, ACK, 1, 0, 500);
        self.client(port, ACK, 1, 1_000, 500);
    }

    /// Sends the last 500 bytes of [`Self::open`] once more.
    fn retransmit(&mut self, port: u16) {
        self.client(port, ACK, 501, 500, 500);
    }

    fn is_promoted_at(&self, port: u16, now_ns: u64) -> bool {
        let flows = self.ground.flows.borrow();
        let of_port = |key: &FlowKey| key.low_port == port || key.high_port == port;
        let mut found = flows.iter().filter(|(key, _)| of_port(key));
        let (_, entry) = found.next().expect("the flow is open");
        entry.is_promoted(HOLD_NS, now_ns)
    }

    /// Whether the next packet of the flow would be recorded.
    fn is_promoted(&self, port: u16) -> bool {
        self.is_promoted_at(port, self.now_ns + 1)
    }

    fn counts(&self) -> (u64, u64) {
        let count = |counter| self.ground.counter(counter);
        (count(Counter::Promoted), count(Counter::PromotionsLimited))
    }
}

#[test]
fn a_retransmission_promotes_from_the_next_packet_on_for_a_while() {
    let mut script = Script::new(10);
    script.open(1_000);
    assert!(!script.is_promoted(1_000));
    script.retransmit(1_000);
    let sick_ns = script.now_ns;
    assert!(
        !script.is_promoted_at(1_000, sick_ns),
        "not the packet itself"
    );
    assert!(script.is_promoted_at(1_000, sick_ns + 1));
    assert!(script.is_promoted_at(1_000, sick_ns + HOLD_NS - 1));
    assert!(!script.is_promoted_at(1_000, sick_ns + HOLD_NS));
    // A sick flow that is promoted already takes nothing of the limit.
    script.retransmit(1_000);
    assert_eq!(script.counts(), (1, 0));
    script.now_ns += HOLD_NS;
    script.retransmit(1_000);
    assert_eq!(script.counts(), (2, 0));
    assert!(script.is_promoted(1_000));
}

#[test]
fn each_kind_of_sickness_promotes() {
    let mut script = Script::new(10);
    // A segment that fills a hole: lost before this hop, or reordered.
    script.open(1_000);
    script.client(1_000, ACK, 2_001, 500, 500);
    assert!(
        !script.is_promoted(1_000),
        "a hole alone may be of our making"
    );
    script.client(1_000, ACK, 1_001, 500, 500);
    assert!(script.is_promoted(1_000));
    // A window that falls to zero.
    script.open(1_001);
    script.client(1_001, ACK, 1_001, 0, 0);
    assert!(script.is_promoted(1_001));
    // A reset of an open connection.
    script.open(1_002);
    script.client(1_002, TcpFlags::RST, 1_001, 0, 0);
    assert!(script.is_promoted(1_002));
    assert_eq!(script.counts(), (3, 0));
}

impl Script {
    /// So many bytes of the client, each 100 of them acknowledged after a round trip.
    fn exchange(&mut self, port: u16, from: u32, count: u32, rtt_ms: u64) -> u32 {
        for number in 0..count {
            let sequence = from + number * 100;
            self.client(port, ACK, sequence, 100, 500);
            self.now_ns += (rtt_ms - 1) * MS;
            self.send([443, port], ACK, [1, sequence + 100], 0, 500);
        }
        from + count * 100
    }
}

#[test]
fn a_round_trip_that_steps_up_promotes_with_its_fourth_sample() {
    let mut script = Script::new(10);
    script.open(1_000);
    let next = script.exchange(1_000, 1_001, 5, 20);
    let next = script.exchange(1_000, next, 3, 80);
    assert!(!script.is_promoted(1_000), "three may be held back");
    script.exchange(1_000, next, 1, 80);
    assert!(script.is_promoted(1_000));
    assert_eq!(script.counts(), (1, 0));
}

#[test]
fn a_round_trip_that_grows_a_little_or_for_a_moment_promotes_nothing() {
    let mut script = Script::new(10);
    script.open(1_000);
    // 40 ms more than the least: an acknowledgement that is held back.
    let next = script.exchange(1_000, 1_001, 5, 2);
    let mut next = script.exchange(1_000, next, 20, 42);
    for _ in 0..5 {
        next = script.exchange(1_000, next, 3, 90);
        next = script.exchange(1_000, next, 1, 3);
    }
    // Of a long path the half more.
    script.open(1_001);
    let next = script.exchange(1_001, 1_001, 5, 200);
    script.exchange(1_001, next, 20, 300);
    assert_eq!(script.counts(), (0, 0));
}

#[test]
fn what_is_no_sickness_promotes_nothing() {
    let mut script = Script::new(10);
    script.open(1_000);
    script.client(1_000, ACK, 1_001, 1_000, 500);
    script.client(1_000, ACK, 2_000, 0, 500);
    script.client(1_000, ACK | TcpFlags::FIN, 2_001, 0, 500);
    // A reset after the FIN is how many programs end a connection that is done.
    script.client(1_000, TcpFlags::RST, 2_002, 0, 0);
    assert!(!script.is_promoted(1_000));
    assert_eq!(script.counts(), (0, 0));
}

#[test]
fn no_more_are_promoted_in_a_window_than_may_be_and_the_others_are_counted() {
    let mut script = Script::new(3);
    let ports = 1_000..1_010;
    ports.clone().for_each(|port| script.open(port));
    ports.clone().for_each(|port| script.retransmit(port));
    assert_eq!(script.counts(), (3, 7));
    assert!(
        ports
            .clone()
            .all(|port| script.is_promoted(port) == (port < 1_003))
    );
    // The next window has places again.
    script.now_ns += WINDOW_NS;
    ports.clone().for_each(|port| script.retransmit(port));
    assert_eq!(script.counts(), (6, 14));
}

#[test]
fn nothing_is_promoted_where_it_is_off() {
    let mut script = Script::new(10);
    script.ground.promotion_limit.hold_ns = 0;
    script.open(1_000);
    script.retransmit(1_000);
    assert_eq!(script.counts(), (0, 0));
    let flows = script.ground.flows.borrow();
    let entry = flows.values().next().expect("the flow is open");
    assert!(!entry.is_promoted(0, script.now_ns));
    assert_eq!(entry.promoted_until_ns.load(), 0);
}

#[test]
fn an_update_never_tells_of_sickness_as_a_reason() {
    let mut script = Script::new(10);
    script.ground.interval_ns = 0;
    script.open(1_000);
    script.retransmit(1_000);
    let updates = script.ground.updates.borrow();
    assert!(updates.len() > 1);
    assert!(updates.iter().all(|update| update.reason < 1 << 16));
}
