//! Many connections at once, in the order of time, with other traffic between them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::net::Ipv4Addr;

use super::connection::{Agenda, Connection, What, exponential};
use super::file::CaptureFile;
use super::frame::{Endpoints, Frame};
use super::packet::{Kind, Side};
use super::payload::{DNS_ANSWER, DNS_QUESTION};
use super::{Synthesis, SynthesisOutcome};
use crate::limits::{SYNTHESIS_CONNECTIONS_MAX, SYNTHESIS_PACKETS_MAX};
use crate::random::Random;

/// Packets per second of the whole, on average.
const RATE_PER_S: u64 = 20_000;
/// Least packets of a connection: handshake, one turn, end.
const BUDGET_MIN: f64 = 10.0;
/// Share of the connections before which a name is looked up.
const LOOKUP_SHARE: f64 = 0.3;
/// Share of the connections beside which there is a stream of datagrams.
const STREAM_SHARE: f64 = 0.01;
const STREAM_PACKETS: u32 = 50;
const STREAM_INTERVAL_NS: u64 = 20_000_000;

/// What happens, and to whom.
enum Event {
    Connection(u32, What),
    /// The next connection starts.
    Start,
    /// A datagram of this many still to come.
    Datagram(Datagram),
}

#[derive(Clone, Copy)]
struct Datagram {
    number: u32,
    kind: DatagramKind,
}

#[derive(Clone, Copy)]
enum DatagramKind {
    Query,
    Answer,
    Stream { left: u32 },
}

struct Planned {
    at_ns: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Planned {}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.order).cmp(&(other.at_ns, other.order))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What is to happen, in the order of time.
#[derive(Default)]
struct Plan {
    heap: BinaryHeap<Reverse<Planned>>,
    order: u64,
    lost_before: u64,
    lost_after: u64,
}

impl Plan {
    fn add(&mut self, at_ns: u64, event: Event) {
        self.order += 1;
        self.heap.push(Reverse(Planned {
            at_ns,
            order: self.order,
            event,
        }));
    }
}

/// The plan as one connection sees it.
struct Own<'a> {
    plan: &'a mut Plan,
    number: u32,
}

impl Agenda for Own<'_> {
    fn add(&mut self, at_ns: u64, what: What) {
        self.plan.add(at_ns, Event::Connection(self.number, what));
    }

    fn count_loss(&mut self, is_before: bool) {
        if is_before {
            self.plan.lost_before += 1;
        } else {
            self.plan.lost_after += 1;
        }
    }
}

struct Mixture<'a, W> {
    synthesis: &'a Synthesis,
    file: CaptureFile<W>,
    frame: Frame,
    plan: Plan,
    connections: Vec<Option<Box<Connection>>>,
    /// Packets that connections and streams have had, or will have.
    promised: u64,
    random: Random,
}

pub(super) fn write(synthesis: &Synthesis, to: impl Write) -> io::Result<SynthesisOutcome> {
    check(synthesis).map_err(io::Error::other)?;
    let mut mixture = Mixture {
        synthesis,
        file: CaptureFile::create(to, synthesis.snap_bytes)?,
        frame: Frame::default(),
        plan: Plan::default(),
        connections: Vec::new(),
        promised: 0,
        random: Random::new(synthesis.seed, 0),
    };
    mixture.plan.add(0, Event::Start);
    while let Some(Reverse(planned)) = mixture.plan.heap.pop() {
        match planned.event {
            Event::Start => mixture.start(planned.at_ns),
            Event::Connection(number, what) => mixture.happen(planned.at_ns, number, what)?,
            Event::Datagram(datagram) => mixture.datagram(planned.at_ns, datagram)?,
        }
    }
    mixture.file.outcome.connections = mixture.connections.len() as u64;
    mixture.file.outcome.lost_before = mixture.plan.lost_before;
    mixture.file.outcome.lost_after = mixture.plan.lost_after;
    mixture.file.finish()
}

fn check(synthesis: &Synthesis) -> Result<(), String> {
    if synthesis.connections == 0 || synthesis.connections > SYNTHESIS_CONNECTIONS_MAX {
        return Err(format!(
            "connections: give 1 to {SYNTHESIS_CONNECTIONS_MAX}"
        ));
    }
    if synthesis.packets > SYNTHESIS_PACKETS_MAX {
        return Err(format!("packets: give up to {SYNTHESIS_PACKETS_MAX}"));
    }
    if !(0.0..=0.5).contains(&synthesis.loss) {
        return Err(format!(
            "loss is {}: it lies between 0 and 0.5",
            synthesis.loss
        ));
    }
    Ok(())
}

