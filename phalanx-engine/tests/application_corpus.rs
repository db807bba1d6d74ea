//! What the application side finds in real captures, beside what tshark finds in the same ones.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/payload.rs"]
mod payload;

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use phalanx_engine::application::{
    ApplicationStory, DnsExchange, DnsStory, QuicVersion, TlsStory, TlsVersion,
};

/// Fields that tshark is asked for.
const FIELDS: [&str; 15] = [
    "frame.number",
    "dns.id",
    "dns.flags.response",
    "dns.qry.name",
    "dns.qry.type",
    "dns.flags.rcode",
    "dns.time",
    "tls.handshake.type",
    "tls.handshake.extensions_server_name",
    "tls.handshake.version",
    "tls.handshake.extensions.supported_version",
    "http.response.code",
    "http.request.method",
    "icmp.type",
    "quic.version",
];

/// A frame as tshark sees it: values by field; a field may have several.
type Row = BTreeMap<&'static str, Vec<String>>;
/// Rows by the numbers of their frames.
type Rows = BTreeMap<u64, Row>;

/// The rows of a file in which tshark sees a protocol that matters.
fn tshark(path: &Path) -> Rows {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(path);
    command.args([
        "-Y",
        "dns || mdns || llmnr || tls || http || quic",
        "-T",
        "fields",
    ]);
    command.args(["-E", "separator=/t", "-E", "aggregator=|"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.output().expect("run tshark");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows = text.lines().map(|line| {
        let row: Row = FIELDS
            .into_iter()
            .zip(line.split('\t'))
            .filter(|(_, value)| !value.is_empty())
            .map(|(field, value)| (field, value.split('|').map(str::to_owned).collect()))
            .collect();
        (row["frame.number"][0].parse().expect("number"), row)
    });
    rows.collect()
}

/// Equal and different values by what is compared, and where they differ.
#[derive(Clone, Default)]
struct Comparison {
    equal: BTreeMap<&'static str, usize>,
    different: Vec<(&'static str, String)>,
}

impl Comparison {
    fn compare<T: PartialEq + Debug>(&mut self, what: &'static str, place: &str, ours: T, its: T) {
        // That both have nothing says nothing.
        let nothing = ["0", "false", "{}", "[0, 0, 0, 0, 0]"];
        if ours == its && nothing.contains(&&*format!("{ours:?}")) {
            return;
        }
        if ours == its {
            *self.equal.entry(what).or_default() += 1;
        } else {
            let text = format!("{place}: {ours:?}, tshark {its:?}");
            self.different.push((what, text));
        }
    }
}

fn values<'row>(row: &'row Row, field: &str) -> &'row [String] {
    row.get(field).map_or(&[], Vec::as_slice)
}

fn has(row: &Row, field: &str, value: &str) -> bool {
    values(row, field).iter().any(|it| it == value)
}

/// Seconds with nine decimals, as nanoseconds.
fn nanoseconds(seconds: &str) -> u64 {
    let (whole, part) = seconds.split_once('.').expect("decimals");
    let number = |text: &str| text.parse::<u64>().expect("digits");
    number(whole) * 1_000_000_000 + number(part)
}

/// A number as tshark writes it.
fn number(value: &str) -> u16 {
    match value.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => value.parse(),
    }
    .expect("a number")
}

fn compare_dns(name: &str, story: &DnsStory, rows: &Rows, result: &mut Comparison) {
    let all = story.first.iter().chain(&story.worst);
    let answered: BTreeMap<u64, &DnsExchange> = all
        .filter_map(|exchange| Some((exchange.answer?.frame, exchange)))
        .collect();
    for (frame, exchange) in answered {
        let place = format!("{name} frame {frame}");
        let Some(row) = rows.get(&frame) else {
            result.compare("DNS answer", &place, true, false);
            continue;
        };
        let asked = match &*exchange.name {
            "." => "<Root>",
            name => name,
        };
        let codes: Vec<u16> = values(row, "dns.flags.rcode")
            .iter()
            .map(|it| number(it))
            .collect();
        result.compare(
            "DNS name",
            &place,
            vec![asked],
            strings(values(row, "dns.qry.name")),
        );
        let types: Vec<u16> = values(row, "dns.qry.type")
            .iter()
            .map(|it| number(it))
            .collect();
        result.compare("DNS type", &place, vec![exchange.record_type.0], types);
        result.compare(
            "DNS code",
            &place,
            vec![exchange.rcode.unwrap_or_default().0],
            codes,
        );
        let times: Vec<u64> = values(row, "dns.time")
            .iter()
            .map(|it| nanoseconds(it))
            .collect();
        let delays: Vec<u64> = exchange.delay_ns().into_iter().collect();
        result.compare("DNS time", &place, delays, times);
    }
}

fn strings(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}

