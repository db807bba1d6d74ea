//! What is pushed into the kernel never loses a frame that the expression matches.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/expression.rs"]
mod expression;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use corpus::Frame;
use expression::{CONSTRUCTS, Generator};
use phalanx_engine::filter::{
    Decision, FLOW_FILTER_COUNT_MAX, Filter, FlowFilter, LinkType, Program, Pushdown,
};
use proptest::prelude::*;

/// Protocol and both ends of the outermost IP header.
type Key = (u8, (IpAddr, u16), (IpAddr, u16));

static FRAMES: LazyLock<Vec<(Frame, Key)>> = LazyLock::new(|| {
    let mut corpus = corpus::made_here();
    if let Some(folder) = corpus::shared_captures().filter(|_| corpus::has_tcpdump()) {
        let (shared, _) = corpus::read_folder(&folder);
        let frames = shared[&LinkType::Ethernet].iter().step_by(7).cloned();
        corpus.entry(LinkType::Ethernet).or_default().extend(frames);
    }
    let frames = corpus.remove(&LinkType::Ethernet).expect("Ethernet frames");
    frames
        .into_iter()
        .filter_map(|frame| Some((frame.clone(), key(&frame.bytes)?)))
        .collect()
});

/// The key the kernel would file an Ethernet frame under.
fn key(bytes: &[u8]) -> Option<Key> {
    let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let mut at = 12;
    while [0x8100, 0x88a8, 0x9100].contains(&half(at)?) {
        at += 4;
    }
    let (network, ether_type) = (at + 2, half(at)?);
    let byte = |at: usize| bytes.get(network + at).copied();
    let (protocol, transport, first, ends): (u8, usize, bool, [IpAddr; 2]) = match ether_type {
        0x0800 if byte(0)? >> 4 == 4 => {
            let address = |at: usize| {
                let octets = bytes.get(network + at..network + at + 4)?;
                Some(IpAddr::V4(Ipv4Addr::from(
                    <[u8; 4]>::try_from(octets).ok()?,
                )))
            };
            let header = usize::from(byte(0)? & 0xf) * 4;
            let first = half(network + 6)? & 0x1fff == 0;
            (
                byte(9)?,
                network + header,
                first,
                [address(12)?, address(16)?],
            )
        }
        0x86dd if byte(0)? >> 4 == 6 => {
            let address = |at: usize| {
                let octets = bytes.get(network + at..network + at + 16)?;
                Some(IpAddr::V6(Ipv6Addr::from(
                    <[u8; 16]>::try_from(octets).ok()?,
                )))
            };
            let (mut next, mut at, mut first) = (byte(6)?, 40, true);
            while [0, 43, 44, 60].contains(&next) && first {
                if next == 44 {
                    first = half(network + at + 2)? & 0xfff8 == 0;
                }
                let length = if next == 44 {
                    8
                } else {
                    usize::from(byte(at + 1)?) * 8 + 8
                };
                next = byte(at)?;
                at += length;
            }
            (next, network + at, first, [address(8)?, address(24)?])
        }
        _ => return None,
    };
    let ported = first && [6, 17, 132].contains(&protocol);
    let port = |at| {
        if ported {
            half(transport + at)
        } else {
            Some(0)
        }
    };
    Some((protocol, (ends[0], port(0)?), (ends[1], port(2)?)))
}

