//! Reports made by hand: conversations as captures show them, and names of an enemy.

use std::collections::BTreeMap;
use std::net::IpAddr;

use phalanx::report::{ConversationReport, Damage, HopReport, Plot, Report, Totals, rank};
use phalanx_engine::application::{
    Alert, ApplicationProtocol, ApplicationStory, Delays, DnsCounts, DnsExchange, DnsStory,
    HttpExchange, HttpStory, Moment, QuicStory, QuicVersion, Rcode, RecordType, SpinStory, SpinUse,
    TlsStory, TlsVersion,
};
use phalanx_engine::budget::{Bucket, TimeBudget};
use phalanx_engine::segment::{Class, Mark};
use phalanx_engine::story::{ConnectionState, FlowStory, SideStory, TurnStory};
use phalanx_engine::{Distribution, Endpoint, RoleBasis, Side, Sides};

use super::transfer::{Script, transfer};

/// 2026-11-25 12:00:00.123456789 UTC.
pub(crate) const START_NS: i64 = 1_795_608_000_123_456_789;
const MS: i64 = 1_000_000;

/// A name that must not be run, not move the cursor and not turn the text around.
pub(crate) const HOSTILE: &str = "</script><script>window.hacked=1</script>\
    <img src=x onerror=window.hacked=1>\u{1b}[2J\u{202e}\u{2028}&\"'";

fn ends(client: (&str, u16), server: (&str, u16)) -> Option<Sides<Endpoint>> {
    let end = |(address, port): (&str, u16)| Endpoint {
        address: address.parse::<IpAddr>().unwrap(),
        port,
    };
    Some(Sides {
        client: end(client),
        server: end(server),
    })
}

fn times(list: &[i64]) -> Distribution {
    list.iter().copied().collect()
}

fn side(packets: u64, payload: u64) -> SideStory {
    let mut story = SideStory {
        mss: 1_460,
        window_scale: Some(7),
        sack_permitted: true,
        has_timestamps: true,
        window_min: Some(29_312),
        window_max: 65_535,
        ttl_min: 57,
        ttl_max: 57,
        silence_max_ns: 55 * MS,
        ..SideStory::default()
    };
    let counts = &mut story.counts;
    counts.packets = packets;
    counts.bytes = packets * 52 + payload;
    counts.payload_bytes = payload;
    counts.unique_bytes = payload;
    counts.data_packets = payload.div_ceil(1_448);
    counts.pure_acks = packets.saturating_sub(counts.data_packets);
    counts.syns = 1;
    if payload > 0 {
        story.flight_max = payload.min(90_000);
        story.congestion_window = 62_264;
        story.segment_max = 1_448;
        story.data_first_ns = Some(START_NS + 40 * MS);
        story.data_last_ns = Some(START_NS + 1_900 * MS);
        story.rto_ns = Some(240 * MS);
        story.rtt = times(&[40 * MS, 41 * MS, 44 * MS, 63 * MS]);
    }
    story
}

fn budget(times: &[(Bucket, i64)]) -> Option<TimeBudget> {
    Some(times.iter().copied().collect())
}

fn tcp(flow: u64, state: ConnectionState, times: &[(Bucket, i64)]) -> FlowStory {
    let budget = budget(times);
    FlowStory {
        flow,
        last_frame: flow + 40,
        protocol: 6,
        role_basis: Some(RoleBasis::Opener),
        start_ns: START_NS + i64::try_from(flow).unwrap() * MS,
        duration_ns: budget.map_or(0, |budget| budget.total_ns()),
        state,
        budget,
        ..FlowStory::default()
    }
}

