//! `phalanx status`: how the daemon does, and what was lost.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{Format, client, print};
use crate::api::client::Address;
use crate::plain::plain;

/// Flags of `phalanx status`.
#[derive(Args, Debug)]
pub struct StatusArguments {
    #[command(flatten)]
    api: Address,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(arguments: &StatusArguments) -> anyhow::Result<()> {
    let status = client::get(&arguments.api, "/api/v1/status")?;
    let hops = client::get(&arguments.api, "/api/v1/hops")?;
    match arguments.format {
        Format::Text => print(&describe(&status, &hops)),
        Format::Json => {
            let both = json!({"status": status, "hops": hops["hops"]});
            print(&format!("{both:#}\n"))
        }
    }
}

fn describe(status: &Value, hops: &Value) -> String {
    let kernel = &status["kernel"];
    let count = |name: &str| kernel["counters"][name].as_u64().unwrap_or(0);
    let unparsed: u64 = kernel["unparsed"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|it| it.1.as_u64())
        .sum();
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "phalanx {}  {}  cpu {:.2} s  memory {} MiB  maps {} MiB",
        status["version"].as_str().unwrap_or("?"),
        if status["is_ready"] == true {
            "ready"
        } else {
            "not ready"
        },
        kernel["cpu_s"].as_f64().unwrap_or(0.0),
        mebibytes(&kernel["resident_bytes"]),
        mebibytes(&kernel["map_memory_bytes"]),
    );
    for hop in hops["hops"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {}", describe_hop(hop));
    }
    let _ = writeln!(
        text,
        "packets   {} seen = {} parsed + {unparsed} unparsed",
        count("seen"),
        count("parsed"),
    );
    let _ = writeln!(
        text,
        "flows     {} open, {} opened; {} packets found the table full",
        status["views"]["flows_open"],
        count("flows_opened"),
        count("untracked_table_full"),
    );
    let _ = writeln!(
        text,
        "events    {} delivered, {} lost to a full ring; {:.1} ms behind",
        count("events_delivered"),
        count("events_dropped_ring_full"),
        kernel["event_lag_ms"].as_f64().unwrap_or(0.0),
    );
    let _ = writeln!(
        text,
        "records   {} matched = {} delivered + {} lost to a full ring + {} left out",
        count("matched"),
        count("delivered"),
        count("dropped_ring_full"),
        count("sampled_out"),
    );
    if kernel["lookback"].is_object() {
        let _ = writeln!(text, "{}", describe_lookback(&kernel["lookback"]));
    }
    if let Some(uplink) = describe_uplink(&status["uplink"]) {
        let _ = writeln!(text, "hub       {uplink}");
    }
    for (reason, packets) in kernel["unparsed"].as_object().into_iter().flatten() {
        if packets != 0 {
            let _ = writeln!(text, "  unparsed {reason}: {packets}");
        }
    }
    text
}

fn describe_lookback(lookback: &Value) -> String {
    let feed = lookback["feed"].as_str().unwrap_or("?");
    if feed == "off" {
        return "lookback  off".to_owned();
    }
    let until = match lookback["evicted_until"].as_str() {
        Some(until) => format!(", all since {}", plain(until)),
        None => String::new(),
    };
    let mut text = format!(
        "lookback  {} fed: {} packets kept, {} left again{until}; {} of {} MiB in {}",
        plain(feed),
        lookback["kept"],
        lookback["evicted"],
        mebibytes(&lookback["used_bytes"]),
        mebibytes(&lookback["size_bytes"]),
        lookback["place"].as_str().unwrap_or("?"),
    );
    if feed == "all" {
        let percent = |name: &str| 100.0 * lookback[name].as_f64().unwrap_or(0.0);
        text += &format!(
            "; {:.1}% of flows, {:.1}% of a CPU ({:.0}% may be)",
            percent("flow_share"),
            percent("cpu_share"),
            percent("cpu_share_max"),
        );
    }
    text
}

/// The way to the hub, where this is an agent.
fn describe_uplink(uplink: &Value) -> Option<String> {
    let state = uplink["state"].as_str()?;
    let failure = uplink["failure"].as_str().map(plain);
    let failure = failure.map_or_else(String::new, |why| format!(" ({why})"));
    Some(format!(
        "{state}{failure}; {} batches made, {} acknowledged, {} dropped, {} in memory, {} MiB on \
         disk",
        uplink["batches"],
        uplink["acknowledged"],
        uplink["dropped"],
        uplink["memory_batches"],
        mebibytes(&uplink["spool_bytes"]),
    ))
}

fn describe_hop(hop: &Value) -> String {
    let field = |name: &str| match &hop[name] {
        Value::String(text) => plain(text),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let parts = [
        "namespace",
        "interface",
        "ingress",
        "egress",
        "state",
        "reason",
    ]
    .map(field);
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join("  ")
}

fn mebibytes(bytes: &Value) -> u64 {
    bytes.as_u64().unwrap_or(0) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_told() {
        let status = json!({
            "version": "1", "is_ready": true, "views": {"flows_open": 3},
            "kernel": {
                "counters": {"seen": 10, "parsed": 8, "events_dropped_ring_full": 7},
                "unparsed": {"arp": 2, "other": 0},
                "resident_bytes": 42 << 20,
                "lookback": {
                    "feed": "all", "kept": 5, "evicted": 2, "used_bytes": 1 << 20,
                    "size_bytes": 64 << 20, "place": "memory", "cpu_share": 0.041,
                    "cpu_share_max": 0.05, "flow_share": 0.25,
                },
            },
        });
        let hops = json!({"hops": [{"interface": "eth0", "ingress": "tcx", "state": "running"}]});
        let text = describe(&status, &hops);
        for part in [
            "10 seen = 8 parsed + 2 unparsed",
            "7 lost to a full ring",
            "unparsed arp: 2",
            "eth0  tcx  running",
            "memory 42 MiB",
            "all fed: 5 packets kept, 2 left again; 1 of 64 MiB in memory",
            "25.0% of flows, 4.1% of a CPU (5% may be)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("other"));
    }
}
