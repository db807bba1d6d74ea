//! Frames of every kind of encapsulation that the full profile follows, built here byte by byte:
//! the seeds of the fuzzer and the ground of the unit tests.
#![allow(dead_code, reason = "each test takes in what it uses")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot build its frame has failed"
)]

use etherparse::PacketBuilder;

/// `10.1.0.1` and `10.1.0.2`: the addresses of every innermost packet, from port 40000 to 443.
pub(crate) const INNER: ([u8; 4], [u8; 4]) = ([10, 1, 0, 1], [10, 1, 0, 2]);
/// `192.0.2.1` and `192.0.2.2`: the addresses of every outer packet.
pub(crate) const OUTER: ([u8; 4], [u8; 4]) = ([192, 0, 2, 1], [192, 0, 2, 2]);

pub(crate) const MAC: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// Parts of a frame, put together.
pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// An Ethernet header with `kind`, and what follows it.
pub(crate) fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    join(&[&MAC, &kind.to_be_bytes(), rest])
}

/// The innermost packet: a TCP SYN with options, and 5 bytes of payload.
pub(crate) fn inner_ipv4() -> Vec<u8> {
    use etherparse::TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };
    let mut packet = Vec::new();
    PacketBuilder::ipv4(INNER.0, INNER.1, 63)
        .tcp(40000, 443, 0x0102_0304, 0x7210)
        .syn()
        .options(&[
            MaximumSegmentSize(1400),
            SelectiveAcknowledgementPermitted,
            Timestamp(7, 0),
            Noop,
            WindowScale(8),
        ])
        .unwrap()
        .write(&mut packet, b"hello")
        .unwrap();
    packet
}

/// The same from `fd00::1` to `fd00::2`, without options.
pub(crate) fn inner_ipv6() -> Vec<u8> {
    let address = |last| {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[15] = last;
        octets
    };
    let mut packet = Vec::new();
    PacketBuilder::ipv6(address(1), address(2), 63)
        .tcp(40000, 443, 0x0102_0304, 0x7210)
        .syn()
        .write(&mut packet, b"hello")
        .unwrap();
    packet
}

/// An outer IPv4 header for `protocol`, and its payload.
pub(crate) fn outer_ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(OUTER.0, OUTER.1, 64)
        .write(&mut packet, etherparse::IpNumber(protocol), payload)
        .unwrap();
    packet
}

/// An outer IPv4 and UDP header to `port`, and its payload.
pub(crate) fn outer_udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(OUTER.0, OUTER.1, 64)
        .udp(54321, port)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    join(&[&[8, 0, 0, 0], &(vni << 8).to_be_bytes(), frame])
}

/// Geneve with `words` words of options.
pub(crate) fn geneve(vni: u32, words: u8, kind: u16, rest: &[u8]) -> Vec<u8> {
    let options = vec![0xee; usize::from(words) * 4];
    let vni = (vni << 8).to_be_bytes();
    join(&[&[words, 0], &kind.to_be_bytes(), &vni, &options, rest])
}

/// GRE with `flags`; `fields` are those that the flags announce.
pub(crate) fn gre(flags: u16, kind: u16, fields: &[u32], rest: &[u8]) -> Vec<u8> {
    let fields: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect();
    join(&[&flags.to_be_bytes(), &kind.to_be_bytes(), &fields, rest])
}

/// An MPLS label stack, bottom last.
pub(crate) fn mpls(labels: &[u32], rest: &[u8]) -> Vec<u8> {
    let mut stack = Vec::new();
    for (index, label) in labels.iter().enumerate() {
        let bottom = u32::from(index + 1 == labels.len()) << 8;
        stack.extend((label << 12 | bottom | 64).to_be_bytes());
    }
    join(&[&stack, rest])
}

/// A PPPoE session header and PPP's protocol field.
pub(crate) fn pppoe(session: u16, protocol: u16, packet: &[u8]) -> Vec<u8> {
    let length = packet.len() as u16 + 2;
    join(&[
        &[0x11, 0],
        &session.to_be_bytes(),
        &length.to_be_bytes(),
        &protocol.to_be_bytes(),
        packet,
    ])
}

