//! `docs/metrics.md`, made from the table.

use std::fmt::Write as _;

use super::table::{Definition, Kind, TABLE};

const HEAD: &str = "# Metrics

What `GET /metrics` serves, in the text format of Prometheus. This file is made from the table in
`phalanx/src/metrics/table.rs`; a test keeps it true.

Times are in seconds, sizes in bytes. `client` and `server` are the names of the services at both
ends, or their addresses where no name is known; `port` is the server's. `side` says to which side
a round trip went, `sender` who sent what is counted. Traffic that several interfaces of the host
saw is counted once.

The label sets are bounded: 256 of (client, server, port); then the client becomes `other` for 64
more of (server, port); then all of them become `other`. A set that saw nothing for an hour makes
room. `phalanx_label_overflow_total` counts the pairs that found the sets full.

| metric | kind | labels | meaning |
|---|---|---|---|
";

/// The text of `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for definition in TABLE {
        row(&mut text, definition);
    }
    text
}

fn row(text: &mut String, definition: &Definition) {
    let kind = match definition.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let labels: Vec<String> = definition
        .labels
        .iter()
        .map(|label| format!("`{label}`"))
        .collect();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "| `{}` | {kind} | {} | {} |",
        definition.name,
        labels.join(", "),
        definition.help
    );
}
