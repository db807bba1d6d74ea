//! ICMP errors: makes what one says of the flow that it quotes from its record.

use phalanx_common::packet::protocol;

use crate::record::PacketRecord;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug)]
pub(super) struct IcmpError {
    /// The next hop's MTU, 0 where it is not told.
    pub(super) mtu: u32,
    /// Nobody listens, or the way there is closed.
    pub(super) is_refusal: bool,
}

impl IcmpError {
    pub(super) fn of(record: &PacketRecord<'_>) -> Self {
        let headers = record.headers;
        let (kind, code) = ((headers.sequence >> 8) as u8, headers.sequence as u8);
        let at = headers.transport_offset as usize;
        let word = |from: usize, length: usize| -> u32 {
            let bytes = record.bytes.get(at + from..at + from + length);
            bytes
                .unwrap_or_default()
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        };
        // RFC 792 and RFC 1191 section 4; RFC 4443 sections 3.1 and 3.2.
        match (headers.protocol, kind, code) {
            (protocol::ICMP, 3, 4) => Self {
                mtu: word(6, 2),
                is_refusal: false,
            },
            (protocol::ICMPV6, 2, _) => Self {
                mtu: word(4, 4),
                is_refusal: false,
            },
            (protocol::ICMP, 3, _) | (protocol::ICMPV6, 1, _) => Self {
                mtu: 0,
                is_refusal: true,
            },
            _ => Self {
                mtu: 0,
                is_refusal: false,
            },
        }
    }
}