/// The counts and times that the packets of a plot show.
fn measure(plot: &Plot, story: &mut FlowStory) {
    for segment in &plot.segments {
        let side = story.sides.get_mut(segment.side);
        let counts = &mut side.counts;
        counts.packets += 1;
        counts.bytes += 52 + u64::from(segment.length);
        counts.data_packets += u64::from(segment.length > 0);
        counts.payload_bytes += u64::from(segment.length);
        counts.zero_windows += u64::from(segment.marks.has(Mark::ZeroWindow));
        counts.window_updates += u64::from(segment.marks.has(Mark::WindowUpdate));
        counts.window_full += u64::from(segment.marks.has(Mark::WindowFull));
        counts.duplicate_acks += u64::from(segment.marks.has(Mark::DuplicateAck));
        counts.sacks += u64::from(segment.marks.has(Mark::Sack));
        counts.syns += u64::from(segment.flags & 2 != 0);
        counts.fins += u64::from(segment.flags & 1 != 0);
        let is_again = segment.class.is_some_and(Class::is_retransmission);
        counts.retransmitted_packets += u64::from(is_again);
        counts.retransmitted_bytes += u64::from(is_again) * u64::from(segment.length);
        let class = segment.class;
        counts.fast_retransmissions += u64::from(class == Some(Class::FastRetransmission));
        counts.timeout_retransmissions += u64::from(class == Some(Class::TimeoutRetransmission));
        counts.unique_bytes = counts.payload_bytes - counts.retransmitted_bytes;
        side.flight_max = side.flight_max.max(segment.flight.unwrap_or(0));
        side.congestion_window = side.flight_max / 2;
        side.segment_max = side.segment_max.max(segment.length);
        let window = segment.window.unwrap_or(0);
        side.window_max = side.window_max.max(window);
        side.window_min = Some(side.window_min.unwrap_or(u32::MAX).min(window));
    }
    for side in [Side::Client, Side::Server] {
        let other = plot.segments.iter().filter(|segment| segment.side != side);
        let rtt = other.filter_map(|segment| segment.rtt_ns).collect();
        let story = story.sides.get_mut(side);
        story.rtt = rtt;
        (story.mss, story.ttl_min, story.ttl_max) = (1_460, 57, 64);
        (story.window_scale, story.sack_permitted) = (Some(7), true);
    }
}

/// A transfer with its plot, and a budget that its shape suggests.
pub(crate) fn download(id: &str, script: &Script) -> ConversationReport {
    let plot = transfer(script, START_NS);
    let last_ns = plot.segments.last().unwrap().time_ns;
    let life = last_ns - START_NS;
    let parts = [
        (Bucket::Handshake, 40_240_000),
        (Bucket::ServerThink, 55 * MS),
        (Bucket::ZeroWindow, script.stall.map_or(0, |it| it.1)),
        (Bucket::FastRecovery, 62 * MS),
        (Bucket::TimeoutRecovery, 260_123_456),
        (Bucket::Close, 41 * MS),
    ];
    let rest = life - parts.iter().map(|(_, ns)| ns).sum::<i64>();
    let mut story = tcp(1, ConnectionState::Closed, &parts);
    story.start_ns = START_NS;
    story.duration_ns = life;
    story.last_frame = plot.segments.last().unwrap().number;
    story.budget = budget(&[&parts[..], &[(Bucket::Path, rest)]].concat());
    story.endpoints = ends(("10.0.0.2", 51_000), ("10.0.1.2", 8_080));
    story.handshake_server_ns = Some(150_000);
    story.handshake_client_ns = Some(40 * MS);
    story.turns = TurnStory {
        count: 1,
        is_last_unanswered: false,
        think: times(&[55 * MS]),
        idle: Distribution::default(),
        transfer: times(&[life - 140 * MS]),
    };
    story.application = http();
    measure(&plot, &mut story);
    let mut report = ConversationReport::new(id.to_owned(), "edge".to_owned(), story);
    report.plot = Some(plot);
    report
}

/// The transfer of most tests.
pub(crate) const SCRIPT: Script = Script {
    segment_count: 700,
    lost: &[150, 690, 699],
    buffer: 160_000,
    stall: Some((420, 310_000_000)),
};

