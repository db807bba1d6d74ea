//! Expressions drawn from the grammar with a fixed seed; literals come from frames.

#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../../../phalanx-common/tests/support/random.rs"]
mod random;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) use random::Random;

use super::corpus::Frame;

/// The constructs of the language; each is the main one of an equal share of expressions.
pub(crate) const CONSTRUCTS: [&str; 30] = [
    "host",
    "ip/arp/rarp host",
    "host ip6",
    "net /len",
    "net mask",
    "net short",
    "net ip6",
    "port",
    "tcp/udp port",
    "portrange",
    "protocol name",
    "proto number",
    "proto name",
    "src",
    "dst",
    "src or dst",
    "src and dst",
    "ether host",
    "ether proto",
    "broadcast/multicast",
    "vlan",
    "less/greater",
    "len",
    "tcp flags",
    "icmp type",
    "bytes",
    "arithmetic",
    "not",
    "parentheses",
    "taken-over qualifiers",
];

/// A generated expression and the constructs in it.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) text: String,
    pub(crate) constructs: BTreeSet<&'static str>,
}

impl Random {
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// What a frame offers as literals.
#[derive(Debug, Clone, Default)]
struct Facts {
    macs: Vec<[u8; 6]>,
    ether_type: u16,
    vlan: Option<u16>,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    protocol: u8,
    ports: Vec<u16>,
    flags: Option<u8>,
    message: Option<u8>,
    ttl: u8,
    length: u32,
}

/// Draws expressions about Ethernet frames.
pub(crate) struct Generator {
    facts: Vec<Facts>,
    current: Facts,
    pub(crate) random: Random,
    used: BTreeSet<&'static str>,
}

impl Generator {
    pub(crate) fn new(frames: &[Frame], seed: u64) -> Self {
        let facts = frames.iter().map(Facts::of).collect();
        Self {
            facts,
            current: Facts::default(),
            random: Random(seed),
            used: BTreeSet::new(),
        }
    }

    /// One expression with `main` in it.
    pub(crate) fn sample(&mut self, main: &'static str) -> Sample {
        self.used.clear();
        self.refresh(main);
        let text = match main {
            "not" => self.negation(),
            "parentheses" => self.group(),
            "taken-over qualifiers" => self.inherited(),
            _ => self.term(main),
        };
        self.used.insert(main);
        let mut text = text;
        for _ in 0..self.random.pick(&[0, 0, 1, 1, 1, 2, 3]) {
            // Joined with `and`, the literals of the same frame keep the expression alive.
            let and = self.random.chance(50);
            if !and {
                self.refresh("");
            }
            let other = self.any_term();
            let word = match (and, self.random.chance(30)) {
                (true, false) => "and",
                (true, true) => "&&",
                (false, false) => "or",
                (false, true) => "||",
            };
            let vlan_last = text.contains("vlan") && !other.contains("vlan");
            text = match self.random.chance(50) && !vlan_last {
                true => format!("{other} {word} {text}"),
                false => format!("{text} {word} {other}"),
            };
        }
        Sample {
            text,
            constructs: self.used.clone(),
        }
    }

    /// Chooses the frame that literals are taken from, one that suits the construct.
    fn refresh(&mut self, main: &str) {
        for _ in 0..4000 {
            let index = self.random.below(self.facts.len());
            let facts = &self.facts[index];
            let suits = match main {
                "host ip6" | "net ip6" => !facts.v6.is_empty(),
                "vlan" => facts.vlan.is_some(),
                "tcp flags" | "arithmetic" => facts.flags.is_some(),
                "icmp type" => facts.message.is_some(),
                "port" | "tcp/udp port" | "portrange" => facts.ports.len() == 2,
                "" => true,
                _ => !facts.v4.is_empty(),
            };
            if suits {
                self.current = facts.clone();
                return;
            }
        }
        self.current = self.facts[0].clone();
    }

