//! The full profile over one frame of each kind of encapsulation.

#[path = "support/invariant.rs"]
mod invariant;
#[path = "support/tunnels.rs"]
mod tunnels;

use std::collections::BTreeMap;

use phalanx_common::limits::{LAYER_COUNT_MAX, LINK_STEP_COUNT_MAX};
use phalanx_common::packet::{
    Layers, LinkKind, Tunnel, Unparsed, parse, parse_layers, parse_tcp_options,
};
use tunnels::{
    ethernet, geneve, gre, inner_ipv4, join, mpls, outer_ipv4, outer_udp, pppoe, radiotap, snap,
    vxlan, wireless,
};

fn layers_of(frame: &[u8]) -> Result<Layers, Unparsed> {
    parse_layers(frame, LinkKind::Ethernet, frame.len() as u32)
}

fn last_octets(words: [u64; 2]) -> [u8; 4] {
    let octets = words[1].to_ne_bytes();
    [octets[4], octets[5], octets[6], octets[7]]
}

/// What [`parse_layers`] finds in each frame of [`tunnels::all`]: name, tunnels, innermost VLAN,
/// MPLS label, PPPoE session.
type Expected = (
    &'static str,
    &'static [Tunnel],
    u16,
    Option<u32>,
    Option<u16>,
);

const NONE: Tunnel = Tunnel::None;

const EXPECTED: [Expected; 44] = [
    ("ethernet", &[NONE], 0, None, None),
    ("ethernet_ipv6", &[NONE], 0, None, None),
    ("vlan_1", &[NONE], 20, None, None),
    ("vlan_2", &[NONE], 20, None, None),
    ("vlan_5", &[NONE], 20, None, None),
    ("raw", &[NONE], 0, None, None),
    ("null", &[NONE], 0, None, None),
    ("loop_ipv6", &[NONE], 0, None, None),
    ("cooked", &[NONE], 0, None, None),
    ("cooked_v2_vlan", &[NONE], 7, None, None),
    ("ppp", &[NONE], 0, None, None),
    ("ppp_short", &[NONE], 0, None, None),
    ("cisco_hdlc", &[NONE], 0, None, None),
    ("wireless", &[NONE], 0, None, None),
    ("wireless_four_addresses", &[NONE], 0, None, None),
    ("wireless_aggregate", &[NONE], 0, None, None),
    ("radiotap", &[NONE], 0, None, None),
    ("radiotap_padded", &[NONE], 0, None, None),
    ("prism", &[NONE], 0, None, None),
    ("avs", &[NONE], 0, None, None),
    ("ppi", &[NONE], 0, None, None),
    ("ppi_ethernet", &[NONE], 0, None, None),
    ("pppoe_bare", &[NONE], 0, None, Some(9)),
    ("pppoe", &[NONE], 0, None, Some(0x1234)),
    ("mpls", &[NONE], 0, Some(300), None),
    ("mpls_ipv6", &[NONE], 0, Some(2), None),
    ("mpls_ethernet", &[NONE], 0, Some(77), None),
    ("mpls_control", &[NONE], 7, Some(77), None),
    ("ip_in_ip", &[NONE, Tunnel::IpInIp], 0, None, None),
    ("6in4", &[NONE, Tunnel::IpInIp], 0, None, None),
    ("gre", &[NONE, Tunnel::Gre { key: None }], 0, None, None),
    (
        "gre_all",
        &[NONE, Tunnel::Gre { key: Some(0xabcd) }],
        0,
        None,
        None,
    ),
    (
        "nvgre",
        &[
            NONE,
            Tunnel::Gre {
                key: Some(0x0012_3401),
            },
        ],
        0,
        None,
        None,
    ),
    (
        "gre_mpls",
        &[NONE, Tunnel::Gre { key: None }],
        0,
        Some(55),
        None,
    ),
    (
        "erspan_1",
        &[
            NONE,
            Tunnel::Erspan {
                version: 1,
                session: 0,
            },
        ],
        0,
        None,
        None,
    ),
    (
        "erspan_2",
        &[
            NONE,
            Tunnel::Erspan {
                version: 2,
                session: 42,
            },
        ],
        0,
        None,
        None,
    ),
    (
        "erspan_3",
        &[
            NONE,
            Tunnel::Erspan {
                version: 3,
                session: 42,
            },
        ],
        0,
        None,
        None,
    ),
    (
        "erspan_3_long",
        &[
            NONE,
            Tunnel::Erspan {
                version: 3,
                session: 42,
            },
        ],
        0,
        None,
        None,
    ),
    (
        "vxlan",
        &[NONE, Tunnel::Vxlan { vni: 0x00ab_cdef }],
        7,
        None,
        None,
    ),
    (
        "vxlan_linux",
        &[NONE, Tunnel::Vxlan { vni: 42 }],
        0,
        None,
        None,
    ),
    ("geneve", &[NONE, Tunnel::Geneve { vni: 99 }], 0, None, None),
    (
        "geneve_ip",
        &[NONE, Tunnel::Geneve { vni: 99 }],
        0,
        None,
        None,
    ),
    (
        "deep",
        &[
            NONE,
            Tunnel::Vxlan { vni: 1 },
            Tunnel::Geneve { vni: 2 },
            Tunnel::IpInIp,
        ],
        0,
        None,
        None,
    ),
    (
        "pptp",
        &[NONE, Tunnel::Pptp { call: 0x0777 }],
        0,
        None,
        None,
    ),
];

