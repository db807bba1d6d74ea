//! Captures with a known story: what the analysis tells of each shows what its label says, and does
//! not show its look-alike. One line a file.

#[path = "support/captures.rs"]
mod captures;

use std::collections::BTreeMap;

use phalanx_engine::story::{FlowStory, SideCounts};

/// A file, what must hold of it, and what the label says. A fact is a name, a comparison and a
/// number; facts are sums over all conversations of a file (see [`facts`]), or over the one that
/// begins with the frame of `@`.
const LABELS: &[(&str, &str, &str)] = &[
    // Every packet is there four times with the same IP id and TTL, microseconds apart: what the
    // label calls heavy loss are copies. One answer of the server came again later with its id.
    (
        "arkime/pcap__wireshark-retrans.pcap",
        "network_duplicates>=70 retransmitted_packets<=1 timeout_recovery_ms=0",
        "heavy loss (argued: copies)",
    ),
    (
        "deepflow/flow_generator__client-keep-alive.pcap",
        "keep_alives=1 retransmitted_packets=0",
        "keep-alive (not retransmission)",
    ),
    (
        "deepflow/flow_generator__client-no-response.pcap",
        "half_open=1 established=0 client_packets=1 network_duplicates=3",
        "half-open: client never completes handshake",
    ),
    (
        "deepflow/flow_generator__client-syn-try-lack.pcap",
        "aborted=1 client_resets=2 server_syns>=1",
        "half-open then client RST",
    ),
    (
        "deepflow/flow_generator__handshake-error.pcap",
        "server_syns=2 reordered_packets=1 client_timeout_retransmissions>=2",
        "accept-backlog overflow / final ACK lost",
    ),
    (
        "deepflow/flow_generator__handshake-retrans.pcap",
        "server_retransmitted_packets=1 client_retransmitted_packets=0 established=1",
        "SYN/ACK retransmission",
    ),
    (
        "deepflow/flow_generator__ip-fragment.pcap",
        "fragmented_packets>=1 retransmitted_packets=0",
        "IP fragments",
    ),
    (
        "deepflow/flow_generator__l4-source-port-reuse.pcap",
        "reuses_ports=1 refused=0 client_resets=2",
        "port reuse",
    ),
    (
        "deepflow/flow_generator__out-of-order.pcap",
        "reordered_packets=1 retransmitted_packets=0",
        "reordering",
    ),
    (
        "deepflow/flow_generator__rtt-200ms-window-update.pcap",
        "handshake_server_ms>=200 handshake_server_ms<=220 window_updates=1 duplicate_acks=0",
        "RTT 200 ms + window update",
    ),
    (
        "deepflow/flow_generator__rtt-rtt-2.pcap",
        "client_timeout_retransmissions=2 network_duplicates=3 handshake_server_ms>=10",
        "RTT with SYN retransmission (edited: the SYNs are copies with one IP id)",
    ),
    (
        "deepflow/flow_generator__server-no-response.pcap",
        "server_packets=0 client_syns=1 refused=0 client_resets=2",
        "SYN drop (derived: SYNs with equal times and ids, then RST by the client)",
    ),
    (
        "deepflow/flow_generator__server-queue-lack.pcap",
        "server_syns=3 client_timeout_retransmissions>=6 client_unique_bytes=5 server_resets=1",
        "accept-backlog overflow",
    ),
    (
        "deepflow/flow_generator__server-reset.pcap",
        "refused=1 unanswered=0",
        "connection refused",
    ),
    (
        "deepflow/flow_generator__syn-ack-ack-retrans-and-client-payload.pcap",
        "server_syns=2 server_retransmitted_packets=1 client_timeout_retransmissions>=5",
        "SYN/ACK, ACK and data retransmission",
    ),
    (
        "deepflow/flow_generator__syn-retrans.pcap",
        "client_syns=2 client_retransmitted_packets=1 capture_duplicates=0 \
         handshake_server_ms>=216 handshake_server_ms<=217",
        "SYN loss (edited: the second SYN has the IP id of the first)",
    ),
    (
        "deepflow/flow_generator__syn-syn-ack-retrans-2.pcap",
        "client_syns=2 client_retransmitted_packets=1 server_syns=2 \
         server_retransmitted_packets=1 capture_duplicates=0",
        "SYN and SYN/ACK retransmission (edited as above)",
    ),
    (
        "deepflow/flow_generator__syn-syn-ack-retrans.pcap",
        "client_syns=2 client_retransmitted_packets=1 server_syns=2 \
         server_retransmitted_packets=1 capture_duplicates=0",
        "SYN and SYN/ACK retransmission (edited as above)",
    ),
    (
        "deepflow/flow_generator__tcp-syn-ack-zerowin.pcap",
        "zero_windows=0 zero_window_ms=0 receiver_window_ms=0",
        "zero window in SYN/ACK must not count as receiver-limited",
    ),
    (
        "deepflow/flow_generator__xiangdao-retrans.pcap",
        "starts_mid_stream=1 acks_of_unseen>=1 client_packets=0 unknown_ms>=12",
        "data retransmission (partial capture: the data is not in it)",
    ),
    (
        "dnscap/1qtcpnosyn.pcap",
        "starts_mid_stream=1 syns=0 retransmitted_packets=0",
        "mid-stream start",
    ),
    (
        "dnscap/dnso1tcp-bighole.pcap",
        "unseen_bytes>=300 acks_of_unseen>=2 retransmitted_packets=0 holes_filled=0",
        "capture gap (big hole)",
    ),
    (
        "dnscap/dnso1tcp-midmiss.pcap",
        "unseen_bytes>=150 acks_of_unseen>=2 retransmitted_packets=0 holes_filled=0",
        "capture gap (segments missing in the middle)",
    ),
    (
        "dnscap/dnso1tcp.pcap",
        "closed=1 retransmitted_packets=0 unseen_bytes=0 gaps=0 zero_windows=0 resets=0",
        "healthy",
    ),
    (
        "gopacket/layers__testdata__cip.pcap",
        "@1 capture_duplicates>=10800 retransmitted_packets<=10",
        "both sides of a router in one file",
    ),
    (
        "ndpi/cfgs__default__pcap__fix2.pcap",
        "capture_duplicates>=189 duplicate_acks>=400",
        "heavy duplication + dup ACK storm",
    ),
    (
        "skydive/flow__pcaptraces__eth-ipv4-tcp-http-ooo.pcap",
        "reordered_packets=6 retransmitted_packets=0 holes_filled=0 unseen_bytes=0",
        "reordering (shuffled capture)",
    ),
    (
        "zeek/smtp.pcap",
        "@3 client_icmp_errors=4 client_icmp_mtu=1492 timeout_recovery_ms=0 closed=1",
        "PMTUD works: ICMP frag-needed 1492",
    ),
    (
        "zeek/smtp__smtp-bdat-gap.pcap",
        "unseen_bytes=1000 acks_of_unseen=1 retransmitted_packets=0",
        "capture gap",
    ),
    (
        "zeek/tcp__fin_retransmission.pcap",
        "client_fins=2 client_retransmitted_packets>=1 server_resets=1",
        "FIN retransmission",
    ),
    (
        "zeek/tcp__handshake-reorder.pcap",
        "reordered_packets=1 retransmitted_packets=0 closed=1",
        "handshake captured out of order",
    ),
    (
        "zeek/tcp__miss_end_data.pcap",
        "unseen_bytes>=2900 retransmitted_packets=0 closed=1 server_think_ms=0",
        "capture gap at end",
    ),
    (
        "zeek/tcp__missing-syn.pcap",
        "client_syns=0 server_syns=1 retransmitted_packets=0",
        "mid-stream start (the SYN alone is missing)",
    ),
    (
        "zeek/tcp__one-sided-2745.pcap",
        "client_packets=0 acks_of_unseen>=2 server_packets=6",
        "one direction only (asymmetric capture)",
    ),
    // The first sixteen bytes of both are the same; TTL, overlap and DSACK tell them apart.
    (
        "zeek/tcp__qi_internet_SYNACK_curl_jsonip.pcap",
        "server_retransmitted_packets=1 server_ttl_range=2 dsacks=1 client_resets=3",
        "QUANTUM-insert style injection (two different data for the same seq)",
    ),
    (
        "zeek/tcp__reassembly.pcap",
        "conflicting_packets=0 gaps>=1 holes_filled>=1 retransmitted_packets>=8",
        "overlapping/odd reassembly",
    ),
    (
        "zeek/tcp__retransmit-fast009.pcap",
        "server_fast_retransmissions=3 duplicate_acks=5 timeout_retransmissions=0 \
         fast_recovery_ms>=300 timeout_recovery_ms=0",
        "loss: fast retransmit",
    ),
    // The server had acknowledged the bytes five minutes before.
    (
        "zeek/tcp__retransmit-timeout.pcapng",
        "client_retransmitted_packets=1 client_fast_retransmissions=0 duplicate_acks=0",
        "loss: RTO",
    ),
    (
        "zeek/tcp__rst-inject-rae.pcap",
        "refused=0 server_packets_after_reset>=1 server_resets=3 client_unique_bytes=175",
        "RST injection",
    ),
    (
        "zeek/tcp__ssh-dups.pcap",
        "network_duplicates>=166 retransmitted_packets=0",
        "duplicated packets in the capture (not loss)",
    ),
    (
        "zeek/tcp__syn-then-rst.pcap",
        "aborted=1 refused=0 client_resets=1",
        "RST after SYN by client",
    ),
    (
        "zeek/tcp__truncated-header.pcap",
        "cut_packets>=5 retransmitted_packets=0 unseen_bytes=0",
        "truncated headers",
    ),
    (
        "zeek/tcp__window-scale-range.pcap",
        "window_max>=1073725440 window_max<=1073741823",
        "window scale out of range (>14)",
    ),
];

