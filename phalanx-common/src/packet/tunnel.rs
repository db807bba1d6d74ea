//! Tunnels over IP: from the headers of one layer to the place where the packet inside it begins.
//! Encrypted ones (ESP, `WireGuard`) are what they seem: nothing inside is looked for.

use super::encapsulation::Next;
use super::link::ether_type;
use super::{Headers, Unparsed, protocol};
use crate::bytes::{Bytes, Window};

/// UDP ports that tunnels are known by (IANA); 8472 is the one Linux has used for VXLAN.
mod port {
    pub(super) const VXLAN: u16 = 4789;
    pub(super) const VXLAN_LINUX: u16 = 8472;
    pub(super) const GENEVE: u16 = 6081;
}

/// The tunnel that a packet came out of, with the key that tells its inner addresses from those
/// of another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// None: the frame itself holds the packet.
    #[default]
    None,
    /// IPv4 or IPv6 in IP (RFC 2003, RFC 2473, RFC 4213).
    IpInIp,
    /// GRE (RFC 2784, RFC 2890). With NVGRE (RFC 7637) the upper 24 bits of the key are its
    /// subnet.
    Gre {
        /// The key, where one is sent.
        key: Option<u32>,
    },
    /// A mirrored frame in GRE (ERSPAN).
    Erspan {
        /// 1, 2 or 3.
        version: u8,
        /// Session id, 10 bits; 0 for version 1, which has none.
        session: u16,
    },
    /// PPP in GRE (RFC 2637).
    Pptp {
        /// Call id of the receiver.
        call: u16,
    },
    /// VXLAN (RFC 7348).
    Vxlan {
        /// Network identifier, 24 bits.
        vni: u32,
    },
    /// Geneve (RFC 8926).
    Geneve {
        /// Network identifier, 24 bits.
        vni: u32,
    },
}

impl Tunnel {
    /// The kind of tunnel as reports and metrics spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::IpInIp => "ip_in_ip",
            Self::Gre { .. } => "gre",
            Self::Erspan { .. } => "erspan",
            Self::Pptp { .. } => "pptp",
            Self::Vxlan { .. } => "vxlan",
            Self::Geneve { .. } => "geneve",
        }
    }

    /// The network identifier, key, session or call that was sent, if one was.
    #[must_use]
    pub const fn key(self) -> Option<u32> {
        match self {
            Self::None | Self::IpInIp | Self::Erspan { version: 1, .. } => None,
            Self::Gre { key } => key,
            Self::Erspan { session: key, .. } | Self::Pptp { call: key } => Some(key as u32),
            Self::Vxlan { vni } | Self::Geneve { vni } => Some(vni),
        }
    }
}

/// An opened tunnel.
pub(super) struct Inside {
    pub(super) tunnel: Tunnel,
    /// What begins at `at`.
    pub(super) next: Next,
    /// Bytes from the start of the frame.
    pub(super) at: u32,
    /// The inner packet was cut on the way in: it is longer than the outer one holds.
    pub(super) is_cut: bool,
}

/// Opens the tunnel that the packet of `headers` is; `None` where it is none.
pub(super) fn open(bytes: &[u8], headers: &Headers) -> Option<Result<Inside, Unparsed>> {
    match headers.protocol {
        protocol::IPV4 => Some(Ok(ip_in_ip(headers, 4))),
        protocol::IPV6 => Some(Ok(ip_in_ip(headers, 6))),
        protocol::GRE => open_gre(bytes, headers).transpose(),
        protocol::UDP => match headers.destination_port {
            port::VXLAN | port::VXLAN_LINUX => Some(open_vxlan(bytes, headers)),
            port::GENEVE => Some(open_geneve(bytes, headers)),
            _ => None,
        },
        _ => None,
    }
}

fn ip_in_ip(headers: &Headers, version: u8) -> Inside {
    Inside {
        tunnel: Tunnel::IpInIp,
        next: Next::Ip(version),
        at: headers.payload_offset,
        is_cut: headers.is_fragmented,
    }
}

fn window<const LENGTH: usize>(bytes: &[u8], at: u32) -> Result<&[u8], Unparsed> {
    bytes
        .window::<LENGTH>(at as usize)
        .ok_or(Unparsed::Truncated)
}

fn open_vxlan(bytes: &[u8], headers: &Headers) -> Result<Inside, Unparsed> {
    let vxlan = window::<8>(bytes, headers.payload_offset)?;
    // RFC 7348 section 5: the flag that says that the identifier counts must be set.
    if vxlan.u8(0) & 0x08 == 0 {
        return Err(Unparsed::BadEncapsulation);
    }
    Ok(Inside {
        tunnel: Tunnel::Vxlan {
            vni: vxlan.u32(4) >> 8,
        },
        next: Next::Ethernet,
        at: headers.payload_offset + 8,
        is_cut: headers.is_fragmented,
    })
}