/// A Linux cooked header of version 1.
pub(crate) fn cooked(hardware: u16, protocol: u16, rest: &[u8]) -> Vec<u8> {
    let hardware = hardware.to_be_bytes();
    join(&[
        &[0, 0],
        &hardware,
        &[0, 6],
        &[2; 8],
        &protocol.to_be_bytes(),
        rest,
    ])
}

/// A Linux cooked header of version 2.
pub(crate) fn cooked_v2(protocol: u16, rest: &[u8]) -> Vec<u8> {
    let interface = [0, 0, 0, 0, 0, 3];
    let address = [0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0];
    join(&[&protocol.to_be_bytes(), &interface, &address, rest])
}

/// LLC with SNAP, and what follows it.
pub(crate) fn snap(kind: u16, rest: &[u8]) -> Vec<u8> {
    join(&[&[0xaa, 0xaa, 3, 0, 0, 0], &kind.to_be_bytes(), rest])
}

/// An IEEE 802.11 header with this frame control; `more` follows the three addresses and the
/// sequence number.
pub(crate) fn wireless(control: [u8; 2], more: &[u8], rest: &[u8]) -> Vec<u8> {
    join(&[&control, &[0, 0], &MAC, &[2; 6], &[0x10, 0], more, rest])
}

/// A radiotap header with two words of fields, the time, and these flags.
pub(crate) fn radiotap(flags: u8, rest: &[u8]) -> Vec<u8> {
    let present = [0x03, 0, 0, 0x80, 0, 0, 0, 0];
    let time = [0xff; 12];
    join(&[&[0, 0, 26, 0], &present, &time, &[flags, 0], rest])
}