fn compare_tls(name: &str, story: &TlsStory, rows: &Rows, result: &mut Comparison) {
    if let Some(hello) = story.client_hello {
        let place = format!("{name} frame {}", hello.frame);
        let row = rows.get(&hello.frame);
        let is_hello = row.is_some_and(|row| has(row, "tls.handshake.type", "1"));
        result.compare("TLS ClientHello", &place, true, is_hello);
        if let Some(row) = row.filter(|_| is_hello) {
            let ours: Vec<&str> = story.server_name.as_deref().into_iter().collect();
            let its = strings(values(row, "tls.handshake.extensions_server_name"));
            result.compare("TLS server name", &place, ours, its);
        }
    }
    if let Some(hello) = story.server_hello {
        let place = format!("{name} frame {}", hello.frame);
        let row = rows.get(&hello.frame);
        let is_hello = row.is_some_and(|row| has(row, "tls.handshake.type", "2"));
        result.compare("TLS ServerHello", &place, true, is_hello);
        if let Some(row) = row.filter(|_| is_hello) {
            let chosen = values(row, "tls.handshake.extensions.supported_version").first();
            let chosen = chosen.or(values(row, "tls.handshake.version").first());
            let its = chosen.map(|it| number(it));
            result.compare(
                "TLS version",
                &place,
                story.version_chosen.map(|it| it.0),
                its,
            );
        }
    }
}

/// Counts of a file's stories beside those of its rows.
fn compare_counts(name: &str, stories: &[ApplicationStory], rows: &Rows, result: &mut Comparison) {
    let count = |field: &str, is: &dyn Fn(&str) -> bool| -> usize {
        let all = rows.values().flat_map(|row| values(row, field));
        all.filter(|value| is(value)).count()
    };
    let dns = || stories.iter().filter_map(|story| story.dns.as_deref());
    let queries: u32 = dns().map(|it| it.counts.queries + it.counts.retries).sum();
    let answers: u32 = dns().map(|it| it.counts.answers).sum();
    let answered: u32 = dns().map(|it| it.counts.answered).sum();
    let its = |value: &'static str| count("dns.flags.response", &|it| it == value);
    result.compare("DNS queries", name, queries as usize, its("0"));
    result.compare("DNS answers", name, answers as usize, its("1"));
    result.compare(
        "DNS answered",
        name,
        answered as usize,
        count("dns.time", &|_| true),
    );
    let tls = || stories.iter().filter_map(|story| story.tls.as_deref());
    let hellos = tls().filter(|it| it.client_hello.is_some()).count();
    let its = count("tls.handshake.type", &|it| it == "1");
    result.compare("TLS ClientHellos", name, hellos, its);
    let hellos = tls().filter(|it| it.server_hello.is_some()).count();
    let its = count("tls.handshake.type", &|it| it == "2");
    result.compare("TLS ServerHellos", name, hellos, its);
    let http = || stories.iter().filter_map(|story| story.http.as_deref());
    let requests: u32 = http().map(|it| it.requests).sum();
    let its = count("http.request.method", &|_| true);
    result.compare("HTTP requests", name, requests as usize, its);
    let its: Vec<usize> = ('1'..='5')
        .map(|class| count("http.response.code", &|it| it.starts_with(class)))
        .collect();
    let ours: Vec<usize> = (0..5)
        .map(|class| http().map(|it| it.status_classes[class] as usize).sum())
        .collect();
    result.compare("HTTP status classes", name, ours, its);
    let (mut ours, mut its) = (BTreeMap::<u16, usize>::new(), BTreeMap::new());
    for code in http().flat_map(|it| &it.first).filter_map(|it| it.status) {
        *ours.entry(code).or_default() += 1;
    }
    for code in rows
        .values()
        .flat_map(|row| values(row, "http.response.code"))
    {
        *its.entry(number(code)).or_default() += 1;
    }
    result.compare("HTTP codes", name, ours, its);
    let quic = stories.iter().filter(|story| story.quic.is_some()).count();
    let its = rows.values().any(|row| row.contains_key("quic.version"));
    result.compare("QUIC", name, quic > 0, its);
}