/// What a report tells of some conversations: counts by side and together, states, times.
fn facts<'a>(stories: impl Iterator<Item = &'a FlowStory>) -> BTreeMap<String, f64> {
    let mut facts = BTreeMap::new();
    let mut add = |name: String, value: f64| *facts.entry(name).or_insert(0.0) += value;
    for story in stories {
        add(story.state.name().to_owned(), 1.0);
        add(
            "starts_mid_stream".into(),
            f64::from(story.starts_mid_stream),
        );
        add("reuses_ports".into(), f64::from(story.reuses_ports));
        let handshake_ns = story.handshake_server_ns.unwrap_or(0);
        add("handshake_server_ms".into(), handshake_ns as f64 / 1e6);
        for (bucket, time_ns) in story.budget.iter().flat_map(|budget| budget.iter()) {
            add(format!("{}_ms", bucket.name()), time_ns as f64 / 1e6);
        }
        for (side, told) in [
            ("client", &story.sides.client),
            ("server", &story.sides.server),
        ] {
            for (name, count) in SideCounts::NAMES.iter().zip(told.counts.values()) {
                add(format!("{side}_{name}"), count as f64);
                add((*name).to_owned(), count as f64);
            }
            add(format!("{side}_icmp_mtu"), f64::from(told.icmp_mtu));
            let ttl_range = f64::from(told.ttl_max - told.ttl_min);
            add(format!("{side}_ttl_range"), ttl_range);
        }
    }
    facts
}