    fn any_term(&mut self) -> String {
        loop {
            let construct = self.random.pick(&CONSTRUCTS);
            if construct != "vlan" && (self.suits(construct) || self.random.chance(10)) {
                return match construct {
                    "not" => self.negation(),
                    "parentheses" => self.group(),
                    "taken-over qualifiers" => self.inherited(),
                    _ => self.term(construct),
                };
            }
        }
    }

    fn suits(&self, construct: &str) -> bool {
        match construct {
            "host ip6" | "net ip6" => !self.current.v6.is_empty(),
            "tcp flags" => self.current.flags.is_some(),
            "icmp type" => self.current.message.is_some(),
            "port" | "tcp/udp port" | "portrange" => self.current.ports.len() == 2,
            _ => !self.current.v4.is_empty(),
        }
    }

    fn negation(&mut self) -> String {
        self.used.insert("not");
        let word = self.random.pick(&["not ", "! ", "not not "]);
        let construct = self
            .random
            .pick(&["host", "port", "protocol name", "tcp flags", "bytes"]);
        if self.random.chance(30) {
            let inner = self.term(construct);
            let other = self.term("port");
            return format!("{word}({inner} or {other})");
        }
        format!("{word}{}", self.term(construct))
    }

    fn group(&mut self) -> String {
        self.used.insert("parentheses");
        let constructs = [
            "host",
            "port",
            "protocol name",
            "net /len",
            "less/greater",
            "bytes",
        ];
        let construct = self.random.pick(&constructs);
        let first = self.term(construct);
        self.refresh("");
        let construct = self.random.pick(&constructs);
        let second = self.term(construct);
        self.refresh("port");
        let third = self.term("port");
        match self.random.below(3) {
            0 => format!("({first} or {second})"),
            1 => format!("({first} or ({second} and {third}))"),
            _ => format!("({first}) or ({second} and not ({third}))"),
        }
    }

    fn inherited(&mut self) -> String {
        self.used.insert("taken-over qualifiers");
        let prefix = self
            .random
            .pick(&["", "tcp ", "udp ", "src ", "dst ", "tcp src "]);
        let (first, second, third) = (self.port(), self.other_port(), self.other_port());
        let a = self.v4();
        self.refresh("host");
        let (b, c) = (self.v4(), self.v4());
        match self.random.below(6) {
            0 => format!("{prefix}port {first} or {second}"),
            1 => format!("{prefix}port ({first} or {second} or {third})"),
            2 => format!("port {first} and not {second}"),
            3 => format!("host {a} or {b}"),
            4 => format!("src host {a} or ({b} or not {c})"),
            _ => format!("host {a} and (tcp or udp) and not {c}"),
        }
    }

    fn term(&mut self, construct: &'static str) -> String {
        self.used.insert(construct);
        let v4 = self.v4();
        let direction = self.direction();
        match construct {
            "host" => format!("{direction}host {v4}"),
            "ip/arp/rarp host" => {
                let carrier = self.random.pick(&["ip", "ip", "arp", "rarp"]);
                format!("{carrier} {direction}host {v4}")
            }
            "host ip6" => {
                let prefix = self.random.pick(&["", "ip6 "]);
                format!("{prefix}{direction}host {}", self.v6())
            }
            "net ip6" => {
                let length = self.random.pick(&[0, 1, 16, 32, 47, 64, 96, 127, 128]);
                let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                let address = Ipv6Addr::from(u128::from(self.v6()) & mask);
                format!("{direction}net {address}/{length}")
            }
            "net /len" | "net mask" | "net short" => self.net(construct, direction),
            "port" => format!("{direction}port {}", self.port()),
            "tcp/udp port" => {
                let transport = self.random.pick(&["tcp", "udp", "tcp", "sctp"]);
                format!("{transport} {direction}port {}", self.port())
            }
            "portrange" => {
                let port = self.port();
                let width = self.random.pick(&[0, 1, 20, 3000]);
                let transport = self.random.pick(&["", "", "tcp ", "udp "]);
                let (low, high) = (port.saturating_sub(width), port.saturating_add(width));
                match self.random.chance(20) {
                    true => format!("{transport}{direction}portrange {high}-{low}"),
                    false => format!("{transport}{direction}portrange {low}-{high}"),
                }
            }
            "src" | "dst" => match self.random.below(3) {
                0 => format!("{construct} {v4}"),
                1 => format!("{construct} port {}", self.port()),
                _ => format!("{construct} host {v4}"),
            },
            "src or dst" | "src and dst" => self.two_directions(construct),
            _ => self.low_term(construct),
        }
    }

