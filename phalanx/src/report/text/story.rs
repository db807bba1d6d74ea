//! The story of one conversation: what an expert reads out of it, a line for each subject.

use std::io::{self, Write};

use phalanx_engine::budget::TimeBudget;
use phalanx_engine::story::{ConnectionState, FlowStory, SideCounts, SideStory};
use phalanx_engine::{Distribution, RoleBasis, Side};

use super::across::{self, Names};
use super::application;
use super::bar;
use super::style::Style;
use super::wrap;
use crate::report::word;
use crate::report::{ConversationReport, HopReport};
use crate::view::protocol_name;

/// Width of the names of subjects, with the indent before them.
const LABEL_WIDTH: usize = 14;

pub(super) fn write(
    report: &ConversationReport,
    hops: &[HopReport],
    style: Style,
    width: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    let story = &report.story;
    writeln!(output, "{}", style.strong(&title(report)))?;
    let reason = word::foreign(&report.worst_because);
    for line in wrap(&reason, width - 2) {
        let line = if report.score > 0.0 {
            style.bad(&line)
        } else {
            line
        };
        writeln!(output, "  {line}")?;
    }
    let at = report.is_shared().then(|| word::foreign(&report.hop));
    let at = at.map_or_else(String::new, |hop| format!(" at {hop}"));
    for line in wrap(&format!("{}{at}", summary(story)), width - 2) {
        writeln!(output, "  {line}")?;
    }
    if let Some(across) = &report.across {
        let names = Names(hops);
        let legs = across::legs(across, names, width - LABEL_WIDTH);
        let subjects = [
            ("path", across::path(across, names)),
            ("rewritten", across::rewrites(across, names)),
            ("proxy", across::proxied(across)),
            ("legs", legs),
        ];
        for (label, lines) in subjects {
            write_subject(label, &lines, style, width, output)?;
        }
    }
    let subjects = [
        ("handshake", handshake(story)),
        ("options", options(story)),
        ("sent", sent(story)),
        ("round trip", round_trips(story)),
        ("losses", losses(story)),
        ("windows", windows(story)),
        ("end", end(story)),
        ("turns", turns(story)),
        ("gaps", story.gaps.as_ref().map_or(vec![], gaps_of)),
        ("dns", application::dns(&story.application)),
        ("tls", application::tls(&story.application)),
        ("http", application::http(&story.application)),
        ("quic", application::quic(&story.application)),
        ("capture", capture(story)),
    ];
    for (label, lines) in subjects {
        write_subject(label, &lines, style, width, output)?;
    }
    match &story.budget {
        Some(budget) => write_budget(budget, style, width, output),
        None => Ok(()),
    }
}

fn title(report: &ConversationReport) -> String {
    let story = &report.story;
    let ends = story.endpoints.as_ref();
    format!(
        "{}  {} → {}  {}",
        word::foreign(&report.id),
        word::endpoint(ends.map(|ends| &ends.client)),
        word::endpoint(ends.map(|ends| &ends.server)),
        protocol_name(story.protocol)
    )
}

fn summary(story: &FlowStory) -> String {
    let state = match story.state {
        ConnectionState::None => String::new(),
        state => format!("{}, ", state.name().replace('_', " ")),
    };
    let duration = word::duration(story.duration_ns);
    let at = word::instant(story.start_ns);
    let (first, last) = (story.flow, story.last_frame);
    format!("{state}{duration} from {at}, frames {first} to {last}")
}

fn write_subject(
    label: &str,
    lines: &[String],
    style: Style,
    width: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    let lines = lines
        .iter()
        .flat_map(|line| wrap(line, width - LABEL_WIDTH));
    for (index, line) in lines.enumerate() {
        let label = if index == 0 { label } else { "" };
        let label = format!("  {label:<12}");
        writeln!(output, "{}{line}", style.faint(&label))?;
    }
    Ok(())
}

fn write_budget(
    budget: &TimeBudget,
    style: Style,
    width: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    let Some(bar) = bar::draw(budget, width - LABEL_WIDTH, style) else {
        return Ok(());
    };
    writeln!(output, "{}{bar}", style.faint("  time        "))?;
    write_subject("", &[bar::legend(budget)], style, width, output)
}

