//! What must hold for every frame, whatever is in it: checked over captures, mutations and by the
//! fuzzer.

use phalanx_common::packet::{
    Encapsulation, Headers, Layers, LinkKind, Next, Station, Tunnel, Unparsed, is_error, parse,
    parse_layers, parse_quote, parse_tcp_options, parse_timestamps, protocol, visit_layers,
};

/// Reasons for which the kernel profile gives up and the full profile may go on.
const RESUMED: [Unparsed; 5] = [
    Unparsed::NotIp,
    Unparsed::VlanTooDeep,
    Unparsed::Mpls,
    Unparsed::Pppoe,
    Unparsed::UnknownLink,
];

/// Parses a frame by both profiles and asserts all that must hold of what they say.
pub(crate) fn check(
    bytes: &[u8],
    kind: LinkKind,
    wire_length: u32,
) -> (Result<Headers, Unparsed>, Result<Layers, Unparsed>) {
    let kernel = parse(bytes, kind, wire_length);
    let full = parse_layers(bytes, kind, wire_length);
    match (&kernel, &full) {
        (Ok(headers), Ok(layers)) => {
            assert_eq!(*headers, layers.outermost().headers);
            assert_eq!(layers.outermost().encapsulation, Encapsulation::default());
        }
        (Ok(_), Err(reason)) => panic!("only the kernel profile parses it: {reason:?}"),
        (Err(reason), Ok(_)) => assert!(RESUMED.contains(reason), "{reason:?}"),
        (Err(kernel), Err(full)) => assert!(kernel == full || RESUMED.contains(kernel)),
    }
    check_stations(bytes, kind, wire_length, &full);
    if let Ok(layers) = &full {
        // Nothing of a frame before is left over.
        let mut again = deep();
        assert_eq!(again.parse(bytes, kind, wire_length), Ok(()));
        assert_eq!(again, *layers);
        check_layers(bytes, layers, wire_length);
    }
    (kernel, full)
}

/// Asserts that the parser that tells what it passes comes to the same, and passes each IP header.
fn check_stations(bytes: &[u8], kind: LinkKind, wire_length: u32, full: &Result<Layers, Unparsed>) {
    let mut stations = Vec::new();
    let told = visit_layers(bytes, kind, wire_length, |station, at| {
        stations.push((station, at));
    });
    assert_eq!(told, *full);
    assert!(stations.is_sorted_by_key(|(_, at)| *at));
    let mut passed = stations
        .iter()
        .filter(|(station, _)| matches!(station, Station::Link(Next::Ip(_))))
        .map(|(_, at)| *at);
    for layer in full.iter().flat_map(Layers::iter) {
        assert_eq!(passed.next(), Some(layer.headers.network_offset));
    }
    assert!(passed.count() <= 1, "one layer at most that was not parsed");
}

/// Layers of another frame: as many as there can be.
fn deep() -> Layers {
    let mut packet = [0; 20];
    packet[0] = 0x45;
    packet[9] = protocol::IPV4;
    let packet = packet.repeat(6);
    parse_layers(&packet, LinkKind::None, 120).expect("IP in IP in IP")
}