fn open_geneve(bytes: &[u8], headers: &Headers) -> Result<Inside, Unparsed> {
    let geneve = window::<8>(bytes, headers.payload_offset)?;
    // RFC 8926 section 3.4: version 0, and the length of the options in words of four bytes.
    if geneve.u8(0) >> 6 != 0 {
        return Err(Unparsed::BadEncapsulation);
    }
    let option_length = u32::from(geneve.u8(0) & 0x3f) * 4;
    Ok(Inside {
        tunnel: Tunnel::Geneve {
            vni: geneve.u32(4) >> 8,
        },
        next: Next::EtherType(geneve.u16(2)),
        at: headers.payload_offset + 8 + option_length,
        is_cut: headers.is_fragmented,
    })
}

/// The flags of a GRE header (RFC 2784, RFC 2890, RFC 2637).
mod gre {
    pub(super) const CHECKSUM: u16 = 0x8000;
    pub(super) const ROUTING: u16 = 0x4000;
    pub(super) const KEY: u16 = 0x2000;
    pub(super) const SEQUENCE: u16 = 0x1000;
    pub(super) const ACKNOWLEDGEMENT: u16 = 0x0080;
    pub(super) const VERSION: u16 = 0x0007;
}

fn open_gre(bytes: &[u8], headers: &Headers) -> Result<Option<Inside>, Unparsed> {
    let header = window::<4>(bytes, headers.payload_offset)?;
    let (flags, kind) = (header.u16(0), header.u16(2));
    match (flags & gre::VERSION, kind) {
        // RFC 2784 section 2.3: a receiver drops what uses RFC 1701's source routes.
        (0, _) if flags & gre::ROUTING != 0 => Err(Unparsed::BadEncapsulation),
        (0, _) => open_gre_v0(bytes, headers, flags, kind).map(Some),
        (1, ether_type::PPP) => open_pptp(bytes, headers, flags),
        _ => Err(Unparsed::BadEncapsulation),
    }
}

fn open_gre_v0(bytes: &[u8], headers: &Headers, flags: u16, kind: u16) -> Result<Inside, Unparsed> {
    let mut at = headers.payload_offset + 4;
    if flags & gre::CHECKSUM != 0 {
        at += 4;
    }
    let mut key = None;
    if flags & gre::KEY != 0 {
        key = Some(window::<4>(bytes, at)?.u32(0));
        at += 4;
    }
    let is_numbered = flags & gre::SEQUENCE != 0;
    if is_numbered {
        at += 4;
    }
    let inside = Inside {
        tunnel: Tunnel::Gre { key },
        next: Next::EtherType(kind),
        at,
        is_cut: headers.is_fragmented,
    };
    match kind {
        // Version 1 of ERSPAN has no header of its own, and no sequence number.
        ether_type::ERSPAN if !is_numbered => Ok(Inside {
            tunnel: Tunnel::Erspan {
                version: 1,
                session: 0,
            },
            next: Next::Ethernet,
            ..inside
        }),
        ether_type::ERSPAN => open_erspan(bytes, inside, 2),
        ether_type::ERSPAN_III => open_erspan(bytes, inside, 3),
        _ => Ok(inside),
    }
}

/// ERSPAN's own header (draft-foschiano-erspan-03 section 4): 8 bytes in version 2; 12 in
/// version 3, and 8 more where its last bit says so.
fn open_erspan(bytes: &[u8], gre: Inside, version: u8) -> Result<Inside, Unparsed> {
    let word = window::<8>(bytes, gre.at)?.u32(0);
    let mut length = 8;
    let mut next = Next::Ethernet;
    if version == 3 {
        let tail = window::<12>(bytes, gre.at)?.u16(10);
        length = if tail & 1 == 1 { 20 } else { 12 };
        next = match tail >> 10 & 0x1f {
            0 => Next::Ethernet,
            2 => Next::Ip(0),
            _ => return Err(Unparsed::NotIp),
        };
    }
    Ok(Inside {
        tunnel: Tunnel::Erspan {
            version,
            session: (word & 0x3ff) as u16,
        },
        next,
        at: gre.at + length,
        is_cut: gre.is_cut || word & 0x400 != 0,
    })
}

/// GRE version 1 (RFC 2637 section 4.1): the key is a length and a call id. A packet without a
/// sequence number carries no payload.
fn open_pptp(bytes: &[u8], headers: &Headers, flags: u16) -> Result<Option<Inside>, Unparsed> {
    let call = window::<8>(bytes, headers.payload_offset)?.u16(6);
    if flags & gre::KEY == 0 {
        return Err(Unparsed::BadEncapsulation);
    }
    if flags & gre::SEQUENCE == 0 {
        return Ok(None);
    }
    let acknowledgement = if flags & gre::ACKNOWLEDGEMENT == 0 {
        0
    } else {
        4
    };
    Ok(Some(Inside {
        tunnel: Tunnel::Pptp { call },
        next: Next::Ppp,
        at: headers.payload_offset + 12 + acknowledgement,
        is_cut: headers.is_fragmented,
    }))
}
