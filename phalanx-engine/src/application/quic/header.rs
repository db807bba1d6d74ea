//! Long headers (RFC 9000 section 17.2, RFC 9369 section 3.2).

use crate::application::bytes::Reader;

/// Bits of the first byte.
pub(super) const LONG: u8 = 0x80;
pub(super) const SPIN: u8 = 0x20;
pub(super) const FIXED: u8 = 0x40;

/// The longest connection id of the versions that are known.
const ID_LENGTH_MAX: u8 = 20;

/// A version by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuicVersion(pub u32);

impl QuicVersion {
    const NEGOTIATION: Self = Self(0);
    const V2: Self = Self(0x6b33_43cf);

    /// The name of a version that was published; [`Self::draft`] has the others.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "QUIC 1",
            0x6b33_43cf => "QUIC 2",
            0xface_b001 | 0xface_b002 => "mvfst",
            0x5130_3530 => "Google QUIC 50",
            0x5430_3530 | 0x5430_3531 => "Google QUIC with TLS",
            _ => return None,
        })
    }

    /// The number of the draft that a version is of.
    #[must_use]
    pub const fn draft(self) -> Option<u8> {
        let [0xff, 0, 0, number] = self.0.to_be_bytes() else {
            return None;
        };
        Some(number)
    }

    /// Whether its long headers are known to be those of version 1 or 2.
    pub(super) const fn is_known(self) -> bool {
        match self.draft() {
            // Until draft 21 both lengths of ids shared one byte; 34 was the last.
            Some(number) => number >= 22 && number <= 34,
            None => self.name().is_some(),
        }
    }
}

/// What a packet with a long header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Initial,
    EarlyData,
    Handshake,
    Retry,
    VersionNegotiation,
    /// Of a version whose kinds are not known.
    Unknown,
}

/// A long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Long {
    pub(super) kind: Kind,
    pub(super) version: QuicVersion,
    pub(super) destination_id_length: u8,
    pub(super) source_id_length: u8,
    /// Length of the packet where it may be followed by another in its datagram.
    pub(super) length: Option<u32>,
}

impl Long {
    /// Reads the header that begins a packet; `length` bytes of the datagram are left on the wire.
    pub(super) fn parse(bytes: &[u8], length: u32) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8()?;
        let version = QuicVersion(reader.u32()?);
        let is_fixed = first & FIXED != 0 || version == QuicVersion::NEGOTIATION;
        if first & LONG == 0 || !is_fixed {
            return None;
        }
        let destination_id_length = id(&mut reader)?;
        let source_id_length = id(&mut reader)?;
        let kind = kind(first, version);
        let mut long = Self {
            kind,
            version,
            destination_id_length,
            source_id_length,
            length: None,
        };
        if !matches!(kind, Kind::Initial | Kind::EarlyData | Kind::Handshake) {
            return Some(long);
        }
        if kind == Kind::Initial {
            let token_length = varint(&mut reader)?;
            reader.take(usize::try_from(token_length).ok()?)?;
        }
        let body = varint(&mut reader)?;
        let header = bytes.len() - reader.left().len();
        let whole = u32::try_from(body.saturating_add(header as u64)).ok()?;
        // A packet is never longer than its datagram.
        long.length = Some(whole).filter(|whole| *whole <= length);
        long.length.map(|_| long)
    }

    /// The versions that a Version Negotiation packet names.
    pub(super) fn versions<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = QuicVersion> + 'a {
        let ids = usize::from(self.destination_id_length) + usize::from(self.source_id_length);
        let words = bytes.get(7 + ids..).unwrap_or_default().chunks_exact(4);
        words.filter_map(|word| Some(QuicVersion(u32::from_be_bytes(word.try_into().ok()?))))
    }
}

fn kind(first: u8, version: QuicVersion) -> Kind {
    let bits = (first >> 4) & 3;
    if version == QuicVersion::NEGOTIATION {
        return Kind::VersionNegotiation;
    }
    if !version.is_known() {
        return Kind::Unknown;
    }
    // Version 2 counts its kinds from another one (RFC 9369 section 3.2).
    let shift = u8::from(version == QuicVersion::V2);
    match bits.wrapping_sub(shift) & 3 {
        0 => Kind::Initial,
        1 => Kind::EarlyData,
        2 => Kind::Handshake,
        _ => Kind::Retry,
    }
}

/// Passes over a connection id; its length.
fn id(reader: &mut Reader<'_>) -> Option<u8> {
    let length = reader.u8().filter(|length| *length <= ID_LENGTH_MAX)?;
    reader.take(length.into())?;
    Some(length)
}

/// A number of variable length (RFC 9000 section 16).
fn varint(reader: &mut Reader<'_>) -> Option<u64> {
    let first = reader.u8()?;
    let more = (1_usize << (first >> 6)) - 1;
    let rest = reader.take(more)?;
    let start = u64::from(first & 0x3f);
    Some(
        rest.iter()
            .fold(start, |number, byte| number << 8 | u64::from(*byte)),
    )
}