/// What differs and why: what is compared, the file, both values; the cause.
const KNOWN: [(&str, &str); 25] = [
    (
        "DNS queries: arkime/pcap__arkime_synthetic.pcap: 25, tshark 27",
        "the parser does not look into VXLAN-GPE",
    ),
    (
        "DNS answers: arkime/pcap__arkime_synthetic.pcap: 22, tshark 23",
        "the parser looks into Geneve toward its port alone",
    ),
    (
        "DNS answered: arkime/pcap__arkime_synthetic.pcap: 17, tshark 18",
        "the parser looks into Geneve toward its port alone",
    ),
    (
        "TLS ClientHello: arkime/pcap__arkime_synthetic.pcap frame 282: true, tshark false",
        "the hello is cut; tshark waits for its end",
    ),
    (
        "DNS code: arkime/pcap__arkime_synthetic.pcap frame 698: [16], tshark [0]",
        "tshark leaves out the upper bits, which the OPT record has",
    ),
    (
        "TLS version: arkime/pcap__arkime_synthetic.pcap frame 904: Some(771), tshark Some(44)",
        "tshark reads beyond an empty extension",
    ),
    (
        "HTTP status classes: arkime/pcap__wireshark-retrans.pcap: \
         [0, 4, 0, 0, 0], tshark [0, 6, 0, 0, 0]",
        "tshark counts retransmitted copies",
    ),
    (
        "HTTP codes: arkime/pcap__wireshark-retrans.pcap: {200: 4}, tshark {200: 6}",
        "tshark counts retransmitted copies",
    ),
    (
        "HTTP requests: deepflow/common__decapsulate_erspan1.pcap: 23, tshark 15",
        "tshark tells of a message once its body has come",
    ),
    (
        "HTTP status classes: deepflow/common__decapsulate_erspan1.pcap: \
         [0, 17, 0, 0, 0], tshark [0, 12, 0, 0, 0]",
        "tshark tells of a message once its body has come",
    ),
    (
        "HTTP codes: deepflow/common__decapsulate_erspan1.pcap: {200: 17}, tshark {200: 12}",
        "tshark tells of a message once its body has come",
    ),
    (
        "HTTP requests: gopacket/layers__testdata__cip.pcap: 1, tshark 0",
        "the head is cut; tshark waits for its end",
    ),
    (
        "DNS queries: libpcap/filter__http_PPI.pcap: 0, tshark 1",
        "the parser does not know this link type",
    ),
    (
        "DNS answers: libpcap/filter__http_PPI.pcap: 0, tshark 1",
        "the parser does not know this link type",
    ),
    (
        "DNS answered: libpcap/filter__http_PPI.pcap: 0, tshark 1",
        "the parser does not know this link type",
    ),
    (
        "TLS ClientHellos: ndpi/cfgs__default__pcap__tls_invalid_reads.pcap: 1, tshark 2",
        "the parser does not look into GTP",
    ),
    (
        "DNS answers: pcapplusplus/Packet++Test__PacketExamples__GrePackets.pcap: 0, tshark 1",
        "the parser does not look into PPP in GRE",
    ),
    (
        "HTTP status classes: skydive/flow__pcaptraces__eth-ipv4-tcp-http-ooo.pcap: \
         [0, 1, 0, 0, 0], tshark [0, 0, 0, 0, 0]",
        "the head comes out of order; tshark does not find it",
    ),
    (
        "HTTP codes: skydive/flow__pcaptraces__eth-ipv4-tcp-http-ooo.pcap: {200: 1}, tshark {}",
        "the head comes out of order; tshark does not find it",
    ),
    (
        "HTTP requests: suricata-verify/filestore-5408__input.pcap: 8, tshark 14",
        "tshark looks into what ICMP and sFlow quote",
    ),
    (
        "HTTP status classes: suricata-verify/filestore-5408__input.pcap: \
         [0, 8, 0, 0, 0], tshark [0, 9, 0, 0, 0]",
        "tshark looks into what ICMP and sFlow quote",
    ),
    (
        "HTTP codes: suricata-verify/filestore-5408__input.pcap: {200: 8}, tshark {200: 9}",
        "tshark looks into what ICMP and sFlow quote",
    ),
    (
        "TLS ServerHello: zeek/pppoe-over-qinq.pcap frame 5: true, tshark false",
        "tshark waits for the end of the record",
    ),
    (
        "TLS ServerHello: zeek/smtp.pcap frame 102: true, tshark false",
        "tshark waits for the end of the record",
    ),
    (
        "HTTP requests: zeek/tcp__reassembly.pcap: 1, tshark 0",
        "tshark tells of a message once its body has come",
    ),
];

/// Whether a file has bytes without which tshark sees none of the protocols: it takes half a second
/// to start.
fn may_tell(path: &Path) -> bool {
    let bytes = fs::read(path).expect("read capture");
    bytes.windows(3).any(|window| {
        let is_tls = matches!(*window, [0x14..=0x17, 3, 0..=4]);
        let is_port = matches!(
            *window,
            [0, 0x35, _] | [0x14, 0xe9 | 0xeb, _] | [1, 0xbb, _]
        );
        is_tls || is_port || window == b"TP/"
    })
}