fn unanswered() -> FlowStory {
    let waits = [(Bucket::Handshake, 3_012 * MS)];
    let mut story = tcp(7, ConnectionState::Unanswered, &waits);
    story.endpoints = ends(("10.0.0.2", 51_002), ("10.0.9.9", 5_432));
    story.sides.client = side(3, 0);
    story.sides.client.counts.syns = 3;
    story.sides.client.counts.retransmitted_packets = 2;
    story.sides.client.window_min = None;
    story
}

fn reset() -> FlowStory {
    let times = [
        (Bucket::Handshake, 12_345_678),
        (Bucket::ServerThink, 2_400 * MS + 1),
        (Bucket::Path, 18 * MS),
        (Bucket::Unknown, 7),
    ];
    let mut story = tcp(12, ConnectionState::Reset, &times);
    story.endpoints = ends(("2001:db8::2", 51_003), ("2001:db8:1::80", 443));
    story.handshake_server_ns = Some(12_100_000);
    story.handshake_client_ns = Some(245_678);
    story.reuses_ports = true;
    story.sides.client = side(9, 1_200);
    story.sides.server = side(6, 4_000);
    story.sides.server.icmp_mtu = 1_400;
    story.sides.server.counts.resets = 2;
    story.sides.server.counts.unfitting_resets = 1;
    story.sides.client.counts.capture_duplicates = 3;
    story.turns.count = 2;
    story.turns.is_last_unanswered = true;
    story.turns.think = [3 * MS, 2_400 * MS].into_iter().collect();
    story.turns.idle = [300 * MS].into_iter().collect();
    story.application = tls();
    story
}

fn mid_stream() -> FlowStory {
    let mut story = tcp(
        20,
        ConnectionState::Established,
        &[(Bucket::Unknown, 9_999 * MS)],
    );
    story.endpoints = ends(("10.0.0.7", 40_000), ("10.0.1.2", 22));
    story.role_basis = Some(RoleBasis::Port);
    story.starts_mid_stream = true;
    story.sides.server = side(44, 50_000);
    story.sides.server.counts.syns = 0;
    story.sides.server.counts.unseen_bytes = 2_896;
    story.sides.server.counts.cut_packets = 35;
    story.sides.server.counts.holes_filled = 2;
    story.network_identifier = Some(4_242);
    story
}

fn datagrams() -> FlowStory {
    let mut story = FlowStory {
        flow: 30,
        last_frame: 33,
        protocol: 17,
        endpoints: ends(("10.0.0.2", 40_001), ("10.0.0.53", 53)),
        role_basis: Some(RoleBasis::Opener),
        start_ns: START_NS + 400 * MS,
        duration_ns: 5_020 * MS,
        gaps: Some(times(&[20 * MS, 5_000 * MS])),
        ..FlowStory::default()
    };
    for side in [&mut story.sides.client, &mut story.sides.server] {
        side.counts.packets = 2;
        side.counts.bytes = 180;
        side.counts.data_packets = 2;
        side.counts.payload_bytes = 124;
        side.counts.unique_bytes = 124;
        (side.ttl_min, side.ttl_max) = (64, 64);
    }
    story.sides.client.counts.icmp_errors = 1;
    story.turns.count = 1;
    story.turns.think = times(&[20 * MS]);
    story.application = dns();
    story
}

fn moment(milliseconds: i64, frame: u64) -> Moment {
    Moment {
        time_ns: START_NS + milliseconds * MS,
        frame,
    }
}

fn delays(count: u32, min_ms: u64, max_ms: u64) -> Delays {
    Delays {
        count,
        sum_ns: (min_ms + max_ms) * 1_000_000 * u64::from(count) / 2,
        min_ns: min_ms * 1_000_000,
        max_ns: max_ms * 1_000_000,
    }
}

