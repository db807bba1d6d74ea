//! Link layers: from the first byte of a frame to its network layer.

use super::Unparsed;
use crate::bytes::{Bytes, Window};

/// EtherTypes (IEEE) that are followed or told apart.
pub(super) mod ether_type {
    pub(in crate::packet) const IPV4: u16 = 0x0800;
    pub(in crate::packet) const IPV6: u16 = 0x86dd;
    pub(in crate::packet) const VLAN: u16 = 0x8100;
    pub(in crate::packet) const QINQ: u16 = 0x88a8;
    pub(in crate::packet) const QINQ_OLD: u16 = 0x9100;
    pub(in crate::packet) const MPLS: u16 = 0x8847;
    pub(in crate::packet) const MPLS_MULTICAST: u16 = 0x8848;
    pub(in crate::packet) const PPPOE_SESSION: u16 = 0x8864;
    /// PPP in GRE (RFC 2637).
    pub(in crate::packet) const PPP: u16 = 0x880b;
    pub(in crate::packet) const ARP: u16 = 0x0806;
    /// Transparent Ethernet bridging (RFC 1701, RFC 7637).
    pub(in crate::packet) const ETHERNET: u16 = 0x6558;
    pub(in crate::packet) const ERSPAN: u16 = 0x88be;
    pub(in crate::packet) const ERSPAN_III: u16 = 0x22eb;
    /// Below this a type field is the length of an IEEE 802.3 frame.
    pub(in crate::packet) const MINIMUM: u16 = 0x0600;
}

/// What a frame of an interface begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Ethernet, with its VLAN tags.
    Ethernet,
    /// No link layer: the first byte is IP's (tun, `WireGuard`, raw captures).
    None,
    /// An address family of four bytes in either byte order (BSD loopback, `null`).
    Family,
    /// Linux cooked capture, version 1.
    Cooked,
    /// Linux cooked capture, version 2.
    CookedV2,
    /// PPP, with or without its HDLC address and control bytes (RFC 1661, RFC 1662).
    Ppp,
    /// A PPPoE session header (RFC 2516) without Ethernet before it.
    Pppoe,
    /// Cisco HDLC.
    CiscoHdlc,
    /// IEEE 802.11.
    Wireless,
    /// A radiotap header, then IEEE 802.11.
    Radiotap,
    /// A Prism or AVS header, then IEEE 802.11.
    Prism,
    /// A PPI header, then what it says.
    Ppi,
}

impl LinkKind {
    /// The kind of a capture file's link type (`LINKTYPE_…` of the pcap format), or `None` where
    /// the parser does not know it.
    #[must_use]
    pub const fn from_linktype(linktype: u32) -> Option<Self> {
        match linktype {
            0 | 108 => Some(Self::Family),
            1 => Some(Self::Ethernet),
            9 | 50 => Some(Self::Ppp),
            // 12 and 14 are DLT_RAW, which some writers leave untranslated.
            12 | 14 | 101 | 228 | 229 => Some(Self::None),
            51 => Some(Self::Pppoe),
            104 => Some(Self::CiscoHdlc),
            105 => Some(Self::Wireless),
            113 => Some(Self::Cooked),
            119 | 163 => Some(Self::Prism),
            127 => Some(Self::Radiotap),
            192 => Some(Self::Ppi),
            276 => Some(Self::CookedV2),
            _ => None,
        }
    }
}

/// Where the network layer begins, and how the link layer led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Offset of the network layer in bytes.
    pub offset: u32,
    /// The version that the link layer announces: 4, 6, or 0 where only the header itself says.
    pub version: u8,
    /// The outermost VLAN id found in the frame, 0 where there is none.
    pub vlan: u16,
}

/// Parses the link layer of a frame of an interface: Ethernet or none. The other kinds occur only
/// in files and are left to `parse_layers`.
///
/// # Errors
/// [`Unparsed::NotIp`] and its like where no IP follows.
#[inline(always)]
pub fn parse_link<B: Bytes>(bytes: B, kind: LinkKind) -> Result<Link, Unparsed> {
    match kind {
        LinkKind::None => Ok(Link {
            offset: 0,
            version: 0,
            vlan: 0,
        }),
        LinkKind::Ethernet => parse_ethernet(bytes),
        _ => Err(Unparsed::UnknownLink),
    }
}

#[inline(always)]
fn parse_ethernet<B: Bytes>(bytes: B) -> Result<Link, Unparsed> {
    let ethernet = bytes.window::<14>(0).ok_or(Unparsed::Truncated)?;
    let kind = ethernet.u16(12);
    if kind == ether_type::IPV4 {
        return Ok(Link {
            offset: 14,
            version: 4,
            vlan: 0,
        });
    }
    if kind == ether_type::IPV6 {
        return Ok(Link {
            offset: 14,
            version: 6,
            vlan: 0,
        });
    }
    if !is_vlan(kind) {
        return announced(kind, 14, 0);
    }
    let outer = bytes.window::<4>(14).ok_or(Unparsed::Truncated)?;
    let (vlan, kind) = (outer.u16(0) & 0x0fff, outer.u16(2));
    if !is_vlan(kind) {
        return announced(kind, 18, vlan);
    }
    let inner = bytes.window::<4>(18).ok_or(Unparsed::Truncated)?;
    announced(inner.u16(2), 22, vlan)
}

#[inline(always)]
pub(super) const fn is_vlan(kind: u16) -> bool {
    matches!(
        kind,
        ether_type::VLAN | ether_type::QINQ | ether_type::QINQ_OLD
    )
}

#[inline(always)]
const fn announced(kind: u16, offset: u32, vlan: u16) -> Result<Link, Unparsed> {
    match kind {
        ether_type::IPV4 => Ok(Link {
            offset,
            version: 4,
            vlan,
        }),
        ether_type::IPV6 => Ok(Link {
            offset,
            version: 6,
            vlan,
        }),
        ether_type::VLAN | ether_type::QINQ | ether_type::QINQ_OLD => Err(Unparsed::VlanTooDeep),
        ether_type::MPLS | ether_type::MPLS_MULTICAST => Err(Unparsed::Mpls),
        ether_type::PPPOE_SESSION => Err(Unparsed::Pppoe),
        _ => Err(Unparsed::NotIp),
    }
}