#[test]
fn every_encapsulation_leads_to_the_inner_packet() {
    let mut expected: BTreeMap<_, _> = EXPECTED.iter().map(|it| (it.0, it)).collect();
    for (name, linktype, frame) in tunnels::all() {
        let kind = LinkKind::from_linktype(linktype).expect("a link type that is known");
        let (_, layers) = invariant::check(&frame, kind, frame.len() as u32);
        let layers = layers.unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        let (_, tunnels, vlan, label, session) = *expected
            .remove(name)
            .unwrap_or_else(|| panic!("{name} is not expected"));
        let found: Vec<_> = layers
            .iter()
            .map(|layer| layer.encapsulation.tunnel)
            .collect();
        assert_eq!(found, tunnels, "{name}");
        let innermost = layers.innermost();
        let headers = innermost.headers;
        assert_eq!(headers.vlan, vlan, "{name}");
        assert_eq!(innermost.encapsulation.mpls_label, label, "{name}");
        assert_eq!(innermost.encapsulation.pppoe_session, session, "{name}");
        assert_eq!(layers.stopped(), None, "{name}");
        // Both keys: the outer addresses and the inner ones.
        if tunnels.len() > 1 {
            assert_eq!(
                last_octets(layers.outermost().headers.source),
                tunnels::OUTER.0
            );
        }
        if headers.version == 4 {
            assert_eq!(last_octets(headers.source), tunnels::INNER.0, "{name}");
            let start = headers.transport_offset + 20;
            let options = parse_tcp_options(frame.as_slice(), start, headers.payload_offset);
            assert_eq!((options.mss, options.window_scale_plus_one), (1400, 9));
        }
        assert_eq!(
            (headers.source_port, headers.destination_port),
            (40000, 443),
            "{name}"
        );
        assert_eq!(
            (headers.sequence, headers.payload_length),
            (0x0102_0304, 5),
            "{name}"
        );
        let at = headers.payload_offset as usize;
        assert_eq!(&frame[at..at + 5], b"hello", "{name}");
    }
    assert!(expected.is_empty(), "not built: {expected:?}");
}

#[test]
fn nesting_beyond_the_bounds_is_told() {
    let mut packet = inner_ipv4();
    for _ in 0..LAYER_COUNT_MAX {
        packet = outer_ipv4(4, &packet);
    }
    let layers = layers_of(&ethernet(0x0800, &packet)).expect("the outer layers");
    assert_eq!(layers.count(), LAYER_COUNT_MAX);
    assert_eq!(layers.stopped(), Some(Unparsed::NestingTooDeep));

    let labels = vec![100; LINK_STEP_COUNT_MAX + 1];
    let frame = ethernet(0x8847, &mpls(&labels, &inner_ipv4()));
    assert_eq!(layers_of(&frame), Err(Unparsed::NestingTooDeep));
}

