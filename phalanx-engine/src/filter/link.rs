//! Link types: where the network header begins and how a frame names its protocol.

use super::program::{Compare, Load, Test};

/// A supported link layer; the numbers are the ones in pcap and pcapng files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkType {
    /// 1.
    Ethernet,
    /// 101 (and 12, 14): bare IPv4 or IPv6.
    Raw,
    /// 228: bare IPv4.
    Ipv4,
    /// 229: bare IPv6.
    Ipv6,
    /// 113: Linux cooked capture.
    LinuxSll,
    /// 276: Linux cooked capture, version 2.
    LinuxSll2,
    /// 0: four bytes of address family, in the byte order of the little-endian machine that
    /// wrote the file. As in libpcap, IPv6 is the family number of any of the BSDs.
    Null,
    /// 108: the same in network byte order.
    Loop,
    /// 9: PPP with its HDLC address and control bytes, as libpcap takes for granted.
    Ppp,
    /// 50: the same, or Cisco HDLC; the protocol is told as in PPP.
    PppSerial,
    /// 51: PPP in a PPPoE session header.
    PppEther,
    /// 104: Cisco HDLC.
    CiscoHdlc,
}

/// The answer of a link layer to "does it carry this EtherType?".
pub(super) enum Carries {
    Always,
    Never,
    /// If one of the tests holds.
    If(Vec<Test>),
}

/// The numbers of the IPv6 address family on macOS, FreeBSD's relatives and FreeBSD.
const BSD_FAMILIES_IPV6: [u32; 3] = [30, 24, 28];

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const ARP: u16 = 0x0806;
pub(super) const RARP: u16 = 0x8035;
const XNS: u16 = 0x0600;
const DECNET: u16 = 0x6003;
const APPLETALK: u16 = 0x809b;

impl LinkType {
    /// From the number in a file; `None` if filters on it are not supported.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Null,
            1 => Self::Ethernet,
            9 => Self::Ppp,
            12 | 14 | 101 => Self::Raw,
            50 => Self::PppSerial,
            51 => Self::PppEther,
            104 => Self::CiscoHdlc,
            108 => Self::Loop,
            113 => Self::LinuxSll,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::LinuxSll2,
            _ => return None,
        })
    }

    /// The number in a file.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Null => 0,
            Self::Ethernet => 1,
            Self::Ppp => 9,
            Self::PppSerial => 50,
            Self::PppEther => 51,
            Self::Raw => 101,
            Self::CiscoHdlc => 104,
            Self::Loop => 108,
            Self::LinuxSll => 113,
            Self::Ipv4 => 228,
            Self::Ipv6 => 229,
            Self::LinuxSll2 => 276,
        }
    }

    /// Offset of the network header without VLAN tags, in bytes.
    pub(super) fn network_offset(self) -> u32 {
        match self {
            Self::Ethernet => 14,
            Self::Raw | Self::Ipv4 | Self::Ipv6 => 0,
            Self::LinuxSll => 16,
            Self::LinuxSll2 => 20,
            Self::Null | Self::Loop | Self::Ppp | Self::PppSerial | Self::CiscoHdlc => 4,
            Self::PppEther => 8,
        }
    }

    /// Tests for an EtherType above 1500, `shift` bytes of VLAN tags in.
    pub(super) fn carries(self, ether_type: u16, shift: u32) -> Carries {
        let test = |offset, size, mask, value| {
            let load = Load::Frame { offset, size };
            Test::Field {
                load,
                mask,
                compare: Compare::Equal,
                value,
            }
        };
        let field = |offset, size, mask, value| Carries::If(vec![test(offset, size, mask, value)]);
        let families = |value: fn(u32) -> u32| {
            Carries::If(
                BSD_FAMILIES_IPV6
                    .map(|family| test(0, 4, u32::MAX, value(family)))
                    .into(),
            )
        };
        let word = u32::MAX;
        match (self, ether_type) {
            (Self::Ethernet, _) => field(12 + shift, 2, word, u32::from(ether_type)),
            (Self::LinuxSll, _) => field(14, 2, word, u32::from(ether_type)),
            (Self::LinuxSll2, _) => field(0, 2, word, u32::from(ether_type)),
            (Self::CiscoHdlc, _) => field(2, 2, word, u32::from(ether_type)),
            (Self::Ppp | Self::PppSerial, _) => field(2, 2, word, ppp_protocol(ether_type)),
            (Self::PppEther, _) => field(6, 2, word, ppp_protocol(ether_type)),
            (Self::Raw, IPV4) => field(0, 1, 0xf0, 0x40),
            (Self::Raw, IPV6) => field(0, 1, 0xf0, 0x60),
            (Self::Ipv4, IPV4) | (Self::Ipv6, IPV6) => Carries::Always,
            (Self::Null, IPV4) => field(0, 4, word, 2_u32.swap_bytes()),
            (Self::Null, IPV6) => families(u32::swap_bytes),
            (Self::Loop, IPV4) => field(0, 4, word, 2),
            (Self::Loop, IPV6) => families(|family| family),
            _ => Carries::Never,
        }
    }
}

/// The protocol number of PPP for an EtherType (IANA's PPP numbers); as in libpcap, others stay.
fn ppp_protocol(ether_type: u16) -> u32 {
    match ether_type {
        IPV4 => 0x0021,
        IPV6 => 0x0057,
        XNS => 0x0025,
        DECNET => 0x0027,
        APPLETALK => 0x0029,
        other => u32::from(other),
    }
}