    fn two_directions(&mut self, construct: &str) -> String {
        let order = match (construct, self.random.chance(50)) {
            ("src or dst", true) => "src or dst",
            ("src or dst", false) => "dst or src",
            (_, true) => "src and dst",
            (_, false) => "dst and src",
        };
        let mask = self.random.pick(&[0_u32, 8, 8, 16, 24]);
        match self.random.below(4) {
            0 => format!("{order} host {}", self.v4()),
            1 => format!("{order} port {}", self.port()),
            2 => {
                let low = self.port().saturating_sub(60_000);
                format!("{order} portrange {low}-65535")
            }
            _ => {
                let bits = u32::from(self.v4()) & u32::MAX.checked_shl(32 - mask).unwrap_or(0);
                format!("{order} net {}/{mask}", Ipv4Addr::from(bits))
            }
        }
    }

    fn net(&mut self, construct: &str, direction: &str) -> String {
        let [a, b, c, d] = self.v4().octets();
        match (construct, self.random.below(4)) {
            ("net short", 0) => format!("{direction}net {a}"),
            ("net short", 1) => format!("{direction}net {a}.{b}"),
            ("net short", 2) => format!("{direction}net {a}.{b}.{c}"),
            ("net short", _) => format!("{direction}host {a}.{b}"),
            ("net mask", 0) => format!("{direction}net {a}.0.0.0 mask 255.0.0.0"),
            ("net mask", 1) => format!("{direction}net {a}.{b}.0.0 mask 255.255.0.0"),
            ("net mask", 2) => format!("{direction}net {a}.0.0.{d} mask 255.0.0.255"),
            ("net mask", _) => format!("{direction}net 0.0.0.{} mask 0.0.0.1", d & 1),
            _ => {
                let length = self.random.pick(&[0_u32, 1, 8, 12, 16, 20, 24, 29, 31, 32]);
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                let bits = u32::from_be_bytes([a, b, c, d]) & mask;
                format!("{direction}net {}/{length}", Ipv4Addr::from(bits))
            }
        }
    }

    fn low_term(&mut self, construct: &'static str) -> String {
        let comparison = self.random.pick(&["=", "==", "!=", "<", "<=", ">", ">="]);
        let length = self.current.length;
        match construct {
            "protocol name" => {
                let names = [
                    "ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp",
                    "pim", "vrrp", "ah", "esp", "tcp", "udp",
                ];
                self.random.pick(&names).into()
            }
            "proto number" => {
                let prefix = self.random.pick(&["", "ip ", "ip6 "]);
                let number = self.random.pick(&[self.current.protocol, 6, 17, 58, 44, 0]);
                format!("{prefix}proto {number}")
            }
            "proto name" => {
                let prefix = self.random.pick(&["", "ip ", "ip6 "]);
                let name = self
                    .random
                    .pick(&["tcp", "udp", "icmp", "sctp", "esp", "igmp"]);
                format!("{prefix}proto \\{name}")
            }
            "ether proto" => match self.random.below(3) {
                0 => format!("ether proto {}", self.current.ether_type.max(1501)),
                1 => format!("ether proto {:#x}", self.current.ether_type.max(1501)),
                _ => format!(
                    "ether proto {}",
                    self.random.pick(&["\\ip", "\\arp", "\\ip6"])
                ),
            },
            "ether host" => {
                let way = self
                    .random
                    .pick(&["host", "src", "dst", "src host", "src or dst"]);
                let index = self.random.below(2);
                let mac = self.current.macs.get(index).copied().unwrap_or_default();
                format!("ether {way} {}", mac.map(|b| format!("{b:02x}")).join(":"))
            }
            "broadcast/multicast" => {
                let all = [
                    "broadcast",
                    "ether broadcast",
                    "multicast",
                    "ether multicast",
                    "ip multicast",
                    "ip6 multicast",
                ];
                self.random.pick(&all).into()
            }
            "vlan" => self.vlan(),
            "less/greater" => {
                format!("{} {length}", self.random.pick(&["less", "greater"]))
            }
            "len" => match self.random.below(3) {
                0 => format!("len {comparison} {length}"),
                1 => format!("len & 3 {comparison} {}", length & 3),
                _ => format!("{} {comparison} length / 2", length / 2),
            },
            "tcp flags" => self.tcp_flags(comparison),
            "icmp type" => self.icmp_type(comparison),
            "bytes" => self.bytes(comparison),
            "arithmetic" => self.arithmetic(comparison),
            other => panic!("no generator for {other}"),
        }
    }

