//! Messages of ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`): a connection is asked for by a
//! tuple, and told with both of its tuples. Ports and addresses are big-endian.

use std::net::IpAddr;

use phalanx_engine::{Endpoint, Sides, Translation};

use crate::netlink::{attributes, push_attribute};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
pub(super) const GET: u16 = 0x0101;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: what answers it.
pub(super) const NEW: u16 = 0x0100;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Length of `struct nfgenmsg`: family, version, resource.
const HEADER_SIZE: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    /// IANA protocol number, of one with ports.
    pub(super) protocol: u8,
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
}

/// The body of the message that asks for the connection with a tuple in either direction; none
/// where the addresses are of two families.
pub(super) fn question(tuple: &Tuple) -> Option<Vec<u8>> {
    let mut ip = Vec::new();
    let family = match (tuple.source.address, tuple.destination.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            push_attribute(&mut ip, CTA_IP_V4_SRC, &source.octets());
            push_attribute(&mut ip, CTA_IP_V4_DST, &destination.octets());
            AF_INET
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            push_attribute(&mut ip, CTA_IP_V6_SRC, &source.octets());
            push_attribute(&mut ip, CTA_IP_V6_DST, &destination.octets());
            AF_INET6
        }
        _ => return None,
    };
    let mut ports = Vec::new();
    push_attribute(&mut ports, CTA_PROTO_NUM, &[tuple.protocol]);
    let [source, destination] = [tuple.source, tuple.destination].map(|it| it.port.to_be_bytes());
    push_attribute(&mut ports, CTA_PROTO_SRC_PORT, &source);
    push_attribute(&mut ports, CTA_PROTO_DST_PORT, &destination);
    let mut whole = Vec::new();
    push_attribute(&mut whole, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
    push_attribute(&mut whole, CTA_TUPLE_PROTO | NLA_F_NESTED, &ports);
    let mut body = vec![family, 0, 0, 0];
    push_attribute(&mut body, CTA_TUPLE_ORIG | NLA_F_NESTED, &whole);
    Some(body)
}

/// The connection of an answer; none where it lacks a tuple, or has one of a protocol without
/// ports.
pub(super) fn connection(body: &[u8]) -> Option<Translation> {
    let mut tuples = [None; 2];
    for (kind, value) in attributes(body.get(HEADER_SIZE..)?) {
        match kind {
            CTA_TUPLE_ORIG => tuples[0] = tuple(value),
            CTA_TUPLE_REPLY => tuples[1] = tuple(value),
            _ => {}
        }
    }
    let [original, reply] = [tuples[0]?, tuples[1]?];
    (original.protocol == reply.protocol).then_some(Translation {
        protocol: original.protocol,
        inside: Sides {
            client: original.source,
            server: original.destination,
        },
        outside: Sides {
            client: reply.destination,
            server: reply.source,
        },
    })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut addresses, mut ports, mut protocol) = ([None; 2], [None; 2], None);
    for (kind, value) in attributes(bytes) {
        match kind {
            CTA_TUPLE_IP => {
                for (kind, value) in attributes(value) {
                    match kind {
                        CTA_IP_V4_SRC | CTA_IP_V6_SRC => addresses[0] = address(kind, value),
                        CTA_IP_V4_DST | CTA_IP_V6_DST => addresses[1] = address(kind, value),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for (kind, value) in attributes(value) {
                    let port = || <[u8; 2]>::try_from(value).map(u16::from_be_bytes).ok();
                    match kind {
                        CTA_PROTO_NUM => protocol = value.first().copied(),
                        CTA_PROTO_SRC_PORT => ports[0] = port(),
                        CTA_PROTO_DST_PORT => ports[1] = port(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let end = |at: usize| {
        Some(Endpoint {
            address: addresses[at]?,
            port: ports[at]?,
        })
    };
    Some(Tuple {
        protocol: protocol?,
        source: end(0)?,
        destination: end(1)?,
    })
}

fn address(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        CTA_IP_V4_SRC | CTA_IP_V4_DST => <[u8; 4]>::try_from(value).map(IpAddr::from).ok(),
        _ => <[u8; 16]>::try_from(value).map(IpAddr::from).ok(),
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
