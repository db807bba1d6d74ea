//! A SYN scan: attempts with a 5-tuple each, and what comes back.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Ipv4Addr;

use super::file::CaptureFile;
use super::frame::{Endpoints, Frame, InitialSequences};
use super::packet::{Kind, Packet, SackBlocks, Side};
use super::payload::Payload;
use super::{Scan, SynthesisOutcome};
use crate::limits::SYNTHESIS_CONNECTIONS_MAX;
use crate::random::{Random, seed_of};

/// Between two attempts: 50,000 in a second.
const INTERVAL_NS: u64 = 20_000;
/// When an answer comes.
const ROUND_TRIP_NS: u64 = 12_000_000;
/// Shares of the doors that are closed (RST), and open (SYN-ACK, which the scanner resets).
const CLOSED_SHARE: f64 = 0.08;
const OPEN_SHARE: f64 = 0.005;
/// Ports tried of each address.
const PORTS_PER_ADDRESS: u32 = 100;

pub(super) fn write(scan: &Scan, to: impl Write) -> io::Result<SynthesisOutcome> {
    if scan.connections == 0 || scan.connections > SYNTHESIS_CONNECTIONS_MAX {
        let range = format!("connections: give 1 to {SYNTHESIS_CONNECTIONS_MAX}");
        return Err(io::Error::other(range));
    }
    let mut file = CaptureFile::create(to, scan.snap_bytes)?;
    let mut frame = Frame::default();
    let mut random = Random::new(scan.seed, 0);
    // All answers take the same time, so they come in the order of the attempts.
    let mut answers: VecDeque<(u64, u32, Packet)> = VecDeque::new();
    let mut record = |at_ns: u64, number: u32, packet: &Packet, file: &mut CaptureFile<_>| {
        let initial = initial(scan.seed, number);
        let snap_bytes = file.snap_bytes();
        let nothing = Payload {
            head: &[],
            bytes: 0,
        };
        let length = frame.tcp(&endpoints(number), &initial, packet, nothing, snap_bytes);
        file.outcome.tcp_packets += 1;
        file.record(at_ns, frame.as_slice(), length)
    };
    for number in 0..scan.connections {
        let now_ns = u64::from(number) * INTERVAL_NS;
        while answers.front().is_some_and(|answer| answer.0 <= now_ns) {
            if let Some((at_ns, number, packet)) = answers.pop_front() {
                record(at_ns, number, &packet, &mut file)?;
            }
        }
        record(now_ns, number, &packet(Side::Client, Kind::Syn), &mut file)?;
        let luck = random.unit();
        let at_ns = now_ns + ROUND_TRIP_NS;
        if luck < CLOSED_SHARE {
            answers.push_back((at_ns, number, packet(Side::Server, Kind::Reset)));
        } else if luck < CLOSED_SHARE + OPEN_SHARE {
            answers.push_back((at_ns, number, packet(Side::Server, Kind::SynAck)));
            answers.push_back((at_ns, number, packet(Side::Client, Kind::Reset)));
        }
    }
    for (at_ns, number, packet) in answers {
        record(at_ns, number, &packet, &mut file)?;
    }
    file.outcome.connections = scan.connections.into();
    file.finish()
}

/// One scanner; the ports of one address after the other.
fn endpoints(number: u32) -> Endpoints {
    let [_, a, b, c] = (number / PORTS_PER_ADDRESS).to_be_bytes();
    let server = Ipv4Addr::new(10, a, b, c);
    Endpoints {
        client: (
            Ipv4Addr::new(192, 0, 2, 9).into(),
            40_000 + (number % 20_000) as u16,
        ),
        server: (server.into(), (number % PORTS_PER_ADDRESS) as u16 + 1),
    }
}

fn initial(seed: u64, number: u32) -> InitialSequences {
    let client = seed_of(seed ^ u64::from(number), "client") as u32;
    let server = seed_of(seed ^ u64::from(number), "server") as u32;
    InitialSequences { client, server }
}

fn packet(from: Side, kind: Kind) -> Packet {
    let is_syn = matches!(kind, Kind::Syn | Kind::SynAck);
    // A closed door answers with sequence number 0, an open one's SYN-ACK is reset by number 1.
    Packet {
        from,
        kind,
        sequence: u32::from(!is_syn && from == Side::Client),
        acknowledgement: 1,
        payload_bytes: 0,
        window: if is_syn { 64_240 } else { 0 },
        ip_id: 0,
        is_push: false,
        is_again: false,
        is_lost_after: false,
        timestamp: 1,
        timestamp_echo: 0,
        sack: SackBlocks::default(),
    }
}