/// One frame of each kind, by name: pcap link type and bytes. All hold [`inner_ipv4`] or
/// [`inner_ipv6`] innermost.
pub(crate) fn all() -> Vec<(&'static str, u32, Vec<u8>)> {
    let ip = inner_ipv4();
    let ipv6 = inner_ipv6();
    let frame = ethernet(0x0800, &ip);
    let in_the_air = wireless([0x08, 1], &[], &snap(0x0800, &ip));
    let aggregate_length = (ip.len() as u16 + 8).to_be_bytes();
    let tagged = ethernet(0x8100, &join(&[&[0, 7, 0x08, 0], &ip]));
    let over_ip = |protocol, payload: &[u8]| ethernet(0x0800, &outer_ipv4(protocol, payload));
    let over_udp = |port, payload: &[u8]| ethernet(0x0800, &outer_udp(port, payload));
    let erspan_ii = join(&[&[0x10, 5, 0x08, 0x2a, 0, 0, 0, 1], &frame]);
    let erspan_iii = |last| join(&[&[0x20, 5, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, last], &frame]);
    let erspan_long = join(&[&erspan_iii(1)[..12], &[9; 8], &frame]);
    let vlans = |count: usize| {
        let tags: Vec<u8> = (0..count)
            .flat_map(|tag| [0x81, 0, 0, 20 + tag as u8])
            .collect();
        join(&[&MAC, &tags, &[0x08, 0], &ip])
    };
    let deep = vxlan(1, &over_udp(6081, &geneve(2, 0, 0x6558, &over_ip(4, &ip))));
    let mut all = vec![
        ("ethernet", 1, frame.clone()),
        ("ethernet_ipv6", 1, ethernet(0x86dd, &ipv6)),
        ("vlan_1", 1, vlans(1)),
        ("vlan_2", 1, vlans(2)),
        ("vlan_5", 1, vlans(5)),
        ("raw", 101, ip.clone()),
        ("null", 0, join(&[&[2, 0, 0, 0], &ip])),
        ("loop_ipv6", 108, join(&[&[0, 0, 0, 30], &ipv6])),
        ("cooked", 113, cooked(1, 0x0800, &ip)),
        (
            "cooked_v2_vlan",
            276,
            cooked_v2(0x8100, &join(&[&[0, 7, 0x86, 0xdd], &ipv6])),
        ),
        ("ppp", 9, join(&[&[0xff, 3, 0, 0x21], &ip])),
        ("ppp_short", 9, join(&[&[0x57], &ipv6])),
        ("cisco_hdlc", 104, join(&[&[0x0f, 0, 0x08, 0], &ip])),
        (
            "wireless",
            105,
            wireless([0x08, 1], &[], &snap(0x0800, &ip)),
        ),
        (
            "wireless_four_addresses",
            105,
            wireless([0x08, 3], &[2; 6], &snap(0x86dd, &ipv6)),
        ),
        (
            "wireless_aggregate",
            105,
            wireless(
                [0x88, 2],
                &[0x80, 0],
                &join(&[&MAC, &aggregate_length, &snap(0x0800, &ip), &[7; 60]]),
            ),
        ),
        (
            "radiotap",
            127,
            radiotap(0, &wireless([0x88, 0x82], &[0; 6], &snap(0x0800, &ip))),
        ),
        (
            "radiotap_padded",
            127,
            radiotap(0x20, &wireless([0x88, 2], &[0; 4], &snap(0x0800, &ip))),
        ),
        (
            "prism",
            119,
            join(&[&[0x44, 0, 0, 0, 144, 0, 0, 0], &[0; 136], &in_the_air]),
        ),
        (
            "avs",
            163,
            join(&[&[0x80, 0x21, 0x10, 1, 0, 0, 0, 64], &[0; 56], &in_the_air]),
        ),
        (
            "ppi",
            192,
            join(&[&[0, 0, 12, 0, 105, 0, 0, 0], &[0; 4], &in_the_air]),
        ),
        (
            "ppi_ethernet",
            192,
            join(&[&[0, 0, 8, 0, 1, 0, 0, 0], &frame]),
        ),
        ("pppoe_bare", 51, pppoe(9, 0x57, &ipv6)),
        ("pppoe", 1, ethernet(0x8864, &pppoe(0x1234, 0x21, &ip))),
        ("mpls", 1, ethernet(0x8847, &mpls(&[100, 200, 300], &ip))),
        ("mpls_ipv6", 1, ethernet(0x8847, &mpls(&[2], &ipv6))),
        ("mpls_ethernet", 1, ethernet(0x8847, &mpls(&[77], &frame))),
        (
            "mpls_control",
            1,
            ethernet(0x8847, &mpls(&[77], &join(&[&[0; 4], &tagged]))),
        ),
        ("ip_in_ip", 1, over_ip(4, &ip)),
        ("6in4", 1, over_ip(41, &ipv6)),
        ("gre", 1, over_ip(47, &gre(0, 0x0800, &[], &ip))),
        (
            "gre_all",
            1,
            over_ip(47, &gre(0xb000, 0x86dd, &[1, 0xabcd, 3], &ipv6)),
        ),
        (
            "nvgre",
            1,
            over_ip(47, &gre(0x2000, 0x6558, &[0x0012_3401], &frame)),
        ),
        (
            "gre_mpls",
            1,
            over_ip(47, &gre(0, 0x8847, &[], &mpls(&[55], &ip))),
        ),
        ("erspan_1", 1, over_ip(47, &gre(0, 0x88be, &[], &frame))),
        (
            "erspan_2",
            1,
            over_ip(47, &gre(0x1000, 0x88be, &[1], &erspan_ii)),
        ),
        (
            "erspan_3",
            1,
            over_ip(47, &gre(0x1000, 0x22eb, &[1], &erspan_iii(0))),
        ),
        (
            "erspan_3_long",
            1,
            over_ip(47, &gre(0x1000, 0x22eb, &[1], &erspan_long)),
        ),
        ("vxlan", 1, over_udp(4789, &vxlan(0x00ab_cdef, &tagged))),
        (
            "vxlan_linux",
            1,
            over_udp(8472, &vxlan(42, &ethernet(0x86dd, &ipv6))),
        ),
        ("geneve", 1, over_udp(6081, &geneve(99, 3, 0x6558, &frame))),
        ("geneve_ip", 1, over_udp(6081, &geneve(99, 0, 0x0800, &ip))),
        ("deep", 1, over_udp(4789, &deep)),
    ];
    let ppp = join(&[&[0xff, 3, 0, 0x21], &ip]);
    let key = (ppp.len() as u32) << 16 | 0x0777;
    all.push((
        "pptp",
        1,
        over_ip(47, &gre(0x3081, 0x880b, &[key, 1, 2], &ppp)),
    ));
    all
}
