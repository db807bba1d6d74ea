//! ClientHello and ServerHello (RFC 8446 section 4.1), read as far as they go.

use super::record::TlsVersion;
use crate::application::bytes::Reader;
use crate::application::text::printable;
use crate::limits::{TLS_ALPN_LENGTH_MAX, TLS_SERVER_NAME_LENGTH_MAX};

/// Numbers of extensions.
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const ALPN: u16 = 16;
    pub(super) const PRE_SHARED_KEY: u16 = 41;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
}

/// The random of a ServerHello that is a HelloRetryRequest: the SHA-256 of that word (RFC 8446
/// section 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    Client(ClientHello),
    Server(ServerHello),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientHello {
    pub(super) version: TlsVersion,
    pub(super) session_id: Box<[u8]>,
    pub(super) server_name: Option<Box<str>>,
    pub(super) alpn: Option<Box<str>>,
    pub(super) is_cut: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerHello {
    pub(super) version: TlsVersion,
    pub(super) session_id: Box<[u8]>,
    pub(super) cipher_suite: u16,
    pub(super) alpn: Option<Box<str>>,
    pub(super) has_pre_shared_key: bool,
    pub(super) is_retry_request: bool,
    pub(super) is_cut: bool,
}

/// Reads a handshake message of which the end may be missing.
pub(super) fn parse(message: &[u8]) -> Option<Hello> {
    let mut reader = Reader::new(message);
    let kind = reader.u8()?;
    let [high, middle, low] = *reader.take(3)?.first_chunk()?;
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    let is_cut = reader.left().len() < length;
    let reader = Reader::new(reader.take_some(length));
    match kind {
        1 => client(reader, is_cut).map(Hello::Client),
        2 => server(reader, is_cut).map(Hello::Server),
        _ => None,
    }
}

fn client(mut reader: Reader<'_>, is_cut: bool) -> Option<ClientHello> {
    let legacy_version = TlsVersion(reader.u16()?);
    reader.take(32)?;
    let session_id = vector_u8(&mut reader)?.into();
    let mut hello = ClientHello {
        version: legacy_version,
        session_id,
        server_name: None,
        alpn: None,
        is_cut,
    };
    // What follows may be missing: then the hello tells what it has told so far.
    let suites = vector_u16(&mut reader);
    let compressions = vector_u8(&mut reader);
    if suites.is_none() || compressions.is_none() {
        return Some(hello);
    }
    for (number, body) in extensions(reader) {
        match number {
            extension::SERVER_NAME => hello.server_name = server_name(body),
            extension::ALPN => hello.alpn = alpn(body),
            extension::SUPPORTED_VERSIONS => {
                hello.version = highest_version(body).unwrap_or(legacy_version);
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server(mut reader: Reader<'_>, is_cut: bool) -> Option<ServerHello> {
    let legacy_version = TlsVersion(reader.u16()?);
    let random = reader.take(32)?;
    let session_id = vector_u8(&mut reader)?.into();
    let mut hello = ServerHello {
        version: legacy_version,
        session_id,
        cipher_suite: reader.u16()?,
        alpn: None,
        has_pre_shared_key: false,
        is_retry_request: random == RETRY_RANDOM,
        is_cut,
    };
    if reader.u8().is_none() {
        return Some(hello);
    }
    for (number, body) in extensions(reader) {
        match number {
            extension::ALPN => hello.alpn = alpn(body),
            extension::PRE_SHARED_KEY => hello.has_pre_shared_key = true,
            extension::SUPPORTED_VERSIONS => {
                hello.version = Reader::new(body).u16().map_or(legacy_version, TlsVersion);
            }
            _ => {}
        }
    }
    Some(hello)
}

/// The bytes of a vector whose length is one byte.
fn vector_u8<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = reader.u8()?;
    reader.take(length.into())
}

/// The bytes of a vector whose length is two bytes.
fn vector_u16<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = reader.u16()?;
    reader.take(length.into())
}

/// The extensions that are there in full: number and body.
fn extensions(mut reader: Reader<'_>) -> impl Iterator<Item = (u16, &[u8])> {
    let length = reader.u16().unwrap_or(0);
    let mut reader = Reader::new(reader.take_some(length.into()));
    std::iter::from_fn(move || {
        let number = reader.u16()?;
        Some((number, vector_u16(&mut reader)?))
    })
}

/// The host name (RFC 6066 section 3).
fn server_name(body: &[u8]) -> Option<Box<str>> {
    let mut list = Reader::new(vector_u16(&mut Reader::new(body))?);
    loop {
        let kind = list.u8()?;
        let name = vector_u16(&mut list)?;
        if kind == 0 {
            return Some(printable(name, TLS_SERVER_NAME_LENGTH_MAX));
        }
    }
}

/// The first protocol of a list (RFC 7301 section 3.1), invented ones aside.
fn alpn(body: &[u8]) -> Option<Box<str>> {
    let mut list = Reader::new(vector_u16(&mut Reader::new(body))?);
    loop {
        let name = vector_u8(&mut list)?;
        let is_invented =
            matches!(*name, [high, low] if is_grease(u16::from_be_bytes([high, low])));
        if !is_invented {
            return Some(printable(name, TLS_ALPN_LENGTH_MAX));
        }
    }
}

fn highest_version(body: &[u8]) -> Option<TlsVersion> {
    let list = vector_u8(&mut Reader::new(body))?;
    list.chunks_exact(2)
        .filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)))
        .filter(|version| !is_grease(*version))
        .max()
        .map(TlsVersion)
}

/// Whether a number is one that clients send to keep servers from choking on it (RFC 8701).
const fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}
