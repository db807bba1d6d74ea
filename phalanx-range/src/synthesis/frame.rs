//! The bytes of frames: Ethernet, IPv4 or IPv6, TCP or UDP, with right checksums. Only as much of
//! the payload is made as will be kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{Kind, Packet, Side};
use super::payload::{FILL, Payload};
use crate::packet::checksum;

const ETHERNET_BYTES: usize = 14;
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

const TCP: u8 = 6;
const UDP: u8 = 17;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Segment size that the hosts announce.
pub(super) const MSS_BYTES: u16 = 1_460;
/// What is left of it beside timestamps.
pub(super) const SEGMENT_BYTES: u16 = MSS_BYTES - 12;
/// Window scale that the hosts announce.
pub(super) const WINDOW_SCALE: u8 = 7;

/// Who talks to whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoints {
    pub(super) client: (IpAddr, u16),
    pub(super) server: (IpAddr, u16),
}

impl Endpoints {
    /// Those of the connection of this number: no two have the same.
    pub(super) fn numbered(number: u32, port: u16) -> Self {
        let [_, a, b, c] = number.to_be_bytes();
        let client_port = 32_768 + (number % 28_000) as u16;
        // Every fifth speaks IPv6.
        if number % 5 == 4 {
            let client = Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, a.into(), u16::from_be_bytes([b, c]));
            let server = Ipv6Addr::new(0xfd77, 0, 0, 2, 0, 0, 0, (number % 50) as u16 + 1);
            return Self {
                client: (client.into(), client_port),
                server: (server.into(), port),
            };
        }
        // A client has some connections at once, as browsers do.
        let [_, a, b, c] = (number / 5).to_be_bytes();
        let server = Ipv4Addr::new(198, 51, 100, (number % 50) as u8 + 1);
        Self {
            client: (Ipv4Addr::new(10, a, b, c).into(), client_port),
            server: (server.into(), port),
        }
    }

    /// Source and destination of what a side sends.
    fn of(&self, from: Side) -> ((IpAddr, u16), (IpAddr, u16)) {
        match from {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        }
    }
}

/// The initial sequence numbers of both sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct InitialSequences {
    pub(super) client: u32,
    pub(super) server: u32,
}

impl InitialSequences {
    pub(super) fn of(&self, side: Side) -> u32 {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }
}

