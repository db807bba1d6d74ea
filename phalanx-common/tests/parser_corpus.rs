//! The parser over real captures and mutations of them: the invariants, and etherparse as a second
//! opinion.

#[path = "support/frames.rs"]
mod frames;
#[path = "support/invariant.rs"]
mod invariant;

use std::collections::BTreeMap;

use etherparse::{LaxPacketHeaders, NetHeaders, TcpHeader, TcpOptionElement, TransportHeader};
use frames::{Frame, mutated, read_folder, shared_captures};
use phalanx_common::packet::{LinkKind, Unparsed, parse_layers, parse_tcp_options, protocol};

/// Mutated frames that are parsed; the seed is fixed, so that a failure repeats.
const MUTATION_COUNT: usize = 100_000;
const MUTATION_SEED: u64 = 20_261;

fn check(frame: &Frame) -> Option<(LinkKind, bool)> {
    let kind = LinkKind::from_linktype(frame.linktype)?;
    let result =
        std::panic::catch_unwind(|| invariant::check(&frame.bytes, kind, frame.wire_length));
    let Ok((_, full)) = result else {
        panic!(
            "{} frame {}: linktype {}, wire length {}, bytes {:02x?}",
            frame.file, frame.number, frame.linktype, frame.wire_length, frame.bytes
        );
    };
    Some((kind, full.is_ok()))
}

#[test]
fn invariants_hold_over_all_captures() {
    let Some(folder) = shared_captures("invariants_hold_over_all_captures") else {
        return;
    };
    let mut parsed = BTreeMap::<&str, usize>::new();
    let frames = read_folder(&folder);
    for frame in &frames {
        let class = match check(frame) {
            None => "unknown link",
            Some((_, true)) => "parsed",
            Some((_, false)) => "unparsed",
        };
        *parsed.entry(class).or_default() += 1;
    }
    println!("{} frames: {parsed:?}", frames.len());
    assert!(parsed["parsed"] * 10 >= frames.len() * 8, "{parsed:?}");
}

#[test]
fn invariants_hold_over_mutated_captures() {
    let Some(folder) = shared_captures("invariants_hold_over_mutated_captures") else {
        return;
    };
    let frames: Vec<_> = read_folder(&folder)
        .into_iter()
        .filter(|frame| LinkKind::from_linktype(frame.linktype).is_some())
        .collect();
    let parsed = mutated(&frames, MUTATION_COUNT, MUTATION_SEED)
        .filter(|frame| check(frame).is_some_and(|(_, is_parsed)| is_parsed))
        .count();
    println!("{MUTATION_COUNT} mutated frames, {parsed} of them parsed");
    // Mutations that only ever destroy the first header would test little.
    assert!(parsed * 5 >= MUTATION_COUNT, "{parsed}");
}

/// What two parsers say of the outermost IP layer of one frame, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Opinion {
    source: Vec<u8>,
    destination: Vec<u8>,
    protocol: u8,
    ttl: u8,
    ports: Option<(u16, u16)>,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    flags: u8,
    options: Options,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    mss: Option<u16>,
    window_scale: Option<u8>,
    sack_permitted: bool,
    sack_blocks: Vec<(u32, u32)>,
    timestamps: Option<(u32, u32)>,
}

fn our_opinion(frame: &Frame, kind: LinkKind) -> Result<Opinion, Unparsed> {
    let bytes = frame.bytes.as_slice();
    let headers = parse_layers(bytes, kind, frame.wire_length)?
        .outermost()
        .headers;
    let address = |words: [u64; 2]| {
        let octets: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let skipped = if headers.version == 4 { 12 } else { 0 };
        octets[skipped..].to_vec()
    };
    let mut opinion = Opinion {
        source: address(headers.source),
        destination: address(headers.destination),
        protocol: headers.protocol,
        ttl: headers.ttl,
        ..Opinion::default()
    };
    if matches!(headers.protocol, protocol::TCP | protocol::UDP) {
        opinion.ports = Some((headers.source_port, headers.destination_port));
    }
    if headers.protocol == protocol::TCP {
        opinion.sequence = headers.sequence;
        opinion.acknowledgement = headers.acknowledgement;
        opinion.window = headers.window;
        opinion.flags = headers.tcp_flags.0;
        let options =
            parse_tcp_options(bytes, headers.transport_offset + 20, headers.payload_offset);
        opinion.options = Options {
            mss: (options.mss != 0).then_some(options.mss),
            window_scale: options.window_scale_plus_one.checked_sub(1),
            sack_permitted: options.sack_permitted,
            sack_blocks: options.sack_blocks(bytes).collect(),
            timestamps: options
                .has_timestamps
                .then_some((options.timestamp_value, options.timestamp_echo)),
        };
    }
    Ok(opinion)
}

/// Etherparse's opinion, `None` where it finds no IP header.
fn second_opinion(frame: &Frame, kind: LinkKind) -> Option<Opinion> {
    let packet = match kind {
        LinkKind::Ethernet => LaxPacketHeaders::from_ethernet(&frame.bytes).ok()?,
        LinkKind::None => LaxPacketHeaders::from_ip(&frame.bytes).ok()?,
        LinkKind::Cooked => LaxPacketHeaders::from_linux_sll(&frame.bytes).ok()?,
        _ => return None,
    };
    let mut opinion = Opinion::default();
    match packet.net? {
        NetHeaders::Ipv4(ip, _) => {
            opinion.source = ip.source.to_vec();
            opinion.destination = ip.destination.to_vec();
            opinion.protocol = ip.protocol.0;
            opinion.ttl = ip.time_to_live;
        }
        NetHeaders::Ipv6(ip, extensions) => {
            opinion.source = ip.source.to_vec();
            opinion.destination = ip.destination.to_vec();
            let chain = extensions.next_header(ip.next_header);
            opinion.protocol = chain.unwrap_or(ip.next_header).0;
            opinion.ttl = ip.hop_limit;
        }
        NetHeaders::Arp(_) => return None,
    }
    match packet.transport {
        Some(TransportHeader::Udp(udp)) => {
            opinion.ports = Some((udp.source_port, udp.destination_port));
        }
        Some(TransportHeader::Tcp(tcp)) => {
            opinion.ports = Some((tcp.source_port, tcp.destination_port));
            opinion.sequence = tcp.sequence_number;
            opinion.acknowledgement = tcp.acknowledgment_number;
            opinion.window = tcp.window_size;
            opinion.flags = flags_of(&tcp);
            opinion.options = options_of(&tcp);
        }
        _ => {}
    }
    Some(opinion)
}