fn dns() -> ApplicationStory {
    let query = |name: &str, answer, rcode| DnsExchange {
        name: name.into(),
        record_type: RecordType(28),
        query: moment(0, 30),
        answer,
        rcode,
        retry_count: 1,
        is_truncated: false,
    };
    let good = query("shop.example.", Some(moment(20, 31)), Some(Rcode(0)));
    let lost = query("gone.example.", None, None);
    ApplicationStory {
        protocol: Some(ApplicationProtocol::Dns),
        dns: Some(Box::new(DnsStory {
            counts: DnsCounts {
                queries: 2,
                retries: 1,
                answers: 1,
                answered: 1,
                unanswered: 1,
                ..DnsCounts::default()
            },
            rcodes: vec![(Rcode(0), 1)],
            delays: delays(1, 20, 20),
            first: vec![good.clone(), lost.clone()],
            worst: vec![lost, good],
            ..DnsStory::default()
        })),
        ..ApplicationStory::default()
    }
}

fn tls() -> ApplicationStory {
    ApplicationStory {
        protocol: Some(ApplicationProtocol::Tls),
        tls: Some(Box::new(TlsStory {
            server_name: Some("shop.example".into()),
            alpn_offered: Some("h2".into()),
            alpn_chosen: Some("h2".into()),
            version_offered: Some(TlsVersion(0x0304)),
            version_chosen: Some(TlsVersion(0x0303)),
            cipher_suite: Some(0xc02f),
            client_hello: Some(moment(25, 15)),
            hello_retry: Some(moment(31, 16)),
            server_hello: Some(moment(37, 17)),
            is_resumed: Some(false),
            application_data: Sides {
                client: Some(moment(60, 20)),
                server: Some(moment(75, 21)),
            },
            alerts: vec![Alert {
                side: Side::Server,
                level: 2,
                description: 80,
                moment: moment(90, 24),
            }],
            ..TlsStory::default()
        })),
        ..ApplicationStory::default()
    }
}

fn http() -> ApplicationStory {
    let exchange = HttpExchange {
        method: "GET",
        path: "/catalogue?page=1".into(),
        host: Some("shop.example".into()),
        request: Some(moment(40, 4)),
        response: Some(moment(95, 5)),
        status: Some(200),
    };
    let story = HttpStory {
        requests: 1,
        responses: 1,
        status_classes: [0, 1, 0, 0, 0],
        delays: delays(1, 55, 55),
        first: vec![exchange.clone()],
        worst: vec![exchange],
        ..HttpStory::default()
    };
    ApplicationStory {
        protocol: Some(ApplicationProtocol::Http),
        http: Some(Box::new(story.clone())),
        inner_http: Some(Box::new(story)),
        ..ApplicationStory::default()
    }
}

fn quic() -> FlowStory {
    let mut story = datagrams();
    (story.flow, story.last_frame) = (60, 95);
    story.endpoints = ends(("10.0.0.2", 40_777), ("192.0.2.44", 443));
    story.sides.client.counts.icmp_errors = 0;
    let story_of_quic = QuicStory {
        version: Some(QuicVersion(1)),
        versions_offered: vec![QuicVersion(1)],
        client_initial: Some(moment(400, 60)),
        retry: Some(moment(412, 61)),
        version_negotiation: Some(moment(406, 61)),
        server_hello: Some(moment(433, 63)),
        destination_id_length: Some(8),
        source_id_length: Sides {
            client: Some(0),
            server: Some(20),
        },
        short: Sides {
            client: Some(moment(445, 66)),
            server: Some(moment(457, 67)),
        },
        spin: SpinStory {
            usage: SpinUse::Active,
            round_trips: Sides {
                client: delays(12, 19, 40),
                server: delays(12, 19, 41),
            },
            halves: Sides {
                client: delays(12, 1, 2),
                server: delays(12, 18, 39),
            },
            ..SpinStory::default()
        },
        ..QuicStory::default()
    };
    story.application = ApplicationStory {
        protocol: Some(ApplicationProtocol::Quic),
        quic: Some(Box::new(story_of_quic)),
        ..ApplicationStory::default()
    };
    story
}