    fn vlan(&mut self) -> String {
        let id = self.current.vlan.unwrap_or(5);
        let address = self.v4();
        match self.random.below(7) {
            0 => "vlan".into(),
            1 => format!("vlan {id}"),
            2 => format!("vlan and host {address}"),
            3 => format!("vlan {id} and tcp"),
            4 => "vlan and vlan and ip".into(),
            5 => format!("tcp or (vlan {id} and ip[8] > 3)"),
            _ => format!("(vlan {id} or host {address})"),
        }
    }

    fn tcp_flags(&mut self, comparison: &str) -> String {
        let flags = self.current.flags.unwrap_or(0x18);
        match self.random.below(6) {
            0 => "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0".into(),
            1 => format!("tcp[13] {comparison} {flags}"),
            2 => "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn".into(),
            3 => format!("tcp[13] & {} != 0", flags | 1),
            4 => "tcp[tcpflags] & tcp-push != 0".into(),
            _ => "tcp[tcpflags] == tcp-ack".into(),
        }
    }

    fn icmp_type(&mut self, comparison: &str) -> String {
        let kind = self.current.message.unwrap_or(8);
        match self.random.below(5) {
            0 => "icmp[icmptype] == icmp-echo".into(),
            1 => format!("icmp[0] {comparison} {kind}"),
            2 => "icmp[icmptype] = icmp-unreach or icmp6[icmp6type] = icmp6-echo".into(),
            3 => format!("icmp6[icmp6type] {comparison} {kind}"),
            _ => "icmp[icmpcode] != 0".into(),
        }
    }

    fn bytes(&mut self, comparison: &str) -> String {
        let ttl = self.current.ttl;
        let base = self
            .random
            .pick(&["ip", "ip6", "tcp", "udp", "ether", "arp", "sctp"]);
        let offset = self.random.pick(&[0, 2, 4, 6, 8, 12, 19, 40, 90, 1400]);
        let size = self.random.pick(&["", ":1", ":2", ":4"]);
        let value = self.random.pick(&[0, 1, 64, 200, 1460, 0x0a00_0000]);
        match self.random.below(4) {
            0 => format!("ip[8] {comparison} {ttl}"),
            1 => format!("{base}[{offset}{size}] {comparison} {value}"),
            2 => format!("{base}[{offset}{size}] & 0x{:x} {comparison} 0", value | 3),
            _ => format!("ip6[7] {comparison} {ttl} or ip[1] {comparison} 0"),
        }
    }

