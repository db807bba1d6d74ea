//! Fragments made here: how they are put together, what is refused, what is lost and counted.

use phalanx_common::packet::{Layers, LinkKind, Tunnel, Unparsed, protocol};
use proptest::prelude::*;

use super::{Datagram, Fragment, FragmentCounts, Reassembler, Release, Taken, find, is_fragment};
use crate::limits::{FRAGMENT_BYTES_MAX, FRAGMENT_DATAGRAM_COUNT_MAX, FRAGMENT_TIMEOUT_NS};
use crate::record::Decoded;

/// A UDP datagram with ports 4000 and 53, and so many bytes of payload.
fn udp(length: usize) -> Vec<u8> {
    let mut bytes = Vec::from([0x0f, 0xa0, 0, 53]);
    bytes.extend(u16::try_from(8 + length).unwrap().to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend((0..length).map(|it| (it * 7 + it / 256) as u8));
    bytes
}

/// An IPv4 fragment of UDP: `start` is a multiple of 8.
fn ipv4(identification: u16, start: usize, has_more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    bytes.extend(identification.to_be_bytes());
    let field = (start / 8) as u16 | u16::from(has_more) << 13;
    bytes.extend(field.to_be_bytes());
    bytes.extend([64, protocol::UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend(payload);
    bytes
}

/// The same for IPv6, with a hop-by-hop header before the fragment header.
fn ipv6(identification: u32, start: usize, has_more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(16 + payload.len()).unwrap().to_be_bytes());
    bytes.extend([protocol::HOP_BY_HOP, 64]);
    bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    bytes.extend([protocol::FRAGMENT, 0, 1, 4, 0, 0, 0, 0]);
    bytes.extend([protocol::UDP, 0]);
    bytes.extend((start as u16 | u16::from(has_more)).to_be_bytes());
    bytes.extend(identification.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A reassembler that frames without a link layer come to, a second apart.
#[derive(Default)]
struct Bench {
    reassembler: Reassembler,
    layers: Layers,
    number: u64,
    time_ns: i64,
}

impl Bench {
    fn take_cut(&mut self, bytes: &[u8], wire_length: u32, kind: LinkKind) -> Taken {
        self.number += 1;
        self.time_ns += 1_000_000;
        let error = self.layers.parse(bytes, kind, wire_length).err();
        assert!(is_fragment(
            &mut self.layers,
            error,
            bytes,
            kind,
            wire_length
        ));
        let place = find(&mut self.layers, bytes, kind, wire_length).expect("a place");
        self.reassembler.take(&Fragment {
            hop: 0,
            number: self.number,
            time_ns: self.time_ns,
            wire_length,
            bytes,
            place,
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Taken {
        self.take_cut(bytes, bytes.len() as u32, LinkKind::None)
    }

    fn released(&mut self) -> Vec<Release> {
        self.reassembler.released().collect()
    }

    /// The one datagram that was released.
    fn datagram(&mut self) -> (Datagram, Decoded) {
        let mut released = self.released();
        assert_eq!(released.len(), 1, "{released:?}");
        let datagram = released.remove(0).datagram.expect("a datagram");
        let decoded = datagram.decode(&mut self.layers).expect("decodes");
        (datagram, decoded)
    }

    fn finish(&mut self) -> Vec<Release> {
        self.reassembler.finish(self.number);
        self.released()
    }

    fn counts(&self) -> FragmentCounts {
        *self.reassembler.counts()
    }
}

fn payload<'a>(datagram: &'a Datagram, decoded: &'a Decoded) -> &'a [u8] {
    let record = decoded.record(1, 0, datagram.wire_length, &datagram.bytes);
    assert_eq!(record.fragment_count, datagram.fragment_count);
    record.payload()
}

#[test]
fn fragments_in_order_make_the_datagram() {
    let whole = udp(3000);
    let mut bench = Bench::default();
    assert_eq!(bench.take(&ipv4(7, 0, true, &whole[..1480])), Taken::Kept);
    assert_eq!(
        bench.take(&ipv4(7, 1480, true, &whole[1480..2960])),
        Taken::Kept
    );
    assert!(bench.released().is_empty());
    assert_eq!(
        bench.take(&ipv4(7, 2960, false, &whole[2960..])),
        Taken::Kept
    );
    let (datagram, decoded) = bench.datagram();
    assert_eq!((datagram.number, datagram.time_ns), (3, 3_000_000));
    assert_eq!(datagram.fragment_count, 3);
    assert_eq!(datagram.wire_length, 20 + 3008);
    let headers = decoded.headers;
    assert_eq!((headers.source_port, headers.destination_port), (4000, 53));
    assert_eq!((headers.payload_length, headers.ip_id), (3000, 7));
    assert!(!headers.is_fragmented);
    assert!(decoded.record(1, 0, 0, &[]).came_in_fragments());
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
    assert!(bench.reassembler.is_empty());
    assert_eq!(bench.reassembler.size(), 0);
    let expected = FragmentCounts {
        fragments: 3,
        datagrams: 1,
        ..FragmentCounts::default()
    };
    assert_eq!(bench.counts(), expected);
}

#[test]
fn fragments_in_reverse_order_make_the_datagram() {
    let whole = udp(100);
    let mut bench = Bench::default();
    for start in (0..whole.len()).step_by(8).rev() {
        let end = whole.len().min(start + 8);
        bench.take(&ipv4(7, start, end < whole.len(), &whole[start..end]));
    }
    let (datagram, decoded) = bench.datagram();
    assert_eq!(datagram.fragment_count, 14);
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
}

#[test]
fn the_fragment_header_goes_and_those_before_it_stay() {
    let whole = udp(2000);
    let mut bench = Bench::default();
    bench.take(&ipv6(0x1_0007, 1000, false, &whole[1000..]));
    bench.take(&ipv6(0x1_0007, 0, true, &whole[..1000]));
    let (datagram, decoded) = bench.datagram();
    assert_eq!(datagram.bytes.len(), 48 + 2008);
    assert_eq!(datagram.bytes[40], protocol::UDP);
    assert_eq!(datagram.bytes[4..6], 2016_u16.to_be_bytes());
    assert_eq!((decoded.headers.version, decoded.headers.ip_id), (6, 7));
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
}

#[test]
fn what_differs_in_the_key_is_apart() {
    let whole = udp(100);
    let mut bench = Bench::default();
    bench.take(&ipv4(7, 0, true, &whole[..64]));
    bench.take(&ipv4(8, 64, false, &whole[64..]));
    let mut other = ipv4(7, 64, false, &whole[64..]);
    other[9] = protocol::TCP;
    bench.take(&other);
    assert!(bench.released().is_empty());
    let released = bench.finish();
    assert_eq!(released.len(), 3);
    assert_eq!(
        released.iter().filter(|it| it.datagram.is_some()).count(),
        1
    );
    assert_eq!(released.iter().map(|it| it.unused).sum::<u32>(), 2);
    assert_eq!(
        (bench.counts().unfinished, bench.counts().without_first),
        (3, 2)
    );
}

#[test]
fn of_overlaps_the_first_byte_seen_stays() {
    let whole = udp(100);
    let mut bench = Bench::default();
    bench.take(&ipv4(7, 16, true, &whole[16..48]));
    // The same bytes again, then others that reach farther on both sides.
    bench.take(&ipv4(7, 16, true, &whole[16..48]));
    let mut other = whole.clone();
    other[16..48].fill(0xff);
    bench.take(&ipv4(7, 0, true, &other[..64]));
    bench.take(&ipv4(7, 56, false, &whole[56..]));
    let (datagram, decoded) = bench.datagram();
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
    let counts = bench.counts();
    assert_eq!(
        (counts.duplicates, counts.overlaps, counts.conflicts),
        (1, 2, 1)
    );
    assert_eq!(datagram.fragment_count, 4);
}

#[test]
fn a_fragment_within_another_harms_nothing() {
    // Teardrop: the second ends before the first does.
    let whole = udp(64);
    let mut bench = Bench::default();
    bench.take(&ipv4(7, 0, true, &whole[..40]));
    assert_eq!(
        bench.take(&ipv4(7, 24, false, &whole[24..28])),
        Taken::Refused
    );
    assert_eq!(bench.counts().contradictory, 1);
    bench.take(&ipv4(7, 24, true, &whole[24..32]));
    bench.take(&ipv4(7, 40, false, &whole[40..]));
    let (datagram, decoded) = bench.datagram();
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
}

#[test]
fn lies_about_lengths_are_refused() {
    let whole = udp(64);
    let mut bench = Bench::default();
    // The ping of death.
    assert_eq!(
        bench.take(&ipv4(7, 65_528, false, &[0; 64])),
        Taken::Refused
    );
    assert_eq!(
        bench.take(&ipv6(7, 65_528, false, &[0; 64])),
        Taken::Refused
    );
    assert_eq!(bench.counts().too_long, 2);
    assert_eq!(bench.take(&ipv4(7, 8, true, &[])), Taken::Refused);
    assert_eq!(bench.take(&ipv4(7, 8, true, &[1; 7])), Taken::Refused);
    assert_eq!(bench.counts().malformed, 2);
    assert!(bench.reassembler.is_empty());
    // An end, and then others.
    bench.take(&ipv4(7, 40, false, &whole[40..]));
    assert_eq!(
        bench.take(&ipv4(7, 40, false, &whole[40..48])),
        Taken::Refused
    );
    assert_eq!(bench.take(&ipv4(7, 72, true, &[0; 8])), Taken::Refused);
    assert_eq!(bench.counts().contradictory, 2);
    // What is not a multiple of 8 is cut: the next one brings it.
    bench.take(&ipv4(7, 0, true, &whole[..29]));
    bench.take(&ipv4(7, 24, true, &whole[24..40]));
    let (datagram, decoded) = bench.datagram();
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
    assert_eq!(bench.counts().uneven, 1);
    // A header that declares more than the frame has does not make the fragment longer.
    let mut longer = ipv4(9, 0, true, &whole[..40]);
    longer[2..4].copy_from_slice(&1500_u16.to_be_bytes());
    bench.take(&longer);
    bench.take(&ipv4(9, 40, false, &whole[40..]));
    let (datagram, decoded) = bench.datagram();
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
}

#[test]
fn a_first_fragment_without_its_transport_header_is_one() {
    let whole = udp(64);
    let mut bench = Bench::default();
    let mut tiny = ipv4(7, 0, true, &whole[..8]);
    tiny[9] = protocol::TCP;
    let mut rest = ipv4(7, 8, false, &whole[8..]);
    rest[9] = protocol::TCP;
    rest[20 + 4] = 0x50;
    bench.take(&tiny);
    bench.take(&rest);
    let (datagram, decoded) = bench.datagram();
    assert_eq!(decoded.headers.source_port, 4000);
    assert_eq!(payload(&datagram, &decoded), &whole[20..]);
}

#[test]
fn what_the_capture_lacks_is_cut_off() {
    let whole = udp(3000);
    let mut bench = Bench::default();
    let pieces = [
        (0, true, &whole[..1480]),
        (1480, true, &whole[1480..2960]),
        (2960, false, &whole[2960..]),
    ];
    for (start, has_more, piece) in pieces {
        let bytes = ipv4(7, start, has_more, piece);
        bench.take_cut(&bytes[..68], bytes.len() as u32, LinkKind::None);
    }
    let (datagram, decoded) = bench.datagram();
    assert_eq!(datagram.wire_length, 3028);
    assert_eq!(decoded.headers.payload_length, 3000);
    assert_eq!(payload(&datagram, &decoded), &whole[8..48]);
    assert_eq!((bench.counts().datagrams, bench.counts().cut), (1, 1));
}

#[test]
fn what_does_not_come_in_time_is_given_up() {
    let whole = udp(3000);
    let mut bench = Bench::default();
    let first = ipv4(7, 0, true, &whole[..1480]);
    bench.take(&first);
    bench.take(&ipv4(7, 1480, true, &whole[1480..2960]));
    bench.time_ns += FRAGMENT_TIMEOUT_NS;
    bench.take(&ipv4(7, 2960, false, &whole[2960..]));
    let mut released = bench.released();
    assert_eq!(released.len(), 1);
    let release = released.remove(0);
    assert_eq!((release.at, release.unused), (3, 1));
    let datagram = release.datagram.unwrap();
    assert_eq!((datagram.number, datagram.fragment_count), (1, 0));
    assert_eq!(&datagram.bytes[..], &first[..]);
    let decoded = datagram.decode(&mut bench.layers).unwrap();
    assert!(decoded.headers.is_fragmented);
    assert_eq!(decoded.headers.source_port, 4000);
    assert_eq!(bench.counts().timed_out, 1);
    let released = bench.finish();
    assert_eq!((released.len(), released[0].unused), (1, 1));
    assert_eq!(
        (bench.counts().unfinished, bench.counts().without_first),
        (1, 1)
    );
    assert_eq!(bench.reassembler.size(), 0);
}

#[test]
fn the_oldest_make_room() {
    let mut bench = Bench::default();
    let more = FRAGMENT_DATAGRAM_COUNT_MAX + 10;
    for identification in 0..more {
        bench.take(&ipv4(identification as u16, 0, true, &udp(16)));
    }
    assert_eq!(bench.counts().evicted, 10);
    let numbers: Vec<u64> = bench
        .released()
        .iter()
        .map(|it| it.datagram.as_ref().unwrap().number)
        .collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<u64>>());
    // Each of these asks for all of a datagram's room.
    let mut bench = Bench::default();
    for identification in 0..FRAGMENT_DATAGRAM_COUNT_MAX {
        bench.take(&ipv4(identification as u16, 65_000, false, &[1; 8]));
        assert!(bench.reassembler.size() <= FRAGMENT_BYTES_MAX);
    }
    assert!(bench.counts().evicted > 100);
}

#[test]
fn pieces_with_gaps_stay_within_the_stated_room() {
    let mut bench = Bench::default();
    for start in (8..65_000).step_by(16) {
        bench.take(&ipv4(7, start, true, &[1; 8]));
    }
    let size = bench.reassembler.size();
    assert!(size <= (64 + 128 + 1) << 10, "{size}");
}

#[test]
fn places_are_found_below_any_link_layer() {
    let whole = udp(100);
    let pieces = [
        ipv4(7, 0, true, &whole[..64]),
        ipv4(7, 64, false, &whole[64..]),
    ];
    let pppoe = |piece: &[u8]| {
        let length = u16::try_from(piece.len() + 2).unwrap().to_be_bytes();
        [
            &[2; 12][..],
            &[0x88, 0x64, 0x11, 0, 0, 5],
            &length,
            &[0, 0x21],
        ]
        .concat()
    };
    let cooked = |_: &[u8]| [&[0, 0, 0, 1, 0, 6][..], &[0x45; 8], &[8, 0]].concat();
    let tagged = |_: &[u8]| [&[2; 12][..], &[0x81, 0, 0, 9, 8, 0]].concat();
    type Make<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let links: [(LinkKind, Make<'_>, u16); 3] = [
        (LinkKind::Ethernet, &pppoe, 0),
        (LinkKind::Cooked, &cooked, 0),
        (LinkKind::Ethernet, &tagged, 9),
    ];
    for (kind, link, vlan) in links {
        for order in [[0, 1], [1, 0]] {
            let mut bench = Bench::default();
            for index in order {
                let frame = [link(&pieces[index]), pieces[index].clone()].concat();
                bench.take_cut(&frame, frame.len() as u32, kind);
            }
            let (datagram, decoded) = bench.datagram();
            assert_eq!(payload(&datagram, &decoded), &whole[8..]);
            assert_eq!(decoded.headers.vlan, vlan);
        }
    }
}

/// A VXLAN datagram whose inner packet is `inner`: UDP's header and what it carries.
fn vxlan(inner: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + 8 + 14 + inner.len()).unwrap();
    let udp = [&[0x30, 0, 0x12, 0xb5][..], &length.to_be_bytes(), &[0, 0]].concat();
    [
        &udp[..],
        &[8, 0, 0, 0, 0, 0, 5, 0],
        &[2; 12],
        &[8, 0],
        inner,
    ]
    .concat()
}

#[test]
fn a_tunnel_is_put_together_outside_and_inside() {
    let whole = udp(600);
    let mut bench = Bench::default();
    for (start, end) in [(400, 608), (0, 400)] {
        // The inner packet is a fragment, and the outer one is in two.
        let outer = vxlan(&ipv4(7, start, end < 608, &whole[start..end]));
        let identification = 100 + start as u16;
        bench.take(&ipv4(identification, 0, true, &outer[..200]));
        bench.take(&ipv4(identification, 200, false, &outer[200..]));
        let mut released = bench.released();
        assert_eq!(released.len(), 1);
        let datagram = released.remove(0).datagram.unwrap();
        let error = datagram.decode(&mut bench.layers).err();
        let inner = datagram
            .inner_fragment(&mut bench.layers, error)
            .expect("a fragment");
        assert_eq!(bench.reassembler.take(&inner), Taken::Kept);
    }
    let (datagram, decoded) = bench.datagram();
    assert_eq!(payload(&datagram, &decoded), &whole[8..]);
    assert_eq!(decoded.encapsulation.tunnel, Tunnel::Vxlan { vni: 5 });
    assert_eq!(datagram.fragment_count, 2);
}

#[test]
fn whole_packets_are_no_fragments() {
    let mut layers = Layers::default();
    let whole = ipv4(7, 0, false, &udp(20));
    let length = whole.len() as u32;
    let error = layers.parse(&whole, LinkKind::None, length).err();
    assert!(!is_fragment(
        &mut layers,
        error,
        &whole,
        LinkKind::None,
        length
    ));
    let cut = &whole[..22];
    let error = layers.parse(cut, LinkKind::None, length).err();
    assert_eq!(error, Some(Unparsed::Truncated));
    assert!(!is_fragment(
        &mut layers,
        error,
        cut,
        LinkKind::None,
        length
    ));
}

/// Where to cut a payload, in multiples of 8, and in which order the pieces come.
fn pieces() -> impl Strategy<Value = (usize, Vec<usize>)> {
    (1_usize..4000).prop_flat_map(|length| {
        let cuts = prop::collection::btree_set(1..=(length + 8).div_ceil(8), 0..40);
        (Just(length), cuts).prop_flat_map(move |(length, cuts)| {
            let mut starts = vec![0];
            let inside = cuts
                .into_iter()
                .map(|it| it * 8)
                .filter(|it| *it < length + 8);
            starts.extend(inside);
            (Just(length), Just(starts).prop_shuffle())
        })
    })
}

proptest! {
    #[test]
    fn any_split_in_any_order_gives_the_datagram_back(
        (length, order) in pieces(),
        is_ipv4: bool,
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let whole = udp(length);
        let mut starts = order.clone();
        starts.sort_unstable();
        prop_assume!(starts.len() > 1);
        let mut bench = Bench::default();
        let mut order = order;
        let last = order.pop().unwrap();
        for repeat in repeats {
            if !order.is_empty() {
                order.push(order[repeat.index(order.len())]);
            }
        }
        order.push(last);
        for start in order {
            let end = starts.iter().copied().find(|it| *it > start).unwrap_or(whole.len());
            let (has_more, piece) = (end < whole.len(), &whole[start..end]);
            let bytes = match is_ipv4 {
                true => ipv4(7, start, has_more, piece),
                false => ipv6(7, start, has_more, piece),
            };
            prop_assert!(bench.released().is_empty());
            prop_assert_eq!(bench.take(&bytes), Taken::Kept);
        }
        let (datagram, decoded) = bench.datagram();
        prop_assert_eq!(payload(&datagram, &decoded), &whole[8..]);
        prop_assert_eq!(bench.reassembler.size(), 0);
    }

    #[test]
    fn every_fragment_is_accounted_for(
        fragments in prop::collection::vec(
            (0_u16..4, 0_usize..12, any::<bool>(), 0_usize..80, any::<bool>(), 0_usize..20),
            0..300,
        ),
    ) {
        let mut bench = Bench::default();
        let mut accounted = 0;
        let mut account = |released: Vec<Release>| {
            for release in released {
                let of_datagram = release.datagram.map_or(0, |it| u64::from(it.fragment_count).max(1));
                accounted += u64::from(release.unused) + of_datagram;
            }
        };
        let mut refused = 0;
        for (identification, start, has_more, length, is_ipv4, cut) in fragments {
            let has_more = has_more || start == 0;
            let piece = vec![cut as u8; length];
            let bytes = match is_ipv4 {
                true => ipv4(identification, start * 8, has_more, &piece),
                false => ipv6(identification.into(), start * 8, has_more, &piece),
            };
            let held = bytes.len() - cut.min(length);
            let taken = bench.take_cut(&bytes[..held], bytes.len() as u32, LinkKind::None);
            refused += u64::from(taken == Taken::Refused);
            prop_assert!(bench.reassembler.size() <= FRAGMENT_BYTES_MAX);
            account(bench.released());
        }
        account(bench.finish());
        prop_assert_eq!(accounted + refused, bench.counts().fragments);
    }
}