fn unknown_protocol() -> FlowStory {
    let mut story = FlowStory {
        flow: 50,
        last_frame: 50,
        protocol: 89,
        endpoints: ends(("10.0.0.1", 0), ("224.0.0.5", 0)),
        role_basis: Some(RoleBasis::Order),
        start_ns: START_NS,
        ..FlowStory::default()
    };
    story.sides.client.counts.packets = 1;
    story.sides.client.counts.bytes = 64;
    (story.sides.client.ttl_min, story.sides.client.ttl_max) = (1, 1);
    story
}

/// A hop with all there is to say of one.
pub(crate) fn hop(id: &str, source: &str) -> HopReport {
    HopReport {
        id: id.to_owned(),
        source: source.to_owned(),
        packets: 1_560,
        unparsed: BTreeMap::from([("arp", 12), ("non_first_fragment", 2)]),
        notes: BTreeMap::from([("packets captured twice".to_owned(), 3)]),
        damage: Some(Damage {
            offset: 1_234_567,
            frame: 1_560,
            reason: "the record claims 1,500 bytes, the file has 12 more".to_owned(),
        }),
        link_types: BTreeMap::from([("Ethernet".to_owned(), 1_560)]),
        first_ns: Some(START_NS),
        last_ns: Some(START_NS + 10_019 * MS),
        gaps: vec![(START_NS + 1_000 * MS, START_NS + 2_500 * MS)],
        clock: None,
        translations: BTreeMap::new(),
    }
}

/// A report with a conversation of each kind, the worst first.
pub(crate) fn report() -> Report {
    let mut conversations = vec![download("1", &SCRIPT)];
    let stories = [
        ("2", unanswered()),
        ("3", reset()),
        ("4", mid_stream()),
        ("5", datagrams()),
        ("6", unknown_protocol()),
        ("7", quic()),
    ];
    for (id, story) in stories {
        let id = id.to_owned();
        conversations.push(ConversationReport::new(id, "edge".to_owned(), story));
    }
    rank(&mut conversations);
    Report {
        hops: vec![hop("edge", "captures/edge.pcap")],
        conversations,
        totals: Totals {
            conversations: 9,
            omitted: 3,
            evicted_flows: 2,
            packets: 1_560,
            bytes: 1_234_567,
            duration_ns: 10_019 * MS,
        },
    }
}

/// A report whose every name is an enemy's, of two hops.
pub(crate) fn hostile() -> Report {
    let mut report = report();
    report.hops = vec![hop(HOSTILE, HOSTILE), hop("core", "core.pcap")];
    report.hops[0].notes = BTreeMap::from([(HOSTILE.to_owned(), 1)]);
    report.hops[0].link_types = BTreeMap::from([(HOSTILE.to_owned(), 1)]);
    if let Some(damage) = &mut report.hops[0].damage {
        damage.reason = HOSTILE.to_owned();
    }
    for conversation in &mut report.conversations {
        conversation.id = format!("{}{HOSTILE}", conversation.id);
        conversation.hop = HOSTILE.to_owned();
        conversation.worst_because = HOSTILE.to_owned();
        blacken(&mut conversation.story.application);
    }
    report
}

/// Puts the enemy's words wherever a packet may bring its own.
fn blacken(application: &mut ApplicationStory) {
    let dns = application.dns.iter_mut();
    for exchange in dns.flat_map(|dns| dns.first.iter_mut().chain(&mut dns.worst)) {
        exchange.name = HOSTILE.into();
    }
    if let Some(tls) = &mut application.tls {
        let words: Option<Box<str>> = Some(HOSTILE.into());
        tls.server_name.clone_from(&words);
        tls.alpn_offered.clone_from(&words);
        tls.alpn_chosen = words;
    }
    let http = application
        .http
        .iter_mut()
        .chain(&mut application.inner_http);
    for exchange in http.flat_map(|http| http.first.iter_mut().chain(&mut http.worst)) {
        exchange.path = HOSTILE.into();
        exchange.host = Some(HOSTILE.into());
    }
}