    fn arithmetic(&mut self, comparison: &str) -> String {
        let shift = self.random.below(9);
        let number = self.random.below(9) + 1;
        match self.random.below(9) {
            0 => "ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) != 0".into(),
            1 => format!("tcp[((tcp[12] & 0xf0) >> 2)] {comparison} 0x47"),
            2 => format!("udp[4:2] % {number} = 2"),
            3 => format!("ip[4:2] ^ {number} {comparison} tcp[2:2] * {number}"),
            4 => format!("-ip[8] + {number} {comparison} 0 - 60"),
            5 => format!("tcp[4:4] >> {shift} & 1 = 1"),
            6 => format!("len - {number} * 4 {comparison} ip[2:2]"),
            7 => format!("tcp[0:2] / {number} + udp[0:2] {comparison} {number}"),
            _ => format!("ip6[4:2] + 54 {comparison} len"),
        }
    }

    fn direction(&mut self) -> &'static str {
        let (text, name) = self.random.pick(&[
            ("", None),
            ("", None),
            ("src ", Some("src")),
            ("dst ", Some("dst")),
            ("src or dst ", Some("src or dst")),
        ]);
        self.used.extend(name);
        text
    }

    fn v4(&mut self) -> Ipv4Addr {
        match self.current.v4.len() {
            0 => Ipv4Addr::new(10, 1, 0, 1),
            length => self.current.v4[self.random.below(length)],
        }
    }

    fn v6(&mut self) -> Ipv6Addr {
        match self.current.v6.len() {
            0 => Ipv6Addr::LOCALHOST,
            length => self.current.v6[self.random.below(length)],
        }
    }

    fn port(&mut self) -> u16 {
        match self.current.ports.len() {
            0 => self.random.pick(&[80, 443, 53]),
            length => self.current.ports[self.random.below(length)],
        }
    }

    fn other_port(&mut self) -> u16 {
        let index = self.random.below(self.facts.len());
        self.facts[index].ports.first().copied().unwrap_or(80)
    }
}

impl Facts {
    fn of(frame: &Frame) -> Self {
        let bytes = &frame.bytes;
        let half = |at: usize| {
            Some(u16::from_be_bytes(
                bytes.get(at..at + 2)?.try_into().expect("two bytes"),
            ))
        };
        let mut facts = Self {
            length: frame.wire_length,
            ..Self::default()
        };
        for at in [0, 6] {
            facts.macs.extend(
                bytes
                    .get(at..at + 6)
                    .and_then(|mac| <[u8; 6]>::try_from(mac).ok()),
            );
        }
        let mut at = 12;
        if half(at) == Some(0x8100) {
            facts.vlan = half(at + 2).map(|tag| tag & 0xfff);
            at += 4;
        }
        facts.ether_type = half(at).unwrap_or(0);
        let network = at + 2;
        let byte = |at: usize| bytes.get(network + at).copied();
        let transport = match facts.ether_type {
            0x0800 => {
                for at in [12, 16] {
                    let address = bytes.get(network + at..network + at + 4);
                    facts.v4.extend(
                        address
                            .and_then(|a| <[u8; 4]>::try_from(a).ok())
                            .map(Ipv4Addr::from),
                    );
                }
                facts.ttl = byte(8).unwrap_or(0);
                facts.protocol = byte(9).unwrap_or(0);
                network + usize::from(byte(0).unwrap_or(0) & 0xf) * 4
            }
            0x86dd => {
                for at in [8, 24] {
                    let address = bytes.get(network + at..network + at + 16);
                    facts.v6.extend(
                        address
                            .and_then(|a| <[u8; 16]>::try_from(a).ok())
                            .map(Ipv6Addr::from),
                    );
                }
                facts.ttl = byte(7).unwrap_or(0);
                facts.protocol = byte(6).unwrap_or(0);
                network + 40
            }
            _ => return facts,
        };
        match facts.protocol {
            6 | 17 | 132 => {
                facts.ports.extend(half(transport));
                facts.ports.extend(half(transport + 2));
            }
            1 | 58 => facts.message = bytes.get(transport).copied(),
            _ => {}
        }
        if facts.protocol == 6 {
            facts.flags = bytes.get(transport + 13).copied();
        }
        facts
    }
}