/// Whether one fact holds; `window_max` is a maximum, all others are sums.
fn check(fact: &str, facts: &BTreeMap<String, f64>) -> Result<(), String> {
    let at = fact.find(['<', '>', '=']).expect("a comparison");
    let (name, rest) = fact.split_at(at);
    let (operator, number) = rest.split_at(rest.rfind('=').expect("an equals sign") + 1);
    let wanted: f64 = number.parse().expect("a number");
    let found = facts.get(name).copied().unwrap_or(0.0);
    let holds = match operator {
        "=" => (found - wanted).abs() < 1e-9,
        ">=" => found >= wanted,
        "<=" => found <= wanted,
        _ => panic!("{fact}: no such comparison"),
    };
    if holds {
        Ok(())
    } else {
        Err(format!("{fact}, found {found}"))
    }
}

#[test]
fn each_label_shows_and_its_look_alike_does_not() {
    let Some(folder) = captures::shared() else {
        return;
    };
    let mut faults = Vec::new();
    for (file, wanted, label) in LABELS {
        let stories = captures::stories(&folder.join(file), 1);
        let mut words = wanted.split_whitespace().peekable();
        let flow = words
            .next_if(|word| word.starts_with('@'))
            .map(|word| word[1..].parse::<u64>().expect("a frame"));
        let chosen = || {
            stories
                .iter()
                .map(|story| &**story)
                .filter(|story| flow.is_none_or(|flow| story.flow == flow))
        };
        let mut found = facts(chosen());
        let window = chosen()
            .map(|it| it.sides.client.window_max.max(it.sides.server.window_max))
            .max();
        found.insert("window_max".into(), f64::from(window.unwrap_or(0)));
        let wrong: Vec<String> = words.filter_map(|fact| check(fact, &found).err()).collect();
        println!(
            "{} {file}: {label}",
            if wrong.is_empty() { "ok  " } else { "FAIL" }
        );
        faults.extend(wrong.iter().map(|fact| format!("{file}: {fact} ({label})")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let labels = std::fs::read_to_string(folder.join("LABELS.tsv")).unwrap();
    let named: Vec<&str> = LABELS.iter().map(|it| it.0).collect();
    for line in labels.lines().skip(1) {
        let file = line.split('\t').next().unwrap_or_default();
        assert!(named.contains(&file), "{file} has a label and no line here");
    }
}