fn lost(program: &Program, pushdown: &Pushdown) -> Option<&'static (Frame, Key)> {
    FRAMES.iter().find(|(frame, (protocol, one, other))| {
        let fits = |filter: &FlowFilter| filter.contains(*protocol, *one, *other);
        program.matches(&frame.bytes, frame.wire_length) && !pushdown.filters.iter().any(fits)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_matching_frame_is_lost(seed in any::<u64>(), main in 0..CONSTRUCTS.len()) {
        static CORPUS: LazyLock<Vec<Frame>> =
            LazyLock::new(|| FRAMES.iter().map(|(frame, _)| frame.clone()).collect());
        let text = Generator::new(&CORPUS[..2000], seed).sample(CONSTRUCTS[main]).text;
        let filter = Filter::parse(&text).unwrap();
        let program = filter.compile(LinkType::Ethernet).unwrap();
        let pushdown = filter.pushdown();
        prop_assert!(pushdown.filters.len() <= FLOW_FILTER_COUNT_MAX);
        prop_assert_eq!(lost(&program, &pushdown), None, "{}: {}", text, pushdown.explain());
    }
}

#[test]
fn parts_are_said_to_go_where_they_go() {
    for (text, explanation) in [
        (
            "tcp port 443 and host 10.0.0.1",
            "in the kernel: tcp over ipv4 10.0.0.1 port 443 <-> * | \
             tcp over ipv4 * port 443 <-> 10.0.0.1; \
             on the records: nothing that the kernel has not checked",
        ),
        (
            "src net 10.0.0.0/8 and tcp[tcpflags] & tcp-syn != 0",
            "in the kernel: tcp over ipv4 10.0.0.0/8 <-> *; \
             on the records: src net 10.0.0.0/8 and tcp[13] & 2 != 0",
        ),
        (
            "not tcp",
            "in the kernel: all flows; on the records: not tcp",
        ),
        (
            "less 100",
            "in the kernel: all flows; on the records: less 100",
        ),
        (
            "",
            "in the kernel: all flows; on the records: nothing that the kernel has not checked",
        ),
        (
            "vlan 5 and udp and host 10.0.0.1",
            "in the kernel: udp over ipv4 10.0.0.1 <-> *; on the records: vlan 5",
        ),
    ] {
        let explained = Filter::parse(text).unwrap().pushdown().explain();
        assert_eq!(explained, explanation, "{text}");
    }
}

#[test]
fn what_the_kernel_checks_in_full_needs_no_records() {
    let mut compared = 0;
    for text in [
        "tcp",
        "ip6",
        "host 10.1.0.1",
        "net 10.2.0.0/16 or net 2001:db8:1::/48",
        "port 80 or 443",
        "udp portrange 50-60 and ip",
        "host 10.1.0.1 and host 10.2.0.2 and tcp port 443",
        "ip proto 1 or icmp6",
        "(udp port 53 or tcp port 80) and net 10.0.0.0/8",
        "ether proto 0x0800",
    ] {
        let filter = Filter::parse(text).unwrap();
        let program = filter.compile(LinkType::Ethernet).unwrap();
        let pushdown = filter.pushdown();
        assert_eq!(pushdown.residual, None, "{text}");
        for (frame, (protocol, one, other)) in FRAMES.iter() {
            let fits = |filter: &FlowFilter| filter.contains(*protocol, *one, *other);
            // Untagged, without IPv6 extension headers: there libpcap sees what the kernel sees.
            let plain = match (&frame.bytes[12..14], frame.bytes.get(20)) {
                ([8, 0], _) => true,
                ([0x86, 0xdd], Some(next)) => next == protocol,
                _ => false,
            };
            let decision = program.decide(&frame.bytes, frame.wire_length);
            if plain && decision != Decision::Undecided {
                compared += 1;
                let recorded = pushdown.filters.iter().any(fits);
                assert_eq!(
                    recorded,
                    decision == Decision::Match,
                    "{text}: {:02x?}",
                    frame.bytes
                );
            }
        }
    }
    assert!(compared > 10_000, "{compared}");
}

#[test]
fn frames_without_ip_are_never_recorded() {
    for text in [
        "arp",
        "arp host 10.0.0.1",
        "rarp or ether proto 0x0806",
        "tcp and udp",
    ] {
        let pushdown = Filter::parse(text).unwrap().pushdown();
        assert!(!pushdown.matches_ip(), "{text}");
        assert!(
            pushdown.explain().contains("no IP packet"),
            "{}",
            pushdown.explain()
        );
    }
    assert!(Filter::parse("arp or tcp").unwrap().pushdown().matches_ip());
}

#[test]
fn too_many_filters_become_one_that_everything_fits() {
    let many = |count: usize| {
        let hosts: Vec<_> = (0..count)
            .map(|n| format!("10.0.{}.{}", n / 250, n % 250))
            .collect();
        Filter::parse(&format!("host {}", hosts.join(" or ")))
            .unwrap()
            .pushdown()
    };
    assert_eq!(many(64).filters.len(), 64);
    assert_eq!(many(64).residual, None);
    assert_eq!(many(65).filters, [FlowFilter::EVERYTHING]);
    assert!(many(65).residual.is_some());
    assert_eq!(many(200).filters, [FlowFilter::EVERYTHING]);
}
