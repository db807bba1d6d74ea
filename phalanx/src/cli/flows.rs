//! `phalanx flows`: a table of flows, once or again and again.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{Format, client, print};
use crate::api::client::Address;
use crate::plain::plain;

/// Flags of `phalanx flows`.
#[derive(Args, Debug)]
pub struct FlowsArguments {
    #[command(flatten)]
    api: Address,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Again and again, every so many seconds, until interrupted.
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// What to sort by.
    #[arg(long, default_value = "bytes",
        value_parser = [
            "opened", "last_seen", "bytes", "packets", "retransmitted", "rtt", "duration",
        ])]
    sort: String,
    /// Smallest first.
    #[arg(short, long)]
    reverse: bool,
    /// How many at most.
    #[arg(short = 'n', long, default_value_t = 25,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Either end is in this address or prefix.
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    address: Option<String>,
    /// The client is in this address or prefix.
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    client_address: Option<String>,
    /// The server is in this address or prefix.
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    server_address: Option<String>,
    /// Either end has this port.
    #[arg(long)]
    port: Option<u16>,
    /// Protocol by name or number.
    #[arg(long)]
    protocol: Option<String>,
    /// Seen at this interface.
    #[arg(long)]
    interface: Option<String>,
    /// Closed flows as well.
    #[arg(long)]
    closed: bool,
}

const HEADINGS: [&str; 10] = [
    "INTERFACE",
    "PROTO",
    "CLIENT",
    "SERVER",
    "STATE",
    "SENT",
    "RECEIVED",
    "RETR",
    "RTT ms",
    "AGE s",
];

impl FlowsArguments {
    fn path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("sort", &self.sort);
        query.append_pair("order", if self.reverse { "asc" } else { "desc" });
        query.append_pair("limit", &self.limit.to_string());
        let port = self.port.map(|port| port.to_string());
        for (name, value) in [
            ("address", &self.address),
            ("client", &self.client_address),
            ("server", &self.server_address),
            ("port", &port),
            ("protocol", &self.protocol),
            ("interface", &self.interface),
        ] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if !self.closed {
            query.append_pair("state", "open");
        }
        format!("/api/v1/flows?{}", query.finish())
    }
}

pub(super) fn run(arguments: &FlowsArguments) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let page = client::get(&arguments.api, &arguments.path())?;
        match arguments.format {
            Format::Json => print(&format!("{page}\n"))?,
            // Cursor home, clear to the end: the table replaces the one before.
            Format::Text if arguments.watch.is_some() && is_terminal => {
                print(&format!("\x1b[H\x1b[J{}", describe(&page)))?;
            }
            Format::Text => print(&describe(&page))?,
        }
        match arguments.watch {
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
            None => return Ok(()),
        }
    }
}

/// The flows as a table whose columns are as wide as they must be.
fn describe(page: &Value) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(page["flows"].as_array().into_iter().flatten().map(row));
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0);
            // Numbers stand right. Writing to a string cannot fail.
            let _ = match column {
                0..=4 => write!(text, "{cell:<width$}  "),
                _ => write!(text, "{cell:>width$}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn row(flow: &Value) -> [String; 10] {
    let word = |value: &Value| plain(value.as_str().unwrap_or_default());
    let sent = |side: &str, field: &str| flow[side][field].as_u64().unwrap_or(0);
    let retransmitted =
        sent("client_sent", "retransmitted_packets") + sent("server_sent", "retransmitted_packets");
    [
        word(&flow["hop"]["interface"]),
        word(&flow["protocol"]),
        endpoint(&flow["client"]),
        endpoint(&flow["server"]),
        word(&flow["state"]),
        bytes(sent("client_sent", "bytes")),
        bytes(sent("server_sent", "bytes")),
        retransmitted.to_string(),
        rtt(flow),
        format!("{:.1}", flow["duration_s"].as_f64().unwrap_or(0.0)),
    ]
}

fn endpoint(endpoint: &Value) -> String {
    let address = endpoint["address"].as_str().unwrap_or_default();
    let port = endpoint["port"].as_u64().unwrap_or(0);
    let address = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    match endpoint["service"].as_str() {
        Some(service) => format!("{address}:{port} ({})", plain(service)),
        None => format!("{address}:{port}"),
    }
}

/// Both parts of the path where both are known: to the client and to the server.
fn rtt(flow: &Value) -> String {
    let part = |side: &str| {
        let times = flow[side].as_object()?;
        ["last_ms", "mean_ms", "p50_ms", "min_ms"]
            .iter()
            .find_map(|name| times.get(*name)?.as_f64())
    };
    match (part("rtt_client"), part("rtt_server")) {
        (None, None) => "-".to_owned(),
        (client, server) => format!("{:.2}", client.unwrap_or(0.0) + server.unwrap_or(0.0)),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut whole = count;
    let mut rest = 0;
    let mut unit = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        (whole, rest, unit) = (whole / 1024, whole % 1024, unit + 1);
    }
    match unit {
        0 => format!("{whole} B"),
        _ => format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn names_do_not_reach_the_terminal_as_they_are() {
        let end = json!({"address": "10.0.0.1", "port": 80, "service": "a\nb\x1b[2J"});
        let text = describe(&json!({"flows": [{"client": end, "server": end}]}));
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_table_has_a_line_a_flow_and_aligned_columns() {
        let flow = json!({
            "hop": {"interface": "eth0"}, "protocol": "tcp", "state": "open", "duration_s": 2.5,
            "client": {"address": "10.0.0.1", "port": 5000},
            "server": {"address": "2001:db8::1", "port": 443, "service": "shop"},
            "client_sent": {"bytes": 100, "retransmitted_packets": 1},
            "server_sent": {"bytes": 2048, "retransmitted_packets": 2},
            "rtt_server": {"last_ms": 1.25},
        });
        let text = describe(&json!({"flows": [flow]}));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        let parts = ["[2001:db8::1]:443 (shop)", "2.0 KiB", " 3 ", "1.25", "2.5"];
        assert!(parts.iter().all(|part| lines[1].contains(part)), "{text}");
        assert_eq!(lines[0].find("SERVER"), lines[1].find("[2001"));
    }
}