fn check_layers(bytes: &[u8], layers: &Layers, wire_length: u32) {
    assert_eq!(layers.iter().count(), layers.count());
    assert_eq!(layers.iter().last(), Some(layers.innermost()));
    assert_eq!(layers.iter().next(), Some(layers.outermost()));
    let mut end = wire_length;
    let mut behind = 0;
    for (index, layer) in layers.iter().enumerate() {
        let headers = &layer.headers;
        assert!(headers.network_offset >= behind, "layers overlap");
        assert_eq!(index == 0, layer.encapsulation.tunnel == Tunnel::None);
        check_headers(bytes, headers);
        // Only a packet cut on its way into the tunnel may be longer than its carrier.
        let is_cut = layers
            .iter()
            .take(index)
            .any(|outer| outer.headers.is_fragmented)
            || matches!(
                layer.encapsulation.tunnel,
                Tunnel::Erspan { version: 2 | 3, .. }
            );
        if is_cut {
            assert!(headers.ip_length <= 65_575);
            end = u32::MAX;
        }
        assert!(headers.network_offset + headers.ip_length <= end);
        end = end.min(headers.network_offset + headers.ip_length);
        behind = headers.payload_offset;
    }
    if let Some(Ok(quote)) = layers.quote(bytes) {
        let error = &layers.innermost().headers;
        assert_eq!(quote.network_offset, error.payload_offset);
        assert!(quote.transport_offset + 8 <= error.payload_offset + error.payload_length);
        check_first_fragment(bytes, &quote);
    }
}

fn check_headers(bytes: &[u8], headers: &Headers) {
    let minimum = if headers.version == 4 { 20 } else { 40 };
    assert!(headers.network_offset + minimum <= headers.transport_offset);
    assert!(headers.transport_offset <= headers.payload_offset);
    assert!(headers.payload_length <= headers.ip_length);
    assert!(
        headers.payload_offset + headers.payload_length
            <= headers.network_offset + headers.ip_length
    );
    check_first_fragment(bytes, headers);
    let at = headers.transport_offset as usize;
    match headers.protocol {
        protocol::TCP | protocol::UDP => {
            assert_eq!(headers.source_port.to_be_bytes(), bytes[at..at + 2]);
            assert_eq!(
                headers.destination_port.to_be_bytes(),
                bytes[at + 2..at + 4]
            );
        }
        protocol::ICMP | protocol::ICMPV6 => {
            assert_eq!(headers.sequence.to_be_bytes()[2..], bytes[at..at + 2]);
            let _ = is_error(headers).then(|| parse_quote(bytes, headers));
        }
        _ => assert_eq!((headers.source_port, headers.destination_port), (0, 0)),
    }
    if headers.protocol == protocol::TCP {
        check_options(bytes, headers);
    } else {
        assert_eq!((headers.tcp_flags.0, headers.window), (0, 0));
    }
}

fn check_options(bytes: &[u8], headers: &Headers) {
    let (start, end) = (headers.transport_offset + 20, headers.payload_offset);
    let options = parse_tcp_options(bytes, start, end);
    if options.sack_block_count > 0 {
        let first = u32::from(options.sack_offset);
        assert!(first >= start + 2);
        assert!(first + 8 * u32::from(options.sack_block_count) <= end);
    }
    assert!(options.sack_blocks(bytes).count() <= 4);
    assert!(options.window_scale_plus_one <= 15);
    if let Some((value, echo)) = parse_timestamps(bytes, start, end) {
        // A later timestamps option would win in the walk: no sender writes two.
        let is_same = (options.timestamp_value, options.timestamp_echo) == (value, echo);
        assert!(options.has_timestamps && (is_same || end - start >= 22));
    }
}

/// Asserts, by its own walk, that the headers are not those of a later fragment.
fn check_first_fragment(bytes: &[u8], headers: &Headers) {
    let ip = headers.network_offset as usize;
    if headers.version == 4 {
        assert_eq!(bytes[ip + 6] & 0x1f, 0);
        assert_eq!(bytes[ip + 7], 0);
        return;
    }
    let (mut next, mut at) = (bytes[ip + 6], ip + 40);
    while at < headers.transport_offset as usize {
        let length = match next {
            44 => {
                assert_eq!((bytes[at + 2], bytes[at + 3] & 0xf8), (0, 0));
                8
            }
            51 => 4 * (usize::from(bytes[at + 1]) + 2),
            _ => 8 * (usize::from(bytes[at + 1]) + 1),
        };
        next = bytes[at];
        at += length;
    }
    assert_eq!(at, headers.transport_offset as usize);
    assert_eq!(next, headers.protocol);
}