#[test]
fn what_stops_the_parser_inside_a_tunnel_is_told() {
    let stopped = |packet: &[u8]| {
        let layers = layers_of(&ethernet(0x0800, packet)).expect("the outer layer");
        assert_eq!(layers.count(), 1);
        assert_eq!(layers.innermost(), layers.outermost());
        layers.stopped()
    };
    let arp = ethernet(0x0806, &[0; 28]);
    assert_eq!(
        stopped(&outer_udp(4789, &vxlan(1, &arp))),
        Some(Unparsed::NotIp)
    );
    let mut no_vni = vxlan(1, &ethernet(0x0800, &inner_ipv4()));
    no_vni[0] = 0;
    assert_eq!(
        stopped(&outer_udp(4789, &no_vni)),
        Some(Unparsed::BadEncapsulation)
    );
    let mut version_1 = geneve(1, 0, 0x0800, &inner_ipv4());
    version_1[0] = 0x40;
    assert_eq!(
        stopped(&outer_udp(6081, &version_1)),
        Some(Unparsed::BadEncapsulation)
    );
    let routed = gre(0x4000, 0x0800, &[0, 0], &inner_ipv4());
    assert_eq!(
        stopped(&outer_ipv4(47, &routed)),
        Some(Unparsed::BadEncapsulation)
    );
    let cut = gre(0x2000, 0x0800, &[], &[]);
    assert_eq!(stopped(&outer_ipv4(47, &cut)), Some(Unparsed::Truncated));
    // An acknowledgement alone (no sequence number) is a whole PPTP packet.
    let acknowledgement = gre(0x2081, 0x880b, &[0x0777, 9], &[]);
    assert_eq!(stopped(&outer_ipv4(47, &acknowledgement)), None);
    // Another port, no tunnel.
    assert_eq!(stopped(&outer_udp(4788, &vxlan(1, &arp))), None);
}

#[test]
fn a_tunnel_in_a_first_fragment_keeps_the_inner_length() {
    let inside = vxlan(5, &ethernet(0x0800, &inner_ipv4()));
    let mut packet = outer_udp(4789, &inside);
    packet.truncate(packet.len() - 3);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[6] = 0x20;
    let layers = layers_of(&ethernet(0x0800, &packet)).expect("a first fragment");
    assert!(layers.outermost().headers.is_fragmented);
    assert_eq!(layers.innermost().headers.payload_length, 5);
    // A later fragment has neither ports nor anything inside.
    packet[7] = 1;
    assert_eq!(
        layers_of(&ethernet(0x0800, &packet)),
        Err(Unparsed::NonFirstFragment)
    );
}

#[test]
fn the_length_of_pppoe_ends_the_packet() {
    let mut session = pppoe(1, 0x21, &inner_ipv4());
    let length = u16::from_be_bytes([session[4], session[5]]) - 3;
    session[4..6].copy_from_slice(&length.to_be_bytes());
    let layers = layers_of(&ethernet(0x8864, &session)).expect("a PPPoE session");
    assert_eq!(layers.innermost().headers.payload_length, 2);
}

#[test]
fn ieee_802_2_is_followed_through_snap() {
    let packet = inner_ipv4();
    let llc = [0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0];
    let frame = ethernet(packet.len() as u16 + 8, &join(&[&llc, &packet]));
    assert_eq!(
        parse(frame.as_slice(), LinkKind::Ethernet, 200),
        Err(Unparsed::NotIp)
    );
    let layers = layers_of(&frame).expect("IP behind SNAP");
    assert_eq!(layers.innermost().headers.destination_port, 443);
    // Spanning tree has another service access point.
    assert_eq!(layers_of(&ethernet(38, &[0x42; 60])), Err(Unparsed::NotIp));
}