fn handshake(story: &FlowStory) -> Vec<String> {
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let mut parts = Vec::new();
    if client.syns > 1 {
        parts.push(format!("{} SYNs", client.syns));
    }
    if server.syns > 1 {
        parts.push(format!("{} SYN-ACKs", server.syns));
    }
    if let Some(ns) = story.handshake_server_ns {
        parts.push(format!("{} to the server and back", word::duration(ns)));
    }
    if let Some(ns) = story.handshake_client_ns {
        parts.push(format!("{} to the client and back", word::duration(ns)));
    }
    if story.reuses_ports {
        parts.push("the ports were used before".to_owned());
    }
    joined(parts)
}

fn options(story: &FlowStory) -> Vec<String> {
    both(story, |_, side| {
        if side.counts.syns == 0 {
            return None;
        }
        let mut parts = Vec::new();
        match side.mss {
            0 => parts.push("no MSS".to_owned()),
            mss => parts.push(format!("MSS {mss}")),
        }
        match side.window_scale {
            None => parts.push("no window scale".to_owned()),
            Some(shift) => parts.push(format!("window scale {shift}")),
        }
        let has = |is: bool, name: &str| {
            if is {
                name.to_owned()
            } else {
                format!("no {name}")
            }
        };
        parts.push(has(side.sack_permitted, "SACK"));
        parts.push(has(side.has_timestamps, "timestamps"));
        if side.icmp_mtu > 0 {
            parts.push(format!("told an MTU of {} by ICMP", side.icmp_mtu));
        }
        Some(parts.join(", "))
    })
}

fn sent(story: &FlowStory) -> Vec<String> {
    both(story, |_, side| {
        let counts = &side.counts;
        let mut text = format!(
            "{}, {}",
            word::count(counts.packets, "packet", "packets"),
            word::size(counts.bytes)
        );
        if counts.unique_bytes > 0 {
            text.push_str(&format!(" ({} payload", word::size(counts.unique_bytes)));
            let span = side.data_last_ns.zip(side.data_first_ns);
            let span = span.map(|(last, first)| last.saturating_sub(first));
            if let Some(ns) = span.filter(|ns| *ns > 0) {
                text.push_str(&format!(" in {}", word::duration(ns)));
            }
            text.push(')');
        }
        for (number, name) in [
            (
                counts.ecn_marked_packets,
                "marked \"congestion experienced\"",
            ),
            (counts.fragmented_packets, "in fragments"),
        ] {
            if number > 0 {
                text.push_str(&format!(", {} {name}", word::thousands(number)));
            }
        }
        (counts.packets > 0).then_some(text)
    })
}

fn round_trips(story: &FlowStory) -> Vec<String> {
    both(story, |side, sent| {
        let to = match side {
            Side::Client => "to the server",
            Side::Server => "to the client",
        };
        let spread = spread(&sent.rtt)?;
        let rto = sent.rto_ns.map_or_else(String::new, |ns| {
            format!("; timeout after {}", word::duration(ns))
        });
        Some(format!("{to} {spread}{rto}"))
    })
}

/// Times in words, absent where there are none.
fn spread(times: &Distribution) -> Option<String> {
    let duration = |ns: Option<i64>| ns.map(word::duration);
    let (min, max) = (duration(times.min_ns())?, duration(times.max_ns())?);
    if times.count() == 1 || min == max {
        return Some(min);
    }
    let median = duration(times.quantile_ns(50))?;
    let late = duration(times.quantile_ns(95))?;
    let count = word::thousands(times.count());
    Some(format!(
        "{min} to {max}, median {median}, 95 % within {late} ({count} measured)"
    ))
}

fn losses(story: &FlowStory) -> Vec<String> {
    both(story, |side, sent| {
        let mut parts = Vec::new();
        let again = sent.counts.retransmitted_packets;
        if again > 0 {
            let share = word::retransmitted(story, side).map_or_else(String::new, word::percent);
            let number = word::thousands(again);
            parts.push(format!(
                "{number} retransmitted ({share}){}",
                kinds(&sent.counts)
            ));
        }
        let counts = &sent.counts;
        for (number, name) in [
            (counts.holes_filled, "sent again for a loss before this hop"),
            (counts.reordered_packets, "overtaken"),
            (counts.network_duplicates, "copied by the network"),
            (counts.implausible_packets, "beyond any window"),
            (counts.keep_alives, "keep-alives"),
            (counts.icmp_errors, "answered by ICMP errors"),
        ] {
            if number > 0 {
                parts.push(format!("{} {name}", word::thousands(number)));
            }
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    })
}

/// What the retransmissions were, as far as it is known.
fn kinds(counts: &SideCounts) -> String {
    let kinds = [
        (counts.fast_retransmissions, "fast"),
        (counts.timeout_retransmissions, "after a timeout"),
        (counts.tail_loss_probes, "tail-loss probes"),
        (counts.spurious_retransmissions, "needless"),
    ];
    let parts: Vec<String> = kinds
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, name)| format!("{} {name}", word::thousands(*number)))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(": {}", parts.join(", "))
    }
}

