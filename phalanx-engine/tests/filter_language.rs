//! The filter language: what is accepted, what it means, what is refused and where.

use phalanx_engine::filter::{Filter, FilterErrorKind, LinkType};
use proptest::prelude::*;

fn canonical(text: &str) -> String {
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    filter
        .expression()
        .map_or_else(String::new, ToString::to_string)
}

#[test]
fn bare_values_take_over_the_qualifiers_before_them() {
    for (text, meaning) in [
        ("port 80 or 443", "port 80 or port 443"),
        (
            "tcp dst port 80 or 443",
            "tcp dst port 80 or tcp dst port 443",
        ),
        (
            "host 10.0.0.1 and not 10.0.0.2",
            "host 10.0.0.1 and not host 10.0.0.2",
        ),
        ("port (80 or 443)", "port 80 or port 443"),
        ("port not 80", "not port 80"),
        ("port 80 or (443 or 22)", "port 80 or (port 443 or port 22)"),
        (
            "host 1.2.3.4 and (port 80) and 5.6.7.8",
            "host 1.2.3.4 and port 80 and host 5.6.7.8",
        ),
        ("src or dst net 10", "net 10.0.0.0/8"),
        ("host 10.1", "net 10.1.0.0/16"),
        ("portrange 90-80 or 22", "portrange 80-90 or port 22"),
    ] {
        assert_eq!(canonical(text), meaning, "{text}");
    }
}

#[test]
fn and_and_or_bind_equally_to_the_left() {
    assert_eq!(canonical("tcp or udp and ip6"), "(tcp or udp) and ip6");
    assert_eq!(canonical("not tcp and ip6"), "not tcp and ip6");
    assert_eq!(
        canonical("!(tcp || udp) && ip6"),
        "not (tcp or udp) and ip6"
    );
}

#[test]
fn remainder_and_xor_reach_as_far_right_as_they_can() {
    assert_eq!(canonical("7 % 4 * 3 = 7"), "7 % (4 * 3) == 7");
    assert_eq!(canonical("6 ^ 3 & 1 = 7"), "6 ^ (3 & 1) == 7");
    assert_eq!(canonical("10 - 5 - 2 = 3"), "(10 - 5) - 2 == 3");
    assert_eq!(canonical("1 + 2 << 3 = 24"), "(1 + 2) << 3 == 24");
}

#[test]
fn what_is_refused_is_named_with_its_place() {
    for (text, position, word) in [
        ("tcp gateway 10.0.0.1", 4, "gateway"),
        ("host example.org", 5, "use the address"),
        ("port http", 5, "use the port number"),
        ("tcp and", 7, "the end"),
        ("(tcp", 4, "`)`"),
        ("tcp)", 3, "`)`"),
        ("80", 0, "qualifier"),
        ("tcp or 80", 7, "qualifier"),
        ("mpls 5", 0, "mpls"),
        ("net 10.0.0.1/8", 4, "bits are set"),
        ("tcp host 10.0.0.1", 9, "no protocol"),
        ("port 70000", 5, "65535"),
        ("vlan 5000", 5, "4095"),
        ("ip[0:3] = 1", 5, "1, 2 or 4"),
        ("tcp[13]", 7, "comparison"),
        ("ether proto 5", 12, "EtherTypes"),
        ("port 80 or (443 or port 22)", 19, "bare"),
    ] {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.to_string().contains(word), "{text}: {error}");
    }
}

#[test]
fn size_is_bounded() {
    let deep = format!("{}tcp{}", "(".repeat(1000), ")".repeat(1000));
    let long = vec!["tcp"; 1200].join(" or ");
    let minus = format!("{}1 = len", "- ".repeat(500));
    let chain = vec!["1"; 500].join("%");
    for text in [
        deep,
        long,
        minus,
        format!("{chain} = 1"),
        "not ".repeat(900) + "tcp",
    ] {
        let error = Filter::parse(&text).expect_err("must be refused");
        assert!(
            matches!(error.kind, FilterErrorKind::Limit { .. }),
            "{error}"
        );
    }
    let widest = vec!["tcp"; 500].join(" or ");
    assert!(Filter::parse(&widest).is_ok());
}

#[test]
fn missing_bytes_end_the_run_even_inside_not() {
    let ethernet_ip = [&[0; 12][..], &[0x08, 0x00]].concat();
    let matches = |text: &str| {
        let program = Filter::parse(text)
            .unwrap()
            .compile(LinkType::Ethernet)
            .unwrap();
        program.matches(&ethernet_ip, 60)
    };
    assert!(matches("ip"));
    assert!(!matches("tcp"));
    assert!(!matches("not tcp"));
    assert!(matches("ip or tcp"));
    assert!(!matches("tcp or ip"));
    assert!(matches("ip6[0] = 1 or not arp"));
}

#[test]
fn link_types_refuse_what_they_lack() {
    let vlan = Filter::parse("vlan 5 and tcp").unwrap();
    assert!(vlan.compile(LinkType::Ethernet).is_ok());
    let error = vlan.compile(LinkType::Raw).unwrap_err().to_string();
    assert!(error.contains("`vlan 5` needs Ethernet"), "{error}");
    let zero = Filter::parse("tcp[0] / (1 - 1) = 1").unwrap();
    assert!(
        zero.compile(LinkType::Raw)
            .unwrap_err()
            .to_string()
            .contains("divides by zero")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_parsed_or_refused_within_it(text in "\\PC{0,60}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(error.position <= text.len());
            prop_assert!(text.is_char_boundary(error.position));
        }
    }

    #[test]
    fn any_words_are_parsed_or_refused(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "tcp", "ip", "ip6", "host", "net", "port", "src", "dst", "and", "or", "not", "(",
                ")", "[", "]", ":", "10.0.0.1", "80", "::1", "/", "8", "len", "=", "<", "&", "%",
                "-", "vlan", "proto", "ether", "00:11:22:33:44:55", "mask", "less", "portrange",
                "1-2", "\\tcp", "tcpflags", "arp", "gateway", "x",
            ]),
            0..24,
        ),
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let text = words.join(" ");
        match Filter::parse(&text) {
            Err(error) => prop_assert!(error.position <= text.len()),
            Ok(filter) => {
                let again = filter.expression().map_or_else(String::new, ToString::to_string);
                prop_assert_eq!(&Filter::parse(&again).unwrap(), &filter, "{} -> {}", text, again);
                if let Ok(program) = filter.compile(LinkType::Ethernet) {
                    let _ = program.matches(&bytes, 80);
                }
            }
        }
    }
}