fn flags_of(tcp: &TcpHeader) -> u8 {
    let flags = [
        tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr,
    ];
    let bit = |(index, flag): (usize, &bool)| u8::from(*flag) << index;
    flags.iter().enumerate().map(bit).sum()
}

fn options_of(tcp: &TcpHeader) -> Options {
    let mut read = Options::default();
    for element in tcp.options_iterator() {
        match element {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => {
                read.mss = (mss != 0).then_some(mss);
            }
            Ok(TcpOptionElement::WindowScale(shift)) => read.window_scale = Some(shift.min(14)),
            Ok(TcpOptionElement::SelectiveAcknowledgementPermitted) => {
                read.sack_permitted = true;
            }
            Ok(TcpOptionElement::SelectiveAcknowledgement(first, rest)) => {
                read.sack_blocks = std::iter::once(first)
                    .chain(rest.into_iter().flatten())
                    .collect();
            }
            Ok(TcpOptionElement::Timestamp(value, echo)) => read.timestamps = Some((value, echo)),
            Ok(TcpOptionElement::Noop) => {}
            // It does not pass over options it does not know.
            Err(_) => break,
        }
    }
    read
}

/// Why the two opinions differ, as far as a reason is known.
fn difference(ours: &Result<Opinion, Unparsed>, theirs: Option<&Opinion>) -> Option<&'static str> {
    match (ours, theirs) {
        (Ok(ours), Some(theirs)) if ours == theirs => None,
        (Err(_), None) => None,
        // It stops at MPLS, PPPoE and SNAP, and beyond three VLAN tags.
        (Ok(_), None) => Some("only ours finds an IP header"),
        // It gives the IP header of what has no flow in it: a later fragment, a cut transport.
        (Err(Unparsed::NonFirstFragment), Some(theirs)) if theirs.ports.is_none() => {
            Some("non-first fragment")
        }
        (Err(Unparsed::Truncated | Unparsed::BadTransportHeader), Some(theirs))
            if theirs.ports.is_none() =>
        {
            Some("transport header cut or malformed")
        }
        // It takes a length below the header's own for the whole frame.
        (Err(Unparsed::BadIpHeader), Some(_)) => Some("IP length below its minimum"),
        (Err(_), Some(_)) => Some("only the second opinion parses it"),
        (Ok(ours), Some(theirs)) => {
            let network_alone = Opinion {
                source: ours.source.clone(),
                destination: ours.destination.clone(),
                protocol: ours.protocol,
                ttl: ours.ttl,
                ..Opinion::default()
            };
            let other_options = Opinion {
                options: theirs.options.clone(),
                ..ours.clone()
            };
            if network_alone == *theirs {
                // It reads no ports from a first fragment, nor from UDP with a wrong length.
                Some("transport header of a fragment or of a wrong length")
            } else if other_options == *theirs {
                // It stops at an option it does not know, where ours goes on.
                Some("options behind an unknown one")
            } else {
                Some("fields")
            }
        }
    }
}

/// The differences that are known and meant, and how many of 10,000 frames may show each.
const KNOWN_DIFFERENCES: [(&str, usize); 6] = [
    ("only ours finds an IP header", 60),
    ("non-first fragment", 60),
    ("transport header cut or malformed", 5),
    ("IP length below its minimum", 2),
    ("transport header of a fragment or of a wrong length", 8),
    ("options behind an unknown one", 3),
];

#[test]
fn etherparse_agrees_on_all_captures() {
    let Some(folder) = shared_captures("etherparse_agrees_on_all_captures") else {
        return;
    };
    let mut classes = BTreeMap::<&str, (usize, String)>::new();
    let mut compared = 0;
    for frame in read_folder(&folder) {
        let Some(kind) = LinkKind::from_linktype(frame.linktype) else {
            continue;
        };
        if !matches!(kind, LinkKind::Ethernet | LinkKind::None | LinkKind::Cooked) {
            continue;
        }
        compared += 1;
        let (ours, theirs) = (our_opinion(&frame, kind), second_opinion(&frame, kind));
        if let Some(class) = difference(&ours, theirs.as_ref()) {
            let entry = classes.entry(class).or_default();
            entry.0 += 1;
            if entry.0 <= 3 {
                let at = format!("  {} frame {}: ", frame.file, frame.number);
                entry.1 += &format!("{at}{ours:?}\n    {theirs:?}\n");
            }
        }
    }
    assert!(compared > 10_000, "only {compared} frames to compare");
    for (class, (count, examples)) in &classes {
        println!("{class}: {count} of {compared}");
        let bound = KNOWN_DIFFERENCES.iter().find(|(known, _)| known == class);
        let bound = bound.map_or(0, |(_, share)| share * compared / 10_000);
        assert!(*count <= bound, "{class}: {count} > {bound}\n{examples}");
    }
}