/// A frame being made, again and again in the same buffer.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// What was made of the frame; it may end before its length.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes a TCP packet; gives back the length of the whole frame.
    pub(super) fn tcp(
        &mut self,
        endpoints: &Endpoints,
        initial: &InitialSequences,
        packet: &Packet,
        payload: Payload,
        snap_bytes: usize,
    ) -> usize {
        let mut header = [0u8; 60];
        let header_bytes = tcp_header(&mut header, initial, packet);
        let (source, destination) = endpoints.of(packet.from);
        header[..2].copy_from_slice(&source.1.to_be_bytes());
        header[2..4].copy_from_slice(&destination.1.to_be_bytes());
        let addresses = (source.0, destination.0);
        let transport_bytes = header_bytes + payload.bytes;
        let sum = pseudo_sum(addresses, TCP, transport_bytes) + payload_sum(payload);
        let sum = checksum(&header[..header_bytes], sum);
        header[16..18].copy_from_slice(&sum.to_be_bytes());
        self.begin(packet.from, addresses, (TCP, packet.ip_id), transport_bytes);
        self.bytes.extend_from_slice(&header[..header_bytes]);
        self.end(payload, snap_bytes)
    }

    /// Makes a UDP datagram of `parts` and filling; gives back the length of the whole frame.
    pub(super) fn udp(
        &mut self,
        endpoints: &Endpoints,
        (from, ip_id): (Side, u16),
        head: &[u8],
        fill_bytes: usize,
        snap_bytes: usize,
    ) -> usize {
        let (source, destination) = endpoints.of(from);
        let addresses = (source.0, destination.0);
        let transport_bytes = 8 + head.len() + fill_bytes;
        self.begin(from, addresses, (UDP, ip_id), transport_bytes);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&source.1.to_be_bytes());
        self.bytes.extend_from_slice(&destination.1.to_be_bytes());
        self.bytes
            .extend_from_slice(&(transport_bytes as u16).to_be_bytes());
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(head);
        self.bytes.resize(self.bytes.len() + fill_bytes, FILL);
        let sum = checksum(
            &self.bytes[at..],
            pseudo_sum(addresses, UDP, transport_bytes),
        );
        // RFC 768: a sum of zero is sent as all ones.
        let sum = if sum == 0 { 0xffff } else { sum };
        self.bytes[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
        let length = self.bytes.len();
        self.bytes.truncate(snap_bytes);
        length
    }

    fn begin(
        &mut self,
        from: Side,
        addresses: (IpAddr, IpAddr),
        (protocol, ip_id): (u8, u16),
        transport_bytes: usize,
    ) {
        self.bytes.clear();
        let (source, destination) = match from {
            Side::Client => (CLIENT_MAC, SERVER_MAC),
            Side::Server => (SERVER_MAC, CLIENT_MAC),
        };
        self.bytes.extend_from_slice(&destination);
        self.bytes.extend_from_slice(&source);
        match addresses {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 61, protocol, 0, 0];
                header[2..4].copy_from_slice(&((20 + transport_bytes) as u16).to_be_bytes());
                header[4..6].copy_from_slice(&ip_id.to_be_bytes());
                self.bytes.extend_from_slice(&[0x08, 0x00]);
                self.bytes.extend_from_slice(&header);
                self.bytes.extend_from_slice(&source.octets());
                self.bytes.extend_from_slice(&destination.octets());
                let sum = checksum(&self.bytes[ETHERNET_BYTES..], 0);
                let at = ETHERNET_BYTES + 10;
                self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            (source, destination) => {
                self.bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                self.bytes
                    .extend_from_slice(&(transport_bytes as u16).to_be_bytes());
                self.bytes.extend_from_slice(&[protocol, 61]);
                self.bytes.extend_from_slice(&as_v6(source).octets());
                self.bytes.extend_from_slice(&as_v6(destination).octets());
            }
        }
    }

    /// Appends the payload as far as it is kept.
    fn end(&mut self, payload: Payload, snap_bytes: usize) -> usize {
        let length = self.bytes.len() + payload.bytes;
        let head = &payload.head[..payload.head.len().min(payload.bytes)];
        self.bytes.extend_from_slice(head);
        self.bytes.resize(length.min(snap_bytes), FILL);
        length
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// All of the header but ports and checksum; gives back its length.
fn tcp_header(header: &mut [u8; 60], initial: &InitialSequences, packet: &Packet) -> usize {
    let sequence = initial.of(packet.from).wrapping_add(packet.sequence);
    let acknowledgement = initial
        .of(packet.from.other())
        .wrapping_add(packet.acknowledgement);
    let push = if packet.is_push { PSH } else { 0 };
    let flags = match packet.kind {
        Kind::Syn => SYN,
        Kind::SynAck => SYN | ACK,
        Kind::Data(_) => ACK | push,
        Kind::Ack => ACK,
        Kind::Fin => FIN | ACK,
        Kind::Reset => RST | ACK,
    };
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    if flags & ACK != 0 {
        header[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    }
    header[13] = flags;
    header[14..16].copy_from_slice(&packet.window.to_be_bytes());
    let mut at = 20;
    let mut put = |option: &[u8]| {
        header[at..at + option.len()].copy_from_slice(option);
        at += option.len();
    };
    if flags & SYN != 0 {
        let [high, low] = MSS_BYTES.to_be_bytes();
        put(&[2, 4, high, low, 4, 2]);
        put(&[8, 10]);
    } else {
        put(&[1, 1, 8, 10]);
    }
    put(&packet.timestamp.to_be_bytes());
    put(&packet.timestamp_echo.to_be_bytes());
    if flags & SYN != 0 {
        put(&[1, 3, 3, WINDOW_SCALE]);
    }
    let blocks = packet.sack.as_slice();
    if !blocks.is_empty() {
        put(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
        let initial = initial.of(packet.from.other());
        for (start, end) in blocks {
            put(&initial.wrapping_add(*start).to_be_bytes());
            put(&initial.wrapping_add(*end).to_be_bytes());
        }
    }
    header[12] = (at as u8 / 4) << 4;
    at
}

/// The sum over the pseudo header (RFC 9293, RFC 8200).
pub(super) fn pseudo_sum(addresses: (IpAddr, IpAddr), protocol: u8, transport_bytes: usize) -> u32 {
    let words = |octets: &[u8]| -> u32 {
        octets
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum()
    };
    let of = |address: IpAddr| match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    };
    of(addresses.0) + of(addresses.1) + u32::from(protocol) + transport_bytes as u32
}

/// The sum over a payload, without going through the filling.
fn payload_sum(payload: Payload) -> u32 {
    let head = &payload.head[..payload.head.len().min(payload.bytes)];
    let head_sum = u32::from(!checksum(head, 0));
    let fill_bytes = payload.bytes - head.len();
    let word = u32::from(u16::from_be_bytes([FILL, FILL]));
    // A head that was cut at an odd length is the whole payload.
    let rest = (fill_bytes % 2) as u32 * (u32::from(FILL) << 8);
    head_sum + (fill_bytes / 2) as u32 * word + rest
}
