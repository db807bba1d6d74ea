//! Packet filter and address translation of a node, as nftables rules.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Which packets of a node a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Those that pass through.
    #[default]
    Forward,
    /// Those for the node itself.
    Input,
    /// Those from the node itself.
    Output,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv4.
    Icmp,
    /// ICMP for IPv6.
    Icmpv6,
}

/// What becomes of a packet that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Dropped silently.
    Drop,
    /// Answered with a TCP reset.
    RejectReset,
    /// Answered with ICMP port unreachable.
    RejectPort,
    /// Answered with ICMP host unreachable.
    RejectHost,
    /// Answered with ICMP administratively prohibited.
    RejectAdmin,
    /// Let through, past the rules that follow.
    Accept,
    /// Its destination becomes `to`.
    Dnat,
    /// Its source becomes the address of the interface it leaves by.
    Masquerade,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Where it is met; of no meaning for `dnat` and `masquerade`.
    #[serde(default)]
    pub hook: Hook,
    /// Its protocol.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Its destination port; needs `protocol`.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its source.
    #[serde(default)]
    pub source: Option<IpNet>,
    /// Its destination.
    #[serde(default)]
    pub destination: Option<IpNet>,
    /// The interface it came in by.
    #[serde(default)]
    pub input: Option<String>,
    /// The interface it leaves by.
    #[serde(default)]
    pub output: Option<String>,
    /// The new destination of `dnat`: an address, with a port when `port` is given.
    #[serde(default)]
    pub to: Option<String>,
    /// Anything else to match, in the language of nftables (`ip ttl < 10`, `tcp flags syn`).
    #[serde(default)]
    pub matches: Option<String>,
}

impl Rule {
    /// Says what is wrong with the rule, if something is.
    pub fn check(&self) -> Result<(), String> {
        if self.port.is_some() && !matches!(self.protocol, Some(Protocol::Tcp | Protocol::Udp)) {
            return Err("a rule with `port` needs `protocol: tcp` or `udp`".to_owned());
        }
        if self.verdict == Verdict::RejectReset && self.protocol != Some(Protocol::Tcp) {
            return Err("`reject_reset` needs `protocol: tcp`".to_owned());
        }
        if (self.verdict == Verdict::Dnat) != self.to.is_some() {
            return Err("`dnat`, and only it, needs `to`".to_owned());
        }
        if let Some(to) = &self.to
            && to.parse::<IpAddr>().is_err()
            && (to.parse::<SocketAddr>().is_err() || self.port.is_none())
        {
            return Err(format!(
                "`{to}`: an address, or with `port` an address with its port"
            ));
        }
        if let (Some(source), Some(destination)) = (self.source, self.destination)
            && source.addr().is_ipv4() != destination.addr().is_ipv4()
        {
            return Err("`source` and `destination` are of different families".to_owned());
        }
        let texts = [&self.input, &self.output, &self.matches];
        if texts
            .into_iter()
            .flatten()
            .any(|text| text.contains(['\n', ';', '{', '}', '"']))
        {
            return Err("a rule is one line, without ; { } and quotes".to_owned());
        }
        Ok(())
    }

