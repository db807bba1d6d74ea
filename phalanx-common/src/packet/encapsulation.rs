//! What lies between two IP layers, or between a frame's first byte and its IP layer, as files
//! hold it: link headers, VLAN tags, MPLS, PPPoE, PPP, Ethernet in something, IEEE 802.11. Makes
//! a [`Link`] and the keys met on the way. Which protocol carries an inner packet over IP is
//! `tunnel`'s.

use super::link::{ether_type, is_vlan};
use super::{Link, LinkKind, Tunnel, Unparsed};
use crate::bytes::{Bytes, Window};
use crate::limits::{LINK_STEP_COUNT_MAX, NETWORK_OFFSET_MAX};

/// How one IP layer is wrapped in the one around it, or in the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encapsulation {
    /// The tunnel that this layer came out of.
    pub tunnel: Tunnel,
    /// The label at the bottom of the MPLS stack (20 bits): the one that names a VPN and stays the
    /// same along a path, which those above it do not.
    pub mpls_label: Option<u32>,
    /// PPPoE session id.
    pub pppoe_session: Option<u16>,
}

/// What the bytes at the place reached are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An IP header of version 4 or 6; 0 where only the header itself says.
    Ip(u8),
    /// An Ethernet header.
    Ethernet,
    /// What an `EtherType` names.
    EtherType(u16),
    /// IEEE 802.2, after a length in place of an `EtherType`.
    Llc,
    /// An entry of an MPLS label stack, and the control word below the last one.
    Mpls,
    /// A PPPoE session header.
    Pppoe,
    /// PPP's protocol field.
    Ppp,
    /// BSD's address family.
    Family,
    /// Linux cooked capture, version 1.
    Cooked,
    /// Linux cooked capture, version 2.
    CookedV2,
    /// Cisco HDLC.
    CiscoHdlc,
    /// An IEEE 802.11 header, with the header of the first frame of an aggregate.
    Wireless {
        /// Its length is a multiple of four, filled up behind it.
        is_padded: bool,
    },
    /// What a radio told of a frame: radiotap.
    Radiotap,
    /// The same: Prism or AVS.
    Prism,
    /// The same: PPI.
    Ppi,
}

impl From<LinkKind> for Next {
    fn from(kind: LinkKind) -> Self {
        match kind {
            LinkKind::Ethernet => Self::Ethernet,
            LinkKind::None => Self::Ip(0),
            LinkKind::Family => Self::Family,
            LinkKind::Cooked => Self::Cooked,
            LinkKind::CookedV2 => Self::CookedV2,
            LinkKind::Ppp => Self::Ppp,
            LinkKind::Pppoe => Self::Pppoe,
            LinkKind::CiscoHdlc => Self::CiscoHdlc,
            LinkKind::Wireless => Self::Wireless { is_padded: false },
            LinkKind::Radiotap => Self::Radiotap,
            LinkKind::Prism => Self::Prism,
            LinkKind::Ppi => Self::Ppi,
        }
    }
}

/// The place that a walk led to.
pub(super) struct Reached {
    pub(super) link: Link,
    pub(super) encapsulation: Encapsulation,
    /// Where the headers passed say that what they carry ends, in bytes from the start of the
    /// frame; `u32::MAX` where none says so.
    pub(super) end: u32,
}

/// Walks from `at`, where `first` begins, to the next IP header; `visit` is told what is passed,
/// and where it begins, the IP header too.
pub(super) fn walk(
    bytes: &[u8],
    first: Next,
    at: u32,
    mut visit: impl FnMut(Next, u32),
) -> Result<Reached, Unparsed> {
    let mut walk = Walk {
        bytes,
        at,
        vlan: None,
        encapsulation: Encapsulation::default(),
        end: u32::MAX,
    };
    let mut next = first;
    for _ in 0..LINK_STEP_COUNT_MAX {
        if walk.at > NETWORK_OFFSET_MAX {
            break;
        }
        visit(next, walk.at);
        if let Next::Ip(version) = next {
            let link = Link {
                offset: walk.at,
                version,
                vlan: walk.vlan.unwrap_or(0),
            };
            return Ok(Reached {
                link,
                encapsulation: walk.encapsulation,
                end: walk.end,
            });
        }
        next = walk.step(next)?;
    }
    Err(Unparsed::NestingTooDeep)
}

pub(super) struct Walk<'packet> {
    bytes: &'packet [u8],
    pub(super) at: u32,
    vlan: Option<u16>,
    encapsulation: Encapsulation,
    end: u32,
}

