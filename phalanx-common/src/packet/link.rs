//! Link layers: from the first byte of a frame to its network layer.

use super::Unparsed;
use crate::bytes::{Bytes, Window};

/// EtherTypes (IEEE) that are followed or told apart.
mod ether_type {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const QINQ: u16 = 0x88a8;
    pub(super) const QINQ_OLD: u16 = 0x9100;
    pub(super) const MPLS: u16 = 0x8847;
    pub(super) const MPLS_MULTICAST: u16 = 0x8848;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
}

/// What a frame of an interface begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Ethernet, with its VLAN tags.
    Ethernet,
    /// No link layer: the first byte is IP's (tun, `WireGuard`, raw captures).
    None,
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

/// Parses the link layer of a frame.
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
const fn is_vlan(kind: u16) -> bool {
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