/// Compares one file.
fn compare_file(name: &str, path: &Path) -> Comparison {
    let mut result = Comparison::default();
    let stories = payload::stories(path);
    let is_worth = may_tell(path) || stories.iter().any(|story| story.protocol.is_some());
    let rows = if is_worth { tshark(path) } else { Rows::new() };
    compare_counts(name, &stories, &rows, &mut result);
    for story in &stories {
        if let Some(dns) = &story.dns {
            compare_dns(name, dns, &rows, &mut result);
        }
        if let Some(tls) = &story.tls {
            compare_tls(name, tls, &rows, &mut result);
        }
    }
    result
}

#[test]
fn tshark_finds_the_same() {
    let Some(folder) = corpus::shared_captures() else {
        return;
    };
    let has_tshark = Command::new("tshark").arg("--version").output().is_ok();
    if !has_tshark || !corpus::has_tcpdump() {
        println!("SKIPPED: tshark or tcpdump is not installed");
        return;
    }
    let paths = corpus::list(&folder);
    let results: Vec<Comparison> = thread::scope(|scope| {
        let halves = paths.chunks(paths.len().div_ceil(2)).map(|half| {
            let folder = &folder;
            scope.spawn(move || {
                half.iter()
                    .map(|path| compare_file(&named(folder, path), path))
                    .collect()
            })
        });
        let halves: Vec<_> = halves.collect();
        let halves = halves
            .into_iter()
            .map(|half| half.join().expect("a comparison"));
        halves.collect::<Vec<Vec<_>>>().concat()
    });
    let mut equal = BTreeMap::<&str, usize>::new();
    let mut unknown = Vec::new();
    for result in &results {
        for (what, count) in &result.equal {
            *equal.entry(what).or_default() += count;
        }
        for (what, text) in &result.different {
            let text = format!("{what}: {text}");
            match KNOWN.iter().find(|(known, _)| *known == text) {
                Some((_, cause)) => println!("{text}: {cause}"),
                None => unknown.push(text),
            }
        }
    }
    let (same, other) = (equal.values().sum::<usize>(), KNOWN.len() + unknown.len());
    println!("equal {same}, different {other}: {equal:#?}");
    assert_eq!(unknown, Vec::<String>::new());
    assert!(
        equal["DNS time"] >= 40 && equal["TLS server name"] >= 25,
        "too little to compare"
    );
}

/// The path of a file below the folder of all.
fn named(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// One line of what a flow's story comes to.
fn line(story: &ApplicationStory) -> Option<String> {
    let mut words = vec![story.protocol?.name().to_owned()];
    if let Some(dns) = &story.dns {
        let counts = &dns.counts;
        words.push(format!(
            "{:?} {} queries {} retries {} answers {} unanswered",
            dns.kind, counts.queries, counts.retries, counts.answers, counts.unanswered
        ));
        let codes = dns.rcodes.iter();
        words.extend(codes.map(|(code, count)| format!("{}={count}", code.name().unwrap_or("?"))));
        words.extend(
            dns.delays
                .mean_ns()
                .map(|mean_ns| format!("mean {mean_ns} ns")),
        );
    }
    if let Some(tls) = &story.tls {
        let versions = [tls.version_offered, tls.version_chosen];
        let versions = versions.map(|it| it.and_then(TlsVersion::name).unwrap_or("-"));
        words.push(format!("{} to {}", versions[0], versions[1]));
        words.push(format!("hello {:?} ns", tls.hello_delay_ns()));
        words.push(format!("resumed {:?}", tls.is_resumed));
        words.extend(
            tls.alerts
                .iter()
                .map(|alert| alert.name().unwrap_or("?").to_owned()),
        );
    }
    for http in [&story.http, &story.inner_http].into_iter().flatten() {
        words.push(format!(
            "{} requests {} responses {:?} {} unanswered {} cut",
            http.requests, http.responses, http.status_classes, http.unanswered, http.cut
        ));
        words.extend(
            http.delays
                .mean_ns()
                .map(|mean_ns| format!("mean {mean_ns} ns")),
        );
    }
    if let Some(quic) = &story.quic {
        let name = quic.version.and_then(QuicVersion::name);
        words.push(format!(
            "{name:?} {:?} {:?}",
            quic.long_count,
            quic.hello_delay_ns()
        ));
    }
    Some(words.join(", "))
}

#[test]
fn flows_of_real_captures_are_told() {
    let Some(folder) = corpus::shared_captures().filter(|_| corpus::has_tcpdump()) else {
        return;
    };
    let mut text = String::new();
    for path in corpus::list(&folder) {
        let stories = payload::stories(&path);
        let mut lines = BTreeMap::<String, usize>::new();
        for line in stories.iter().filter_map(line) {
            *lines.entry(line).or_default() += 1;
        }
        if !lines.is_empty() {
            writeln!(text, "{}", named(&folder, &path)).expect("text");
        }
        for (line, count) in lines {
            writeln!(text, "  {count} x {line}").expect("text");
        }
    }
    insta::assert_snapshot!(text);
}