impl<'packet> Walk<'packet> {
    fn step(&mut self, next: Next) -> Result<Next, Unparsed> {
        match next {
            Next::Ip(_) => Ok(next),
            Next::Ethernet => Ok(Next::EtherType(self.take::<14>()?.u16(12))),
            Next::EtherType(kind) => self.ether_type(kind),
            Next::Llc => self.llc(),
            Next::Mpls => self.mpls(),
            Next::Pppoe => self.pppoe(),
            Next::Ppp => self.ppp(),
            Next::Family => self.family(),
            Next::Cooked => {
                let cooked = self.take::<16>()?;
                cooked_protocol(cooked.u16(2), cooked.u16(14))
            }
            Next::CookedV2 => {
                let cooked = self.take::<20>()?;
                cooked_protocol(cooked.u16(8), cooked.u16(0))
            }
            Next::CiscoHdlc => Ok(Next::EtherType(self.take::<4>()?.u16(2))),
            Next::Wireless { is_padded } => self.wireless(is_padded),
            Next::Radiotap => self.radiotap(),
            Next::Prism => self.prism(),
            Next::Ppi => self.ppi(),
        }
    }

    /// The next `LENGTH` bytes, and the place moves behind them.
    pub(super) fn take<const LENGTH: usize>(&mut self) -> Result<&'packet [u8], Unparsed> {
        let window = self.peek::<LENGTH>(0)?;
        self.at += LENGTH as u32;
        Ok(window)
    }

    /// The `LENGTH` bytes from `skipped` bytes behind the place.
    pub(super) fn peek<const LENGTH: usize>(
        &self,
        skipped: usize,
    ) -> Result<&'packet [u8], Unparsed> {
        self.bytes
            .window::<LENGTH>(self.at as usize + skipped)
            .ok_or(Unparsed::Truncated)
    }

    /// What is carried ends `length` bytes behind the place; the frame may go on with padding.
    pub(super) fn end_after(&mut self, length: u16) {
        self.end = self.end.min(self.at + u32::from(length));
    }

    fn ether_type(&mut self, kind: u16) -> Result<Next, Unparsed> {
        match kind {
            ether_type::IPV4 => Ok(Next::Ip(4)),
            ether_type::IPV6 => Ok(Next::Ip(6)),
            ether_type::MPLS | ether_type::MPLS_MULTICAST => Ok(Next::Mpls),
            ether_type::PPPOE_SESSION => Ok(Next::Pppoe),
            ether_type::PPP => Ok(Next::Ppp),
            ether_type::ETHERNET => Ok(Next::Ethernet),
            kind if is_vlan(kind) => {
                let tag = self.take::<4>()?;
                self.vlan.get_or_insert(tag.u16(0) & 0x0fff);
                Ok(Next::EtherType(tag.u16(2)))
            }
            length if length < ether_type::MINIMUM => {
                self.end_after(length);
                Ok(Next::Llc)
            }
            _ => Err(Unparsed::NotIp),
        }
    }

    /// LLC with SNAP (RFC 1042): the `EtherType` follows, unless the organisation is another.
    fn llc(&mut self) -> Result<Next, Unparsed> {
        let llc = self.peek::<3>(0)?;
        if llc != [0xaa, 0xaa, 0x03] {
            return Err(Unparsed::NotIp);
        }
        let snap = self.take::<8>()?;
        match (snap[3..6].as_ref(), snap.u16(6)) {
            ([0, 0, 0 | 0xf8], kind) if kind >= ether_type::MINIMUM => Ok(Next::EtherType(kind)),
            _ => Err(Unparsed::NotIp),
        }
    }

    /// One label stack entry (RFC 3032).
    fn mpls(&mut self) -> Result<Next, Unparsed> {
        let entry = self.take::<4>()?.u32(0);
        let label = entry >> 12;
        self.encapsulation.mpls_label = Some(label);
        let is_bottom = entry & 0x100 != 0;
        match label {
            _ if !is_bottom => Ok(Next::Mpls),
            // Explicit null labels (RFC 3032 section 2.1) name what follows.
            0 => Ok(Next::Ip(4)),
            2 => Ok(Next::Ip(6)),
            _ => self.below_mpls(),
        }
    }

    /// What follows a label stack, which does not say. Its first nibble is 4 or 6 for IP
    /// (RFC 4928), 0 for a pseudowire's control word (RFC 4385), 1 for an associated channel;
    /// but a pseudowire without control word begins with any nibble a MAC address does.
    fn below_mpls(&mut self) -> Result<Next, Unparsed> {
        match self.peek::<1>(0)?.u8(0) >> 4 {
            4 if self.looks_like_ipv4() => Ok(Next::Ip(4)),
            6 if self.looks_like_ipv6() => Ok(Next::Ip(6)),
            0 if self.looks_like_ethernet(4) || !self.looks_like_ethernet(0) => {
                self.take::<4>()?;
                Ok(Next::Ethernet)
            }
            4 if !self.looks_like_ethernet(0) => Ok(Next::Ip(4)),
            6 if !self.looks_like_ethernet(0) => Ok(Next::Ip(6)),
            1 if !self.looks_like_ethernet(0) => Err(Unparsed::NotIp),
            _ => Ok(Next::Ethernet),
        }
    }

    fn looks_like_ipv4(&self) -> bool {
        let held = self.bytes.len() - (self.at as usize).min(self.bytes.len());
        self.peek::<20>(0).is_ok_and(|ip| {
            let header_length = usize::from(ip.u8(0) & 0x0f) * 4;
            let declared = usize::from(ip.u16(2));
            // A capture may hold less than the packet, hardly ever more than padding.
            header_length >= 20 && declared >= header_length && declared + 64 > held
        })
    }

    fn looks_like_ipv6(&self) -> bool {
        let held = self.bytes.len() - (self.at as usize).min(self.bytes.len());
        self.peek::<40>(0)
            .is_ok_and(|ip| usize::from(ip.u16(4)) + 40 + 64 > held)
    }

    /// Whether the bytes `skipped` ahead read as an Ethernet header of a type that is known.
    fn looks_like_ethernet(&self, skipped: usize) -> bool {
        self.peek::<14>(skipped).is_ok_and(|ethernet| {
            let kind = ethernet.u16(12);
            is_vlan(kind)
                || matches!(
                    kind,
                    ether_type::IPV4
                        | ether_type::IPV6
                        | ether_type::ARP
                        | ether_type::MPLS
                        | ether_type::MPLS_MULTICAST
                        | ether_type::PPPOE_SESSION
                )
        })
    }

    /// A PPPoE session header (RFC 2516 section 4): version and type 1, code 0.
    fn pppoe(&mut self) -> Result<Next, Unparsed> {
        let pppoe = self.take::<6>()?;
        if pppoe.u16(0) != 0x1100 {
            return Err(Unparsed::BadEncapsulation);
        }
        self.encapsulation.pppoe_session = Some(pppoe.u16(2));
        self.end_after(pppoe.u16(4));
        Ok(Next::Ppp)
    }

    /// PPP's protocol field, which may be cut to one byte (RFC 1661 section 6.5), behind the
    /// address and control bytes of HDLC where they are.
    fn ppp(&mut self) -> Result<Next, Unparsed> {
        match self.peek::<2>(0)?.u16(0) {
            0xff03 => {
                self.take::<2>()?;
            }
            // Cisco HDLC, unicast and multicast, under a link type that stands for both.
            0x0f00 | 0x8f00 => return Ok(Next::CiscoHdlc),
            _ => {}
        }
        let protocol = if self.peek::<1>(0)?.u8(0) & 1 == 1 {
            u16::from(self.take::<1>()?.u8(0))
        } else {
            self.take::<2>()?.u16(0)
        };
        match protocol {
            0x0021 => Ok(Next::Ip(4)),
            0x0057 => Ok(Next::Ip(6)),
            0x0281 | 0x0283 => Ok(Next::Mpls),
            _ => Err(Unparsed::NotIp),
        }
    }

    /// BSD's address family, in the byte order of the machine that captured.
    fn family(&mut self) -> Result<Next, Unparsed> {
        let family = self.take::<4>()?.u32(0);
        let family = if family > 0xffff {
            family.swap_bytes()
        } else {
            family
        };
        match family {
            2 => Ok(Next::Ip(4)),
            // AF_INET6 of Linux, Windows, NetBSD and OpenBSD, FreeBSD, Darwin.
            10 | 23 | 24 | 28 | 30 => Ok(Next::Ip(6)),
            _ => Err(Unparsed::NotIp),
        }
    }
}

/// What a cooked frame's protocol field means, which its ARPHRD type decides.
fn cooked_protocol(hardware: u16, protocol: u16) -> Result<Next, Unparsed> {
    /// Netlink messages: the protocol is a netlink family.
    const ARPHRD_NETLINK: u16 = 824;
    /// `ETH_P_802_2`: an LLC header follows.
    const LLC: u16 = 4;
    match protocol {
        _ if hardware == ARPHRD_NETLINK => Err(Unparsed::NotIp),
        LLC => Ok(Next::Llc),
        _ if protocol < ether_type::MINIMUM => Err(Unparsed::NotIp),
        _ => Ok(Next::EtherType(protocol)),
    }
}