impl<W: Write> Mixture<'_, W> {
    /// One more connection, and the next one is planned.
    fn start(&mut self, now_ns: u64) {
        let number = self.connections.len() as u32;
        let to_come = self.synthesis.connections - number;
        if self.random.chance(LOOKUP_SHARE) {
            self.promised += 2;
            let kind = DatagramKind::Query;
            let datagram = Datagram { number, kind };
            self.plan.add(now_ns, Event::Datagram(datagram));
        }
        if self.random.chance(STREAM_SHARE) {
            self.promised += u64::from(STREAM_PACKETS);
            let left = STREAM_PACKETS;
            let kind = DatagramKind::Stream { left };
            let datagram = Datagram { number, kind };
            self.plan.add(now_ns, Event::Datagram(datagram));
        }
        let left = self.synthesis.packets.saturating_sub(self.promised) as f64;
        let mean = left / f64::from(to_come);
        // The last one takes what is left; before it few are large, many small.
        let factor = exponential(&mut self.random);
        let factor = if to_come == 1 { 1.0 } else { factor };
        let budget = (mean * factor).max(BUDGET_MIN.min(mean)) as u64;
        self.promised += budget;
        let (loss, seed) = (self.synthesis.loss, self.synthesis.seed);
        let mut connection = Box::new(Connection::new(number, budget, loss, seed));
        let opens_ns = now_ns + 30_000_000;
        let plan = &mut self.plan;
        connection.open(opens_ns, &mut Own { plan, number });
        self.connections.push(Some(connection));
        if to_come > 1 {
            let duration_ns = self.synthesis.packets * 1_000_000_000 / RATE_PER_S;
            let mean_ns = duration_ns as f64 / f64::from(self.synthesis.connections);
            let pause_ns = (mean_ns * exponential(&mut self.random)) as u64;
            self.plan.add(now_ns + pause_ns, Event::Start);
        }
    }

    fn happen(&mut self, now_ns: u64, number: u32, what: What) -> io::Result<()> {
        let slot = &mut self.connections[number as usize];
        let Some(connection) = slot.as_deref_mut() else {
            return Ok(());
        };
        let plan = &mut self.plan;
        let mut own = Own { plan, number };
        match what {
            What::Tap(packet) => {
                let payload = connection.payload(&packet);
                let snap_bytes = self.file.snap_bytes();
                let (endpoints, initial) = (&connection.endpoints, &connection.initial);
                let length = self
                    .frame
                    .tcp(endpoints, initial, &packet, payload, snap_bytes);
                self.file.record(now_ns, self.frame.as_slice(), length)?;
                self.file.outcome.tcp_packets += 1;
                self.file.outcome.retransmissions += u64::from(packet.is_again);
                connection.pass(now_ns, packet, &mut own);
                if packet.kind == Kind::Reset && packet.is_lost_after {
                    *slot = None;
                    return Ok(());
                }
            }
            What::Arrive(packet) => connection.arrive(now_ns, packet, &mut own),
            What::Timer(timer) => connection.wake(now_ns, timer, &mut own),
        }
        if connection.is_over() {
            // What was promised beyond it is for others.
            let (packets, budget) = (connection.packets, connection.budget);
            self.promised = (self.promised + packets).saturating_sub(budget);
            *slot = None;
        }
        Ok(())
    }

    fn datagram(&mut self, now_ns: u64, datagram: Datagram) -> io::Result<()> {
        let Datagram { number, kind } = datagram;
        let snap_bytes = self.file.snap_bytes();
        let mut endpoints = Endpoints::numbered(number, 53);
        let mut next = |pause_ns, kind| {
            let datagram = Datagram { number, kind };
            self.plan.add(now_ns + pause_ns, Event::Datagram(datagram));
        };
        let ip_id = number as u16;
        let length = match kind {
            DatagramKind::Query | DatagramKind::Answer => {
                endpoints.server.0 = resolver(&endpoints);
                let is_answer = matches!(kind, DatagramKind::Answer);
                if !is_answer {
                    let pause_ns = 300_000 + u64::from(self.random.next_u32() % 20_000_000);
                    next(pause_ns, DatagramKind::Answer);
                }
                let message = dns_message(number as u16, is_answer);
                let from = if is_answer {
                    Side::Server
                } else {
                    Side::Client
                };
                self.frame
                    .udp(&endpoints, (from, ip_id), &message, 0, snap_bytes)
            }
            DatagramKind::Stream { left } => {
                endpoints.server.1 = 5_004;
                if left > 1 {
                    next(STREAM_INTERVAL_NS, DatagramKind::Stream { left: left - 1 });
                }
                let from = (Side::Client, ip_id.wrapping_sub(left as u16));
                self.frame
                    .udp(&endpoints, from, &[0x80, 0x60], 1_000, snap_bytes)
            }
        };
        self.file.record(now_ns, self.frame.as_slice(), length)
    }
}

/// Names are asked of one resolver per family.
fn resolver(endpoints: &Endpoints) -> std::net::IpAddr {
    if endpoints.client.0.is_ipv4() {
        Ipv4Addr::new(198, 51, 100, 253).into()
    } else {
        endpoints.server.0
    }
}

fn dns_message(id: u16, is_answer: bool) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let (flags, answers) = if is_answer { (0x81, 1) } else { (0x01, 0) };
    let rest = if is_answer { 0x80 } else { 0x00 };
    let mut message = vec![high, low, flags, rest, 0, 1, 0, answers, 0, 0, 0, 0];
    message.extend_from_slice(DNS_QUESTION);
    if is_answer {
        message.extend_from_slice(DNS_ANSWER);
    }
    message
}