fn windows(story: &FlowStory) -> Vec<String> {
    both(story, |side, sent| {
        let mut parts = Vec::new();
        if let Some(least) = sent.window_min {
            let (least, most) = (word::size(least.into()), word::size(sent.window_max.into()));
            parts.push(match least == most {
                true => format!("announces {most}"),
                false => format!("announces {least} to {most}"),
            });
        }
        let counts = &sent.counts;
        let peer = match side {
            Side::Client => &story.sides.server.counts,
            Side::Server => &story.sides.client.counts,
        };
        for (number, name) in [
            (counts.zero_windows, "closed"),
            (peer.window_full, "filled by the peer"),
            (peer.zero_window_probes, "probed by the peer"),
        ] {
            if number > 0 {
                parts.push(format!("{}× {name}", word::thousands(number)));
            }
        }
        if counts.data_packets > 0 && sent.flight_max > 0 {
            let flight = word::size(sent.flight_max);
            let congestion = word::size(sent.congestion_window);
            parts.push(format!(
                "has {flight} under way at most (congestion window about {congestion})"
            ));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    })
}

fn end(story: &FlowStory) -> Vec<String> {
    both(story, |_, sent| {
        let counts = &sent.counts;
        let mut parts = Vec::new();
        if counts.fins > 0 {
            parts.push("sends FIN".to_owned());
        }
        if counts.resets > 0 {
            parts.push(format!(
                "sends {}",
                word::count(counts.resets, "RST", "RSTs")
            ));
        }
        if counts.unfitting_resets > 0 {
            let number = word::thousands(counts.unfitting_resets);
            parts.push(format!("{number} of them unlike its other packets"));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    })
}

fn turns(story: &FlowStory) -> Vec<String> {
    let turns = &story.turns;
    let mut lines = Vec::new();
    if turns.count > 0 {
        lines.push(word::count(
            turns.count,
            "request answered",
            "requests answered",
        ));
    }
    if turns.is_last_unanswered {
        lines.push("the last request has no answer".to_owned());
    }
    let lines_of = [
        ("the server thinks", &turns.think),
        ("answers take", &turns.transfer),
        ("the client idles", &turns.idle),
    ];
    for (name, times) in lines_of {
        lines.extend(spread(times).map(|times| format!("{name} {times}")));
    }
    lines
}

fn gaps_of(gaps: &Distribution) -> Vec<String> {
    spread(gaps)
        .map(|gaps| format!("between datagrams {gaps}"))
        .into_iter()
        .collect()
}

fn capture(story: &FlowStory) -> Vec<String> {
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let sum = |count: fn(&SideCounts) -> u64| count(client) + count(server);
    let mut parts = Vec::new();
    if story.starts_mid_stream {
        parts.push("begins in the middle".to_owned());
    }
    if (client.packets == 0) != (server.packets == 0) {
        parts.push("has one direction only".to_owned());
    }
    if story.role_basis.is_some_and(RoleBasis::is_guessed) {
        parts.push("who is the client is a guess".to_owned());
    }
    let copies = sum(|counts| counts.capture_duplicates);
    if copies > 0 {
        let copies = word::count(copies, "packet", "packets");
        parts.push(format!("{copies} captured twice"));
    }
    let unseen = sum(|counts| counts.unseen_bytes);
    if unseen > 0 {
        parts.push(format!("lacks {} that arrived", word::size(unseen)));
    }
    let cut = sum(|counts| counts.cut_packets);
    if cut > 0 {
        parts.push(format!("cuts {}", word::count(cut, "packet", "packets")));
    }
    joined(parts)
}

fn joined(parts: Vec<String>) -> Vec<String> {
    if parts.is_empty() {
        return parts;
    }
    vec![parts.join(", ")]
}

/// A line for each side of which there is something to say.
fn both(story: &FlowStory, say: impl Fn(Side, &SideStory) -> Option<String>) -> Vec<String> {
    let line = |side: Side| {
        let words = say(side, story.sides.get(side))?;
        Some(format!("{}: {words}", word::side(side)))
    };
    [Side::Client, Side::Server]
        .into_iter()
        .filter_map(line)
        .collect()
}