#[test]
fn wireless_frames_without_ip_are_told_why() {
    let layers = |linktype: u32, frame: &[u8]| {
        let kind = LinkKind::from_linktype(linktype).expect("a link type that is known");
        invariant::check(frame, kind, frame.len() as u32).1
    };
    let payload = snap(0x0800, &inner_ipv4());
    let wifi = |control, more: &[u8]| layers(105, &wireless(control, more, &payload));
    assert!(wifi([0x08, 0x01], &[]).is_ok());
    // A beacon, a control frame, a frame of another version, no data, QoS without data.
    for kind in [0x80, 0xd4, 0x09, 0x48, 0xc8] {
        assert_eq!(wifi([kind, 0x01], &[0; 2]), Err(Unparsed::NotIp));
    }
    assert_eq!(wifi([0x08, 0x41], &[]), Err(Unparsed::NotIp), "encrypted");
    let mut later = wireless([0x08, 1], &[], &payload);
    later[22] |= 1;
    assert_eq!(layers(105, &later), Err(Unparsed::NonFirstFragment));
    for length in [0, 1, 10, 23, 25, 31] {
        let cut = &wireless([0x88, 1], &[0; 2], &payload)[..length];
        assert_eq!(layers(105, cut), Err(Unparsed::Truncated), "{length} bytes");
    }
    let mut short = radiotap(0, &wireless([0x08, 1], &[], &payload));
    short[2] = 7;
    assert_eq!(layers(127, &short), Err(Unparsed::BadEncapsulation));
    let prism = |length: u32| layers(119, &join(&[&[0; 4], &length.to_be_bytes(), &[0; 200]]));
    assert_eq!(prism(7), Err(Unparsed::BadEncapsulation));
    assert_eq!(prism(0x1010_1010), Err(Unparsed::BadEncapsulation));
    let ppi = |length: u8, linktype: u8| {
        layers(
            192,
            &join(&[&[0, 0, length, 0, linktype, 0, 0, 0], &[0; 64]]),
        )
    };
    assert_eq!(ppi(7, 1), Err(Unparsed::BadEncapsulation));
    assert_eq!(ppi(8, 147), Err(Unparsed::UnknownLink));
    assert_eq!(ppi(8, 1), Err(Unparsed::NotIp));
}

#[test]
fn the_innermost_layer_gives_the_packet_it_quotes() {
    let quoted = &inner_ipv4()[..28];
    let mut error = Vec::new();
    etherparse::PacketBuilder::ipv4([10, 1, 0, 254], tunnels::INNER.0, 64)
        .icmpv4_raw(11, 0, [0; 4])
        .write(&mut error, quoted)
        .expect("an ICMP error");
    let frame = ethernet(
        0x0800,
        &outer_udp(4789, &vxlan(5, &ethernet(0x0800, &error))),
    );
    let layers = layers_of(&frame).expect("an error in a tunnel");
    let quote = layers.quote(&frame).expect("an error").expect("a quote");
    assert_eq!((quote.source_port, quote.destination_port), (40000, 443));
    assert_eq!(quote.sequence, 0x0102_0304);
    let no_error = ethernet(0x0800, &inner_ipv4());
    assert!(
        layers_of(&no_error)
            .expect("TCP")
            .quote(&no_error)
            .is_none()
    );
}

#[test]
fn names_and_numbers_of_reasons_agree() {
    for (index, reason) in Unparsed::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
        let others = Unparsed::ALL.into_iter().filter(|other| *other != reason);
        assert!(others.map(Unparsed::name).all(|name| name != reason.name()));
    }
}

#[test]
fn tunnels_give_their_kind_and_key() {
    assert_eq!(Tunnel::Vxlan { vni: 5 }.key(), Some(5));
    assert_eq!(Tunnel::Gre { key: None }.key(), None);
    assert_eq!(
        Tunnel::Erspan {
            version: 1,
            session: 0
        }
        .key(),
        None
    );
    assert_eq!(
        Tunnel::Erspan {
            version: 2,
            session: 3
        }
        .key(),
        Some(3)
    );
    assert_eq!(Tunnel::Pptp { call: 7 }.name(), "pptp");
    assert_eq!(Tunnel::None.key(), None);
}