    fn chain(&self) -> &'static str {
        match (self.verdict, self.hook) {
            (Verdict::Dnat, _) => "prerouting",
            (Verdict::Masquerade, _) => "postrouting",
            (_, Hook::Forward) => "forward",
            (_, Hook::Input) => "input",
            (_, Hook::Output) => "output",
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let family = |prefix: &IpNet| if prefix.addr().is_ipv4() { "ip" } else { "ip6" };
        let mut add = |part: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = text.write_fmt(part);
        };
        if let Some(input) = &self.input {
            add(format_args!("iifname \"{input}\" "));
        }
        if let Some(output) = &self.output {
            add(format_args!("oifname \"{output}\" "));
        }
        if let Some(source) = &self.source {
            add(format_args!("{} saddr {source} ", family(source)));
        }
        if let Some(destination) = &self.destination {
            add(format_args!("{} daddr {destination} ", family(destination)));
        }
        match (self.protocol, self.port) {
            (Some(Protocol::Tcp), Some(port)) => add(format_args!("tcp dport {port} ")),
            (Some(Protocol::Udp), Some(port)) => add(format_args!("udp dport {port} ")),
            (Some(Protocol::Tcp), None) => add(format_args!("meta l4proto tcp ")),
            (Some(Protocol::Udp), None) => add(format_args!("meta l4proto udp ")),
            (Some(Protocol::Icmp), _) => add(format_args!("meta l4proto icmp ")),
            (Some(Protocol::Icmpv6), _) => add(format_args!("meta l4proto icmpv6 ")),
            (None, _) => {}
        }
        if let Some(matches) = &self.matches {
            add(format_args!("{matches} "));
        }
        add(format_args!("counter "));
        match self.verdict {
            Verdict::Drop => add(format_args!("drop")),
            Verdict::Accept => add(format_args!("accept")),
            Verdict::RejectReset => add(format_args!("reject with tcp reset")),
            Verdict::RejectPort => add(format_args!("reject with icmpx type port-unreachable")),
            Verdict::RejectHost => add(format_args!("reject with icmpx type host-unreachable")),
            Verdict::RejectAdmin => add(format_args!("reject with icmpx type admin-prohibited")),
            Verdict::Masquerade => add(format_args!("masquerade")),
            Verdict::Dnat => {
                let to = self.to.as_deref().unwrap_or_default();
                // [v6]:port and plain v6 both hold more than one colon.
                let family = if to.matches(':').count() > 1 {
                    "ip6"
                } else {
                    "ip"
                };
                add(format_args!("dnat {family} to {to}"));
            }
        }
        text
    }
}

/// The rules as a ruleset for `nft -f`; empty when there are none.
pub fn ruleset(rules: &[Rule]) -> String {
    let chains = [
        ("prerouting", "type nat hook prerouting priority dstnat"),
        ("input", "type filter hook input priority filter"),
        ("forward", "type filter hook forward priority filter"),
        ("output", "type filter hook output priority filter"),
        ("postrouting", "type nat hook postrouting priority srcnat"),
    ];
    let mut text = String::new();
    for (chain, head) in chains {
        let own: Vec<String> = rules
            .iter()
            .filter(|rule| rule.chain() == chain)
            .map(|rule| format!("    {}\n", rule.text()))
            .collect();
        if !own.is_empty() {
            text += &format!("  chain {chain} {{\n    {head};\n{}  }}\n", own.concat());
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("table inet phalanx_range {{\n{text}}}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verdict: Verdict) -> Rule {
        Rule {
            verdict,
            hook: Hook::Forward,
            protocol: Some(Protocol::Tcp),
            port: Some(80),
            source: None,
            destination: None,
            input: None,
            output: None,
            to: None,
            matches: None,
        }
    }

    #[test]
    fn rules_become_chains() {
        let dnat = Rule {
            to: Some("10.0.0.9:8080".to_owned()),
            ..rule(Verdict::Dnat)
        };
        let drop = Rule {
            source: "fd00::/8".parse().ok(),
            ..rule(Verdict::Drop)
        };
        let text = ruleset(&[dnat, drop]);
        assert!(
            text.contains("tcp dport 80 counter dnat ip to 10.0.0.9:8080\n"),
            "{text}"
        );
        assert!(
            text.contains("ip6 saddr fd00::/8 tcp dport 80 counter drop\n"),
            "{text}"
        );
        assert!(!text.contains("chain input"), "{text}");
        assert_eq!(ruleset(&[]), "");
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let wrong = [
            Rule {
                protocol: None,
                ..rule(Verdict::Drop)
            },
            Rule {
                port: None,
                protocol: Some(Protocol::Udp),
                ..rule(Verdict::RejectReset)
            },
            rule(Verdict::Dnat),
            Rule {
                to: Some("nowhere".to_owned()),
                ..rule(Verdict::Dnat)
            },
            Rule {
                matches: Some("ip ttl 1; drop".to_owned()),
                ..rule(Verdict::Drop)
            },
        ];
        for rule in wrong {
            assert!(rule.check().is_err(), "{rule:?}");
        }
        assert_eq!(rule(Verdict::Drop).check(), Ok(()));
    }
}
