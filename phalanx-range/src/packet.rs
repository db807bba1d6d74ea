//! What a link must know of an IP packet: its hop limit, and the marks that name it in a log.

/// The marks by which a decision log names a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// IP version: 4, 6, or 0 for what is neither.
    pub version: u8,
    /// IP protocol (next header) number.
    pub protocol: u8,
    /// IPv4 identification, or the IPv6 flow label.
    pub id: u32,
    /// TCP sequence number; for UDP and ICMP the first four payload bytes, big-endian.
    pub sequence: u32,
}

/// Reads the marks; what is absent is zero. IPv6 extension headers are not walked.
pub fn marks(packet: &[u8]) -> Marks {
    let version = packet.first().map_or(0, |byte| byte >> 4);
    let (protocol, id, transport) = match version {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            (byte(packet, 9), u32::from(be16(packet, 4)), header)
        }
        6 => (byte(packet, 6), be32(packet, 0) & 0x000f_ffff, 40),
        _ => (0, 0, packet.len()),
    };
    let sequence_at = match protocol {
        6 => transport + 4,
        _ => transport + 8,
    };
    Marks {
        version,
        protocol,
        id,
        sequence: be32(packet, sequence_at),
    }
}

/// Takes `hops` off the TTL or hop limit. Returns false, and leaves the packet alone, when it
/// would reach zero.
pub fn decrement_ttl(packet: &mut [u8], hops: u8) -> bool {
    let (at, minimum) = match packet.first().map(|byte| byte >> 4) {
        Some(4) => (8, 20),
        Some(6) => (7, 40),
        _ => return true,
    };
    if packet.len() < minimum {
        return true;
    }
    let old = packet[at];
    if old <= hops {
        return false;
    }
    packet[at] = old - hops;
    if at == 8 {
        // RFC 1624: HC' = ~(~HC + ~m + m'), here m is the word of TTL and protocol.
        let before = u16::from_be_bytes([old, packet[9]]);
        let after = u16::from_be_bytes([packet[8], packet[9]]);
        let checksum = be16(packet, 10);
        let mut sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    true
}

/// The Internet checksum (RFC 1071) of `bytes`, starting from `sum` in host order.
pub fn checksum(bytes: &[u8], sum: u32) -> u16 {
    let mut sum = u64::from(sum);
    let mut chunks = bytes.chunks_exact(2);
    for pair in &mut chunks {
        sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    if let [last] = chunks.remainder() {
        sum += u64::from(*last) << 8;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn byte(packet: &[u8], at: usize) -> u8 {
    packet.get(at).copied().unwrap_or(0)
}

fn be16(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([byte(packet, at), byte(packet, at + 1)])
}

fn be32(packet: &[u8], at: usize) -> u32 {
    (u32::from(be16(packet, at)) << 16) | u32::from(be16(packet, at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(ttl: u8) -> Vec<u8> {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        packet[4..6].copy_from_slice(&0xbeef_u16.to_be_bytes());
        packet[8] = ttl;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet[24..28].copy_from_slice(&0x0102_0304_u32.to_be_bytes());
        let sum = checksum(&packet[..20], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    #[test]
    fn the_checksum_stays_right_when_the_ttl_falls() {
        for (ttl, hops) in [(64, 1), (2, 1), (255, 254), (128, 7)] {
            let mut packet = ipv4(ttl);
            assert!(decrement_ttl(&mut packet, hops));
            assert_eq!(packet[8], ttl - hops);
            assert_eq!(checksum(&packet[..20], 0), 0, "ttl {ttl} less {hops}");
        }
    }

    #[test]
    fn a_spent_ttl_is_refused_and_the_packet_left_alone() {
        let mut packet = ipv4(1);
        assert!(!decrement_ttl(&mut packet, 1));
        assert_eq!(packet, ipv4(1));
    }

    #[test]
    fn marks_are_read_and_short_packets_give_zeros() {
        let expected = Marks {
            version: 4,
            protocol: 6,
            id: 0xbeef,
            sequence: 0x0102_0304,
        };
        assert_eq!(marks(&ipv4(64)), expected);
        assert_eq!(marks(&[]), Marks::default());
        assert_eq!(marks(&[0x45]).sequence, 0);
    }
}
