//! A report on captures of several hops, as far as it is judged. It is read leniently: what is
//! absent is nothing, so that a judgement says what it misses.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde_json::Value;

/// Conversations that a report is asked for: all.
const TOP: &str = "1000000";
/// How the two directions are spelt.
pub(crate) const DIRECTIONS: [&str; 2] = ["client_to_server", "server_to_client"];

/// How a run ended.
pub(crate) struct Run {
    /// The exit code, if it was no signal that ended it.
    pub(crate) code: Option<i32>,
    pub(crate) errors: String,
    /// What was written, where it is a report.
    pub(crate) report: Option<Report>,
}

/// A report.
pub(crate) struct Report {
    pub(crate) hops: Vec<Hop>,
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) all: Value,
}

#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) id: String,
    pub(crate) packets: u64,
    pub(crate) clock: Option<Clock>,
}

/// How a hop's time becomes that of the reference.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    pub(crate) reference: String,
    pub(crate) offset_ns: f64,
    pub(crate) skew_ppm: f64,
    pub(crate) error_ns: f64,
    pub(crate) steps: Vec<ClockStep>,
}

/// From when on other values hold.
#[derive(Debug, Clone)]
pub(crate) struct ClockStep {
    pub(crate) at_ns: i128,
    pub(crate) offset_ns: f64,
    pub(crate) skew_ppm: f64,
    pub(crate) error_ns: f64,
}

#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: String,
    pub(crate) protocol: String,
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) start_ns: i128,
    pub(crate) path: Vec<String>,
    pub(crate) return_path: Vec<String>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) rewrites: Vec<Rewrite>,
    pub(crate) legs: Vec<Leg>,
    /// Conversations that are told to be the same exchange beyond a proxy.
    pub(crate) proxies: Vec<String>,
    /// Packets that could be, and were, found at several hops.
    pub(crate) alignment: Option<(u64, u64)>,
}

/// A conversation as one hop sees it.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) hop: String,
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) packets: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Rewrite {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) fields: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Leg {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Towards the server and towards the client.
    pub(crate) ways: [Option<Way>; 2],
    pub(crate) round_trip: Option<Spread>,
}

/// What a leg did one way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Way {
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) lost_here_or_beside: u64,
    pub(crate) unresolved_here_or_beside: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
    pub(crate) not_captured: u64,
    pub(crate) delay: Option<Spread>,
    pub(crate) delay_error_ms: Option<f64>,
}

/// How a measure is spread, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) max: f64,
}

/// Runs `phalanx analyze` in a folder of captures; it is told nothing else.
pub(crate) fn analyze(folder: &Path, files: &[&str], more: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_phalanx"))
        .current_dir(folder)
        .args(["analyze", "--format", "json", "--top", TOP])
        .args(more)
        .args(files)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        report: serde_json::from_slice(&output.stdout)
            .ok()
            .map(Report::read),
    }
}

/// The report on captures that are in order.
pub(crate) fn report(folder: &Path, files: &[&str]) -> Report {
    let run = analyze(folder, files, &[]);
    assert_eq!(run.code, Some(0), "{}", run.errors);
    run.report.unwrap()
}

impl Report {
    pub(crate) fn read(all: Value) -> Self {
        Self {
            hops: list(&all["hops"], Hop::read),
            conversations: list(&all["conversations"], Conversation::read),
            all,
        }
    }

    pub(crate) fn hop(&self, id: &str) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.id == id)
    }

    /// The clock of a hop; the reference shows its own time.
    pub(crate) fn clock(&self, id: &str) -> Option<&Clock> {
        self.hop(id)?.clock.as_ref()
    }
}

impl Hop {
    fn read(value: &Value) -> Self {
        Self {
            id: text(&value["id"]),
            packets: value["packets"].as_u64().unwrap_or(0),
            clock: value["clock"].is_object().then(|| {
                let clock = &value["clock"];
                Clock {
                    reference: text(&clock["reference"]),
                    offset_ns: number(&clock["offset_ns"]),
                    skew_ppm: number(&clock["skew_ppm"]),
                    error_ns: clock["error_ns"].as_f64().unwrap_or(f64::NAN),
                    steps: list(&clock["steps"], |step| ClockStep {
                        at_ns: instant(&step["at"]),
                        offset_ns: number(&step["offset_ns"]),
                        skew_ppm: number(&step["skew_ppm"]),
                        error_ns: step["error_ns"].as_f64().unwrap_or(f64::NAN),
                    }),
                }
            }),
        }
    }
}

impl Conversation {
    fn read(value: &Value) -> Self {
        let alignment = &value["alignment"];
        Self {
            id: text(&value["id"]),
            protocol: text(&value["protocol"]),
            client: end(&value["client"]),
            server: end(&value["server"]),
            start_ns: instant(&value["start"]),
            path: list(&value["path"], text),
            return_path: list(&value["return_path"], text),
            flows: list(&value["flows"], |flow| Flow {
                hop: text(&flow["hop"]),
                client: end(&flow["client"]),
                server: end(&flow["server"]),
                packets: flow["packets"].as_u64(),
            }),
            rewrites: list(&value["rewrites"], |rewrite| Rewrite {
                from: text(&rewrite["from"]),
                to: text(&rewrite["to"]),
                fields: list(&rewrite["fields"], text),
            }),
            legs: list(&value["legs"], |leg| Leg {
                from: text(&leg["from"]),
                to: text(&leg["to"]),
                ways: [&leg["forward"], &leg["reverse"]].map(Way::read),
                round_trip: Spread::read(&leg["rtt_ms"]),
            }),
            proxies: list(&value["proxies"], |proxy| text(&proxy["conversation"])),
            alignment: alignment["packets"]
                .as_u64()
                .zip(alignment["aligned"].as_u64()),
        }
    }

    /// What the legs did to packets that entered at one hop and should have come out at another.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (&str, &str, usize, &Way)> {
        self.legs.iter().flat_map(|leg| {
            let ends = [(&leg.from, &leg.to), (&leg.to, &leg.from)];
            ends.into_iter().zip(&leg.ways).enumerate().filter_map(
                |(direction, ((enter, leave), way))| {
                    Some((enter.as_str(), leave.as_str(), direction, way.as_ref()?))
                },
            )
        })
    }
}

impl Way {
    fn read(value: &Value) -> Option<Self> {
        let count = |name: &str| value[name].as_u64().unwrap_or(0);
        value["packets"].is_u64().then(|| Self {
            packets: count("packets"),
            lost: count("lost"),
            lost_here_or_beside: count("lost_here_or_beside"),
            unresolved_here_or_beside: count("unresolved_here_or_beside"),
            reordered: count("reordered"),
            duplicated: count("duplicated"),
            not_captured: count("not_captured"),
            delay: Spread::read(&value["delay_ms"]),
            delay_error_ms: value["delay_error_ms"].as_f64(),
        })
    }
}

impl Spread {
    fn read(value: &Value) -> Option<Self> {
        value["p50"].is_number().then(|| Self {
            count: value["count"].as_u64().unwrap_or(0),
            min: number(&value["min"]),
            p50: number(&value["p50"]),
            p95: number(&value["p95"]),
            max: number(&value["max"]),
        })
    }

    /// Of samples, by the nearest rank.
    pub(crate) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let at = (share * samples.len() as f64).ceil() as usize;
            samples[at.saturating_sub(1)]
        };
        (!samples.is_empty()).then(|| Self {
            count: samples.len() as u64,
            min: samples[0],
            p50: rank(0.5),
            p95: rank(0.95),
            max: samples[samples.len() - 1],
        })
    }
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(read).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn end(value: &Value) -> SocketAddr {
    let address = value["address"].as_str().and_then(|text| text.parse().ok());
    let nobody = IpAddr::from([0, 0, 0, 0]);
    let port = value["port"].as_u64().unwrap_or(0);
    SocketAddr::new(address.unwrap_or(nobody), port as u16)
}

fn instant(value: &Value) -> i128 {
    let instant = value
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    instant.map_or(0, Timestamp::as_nanosecond)
}
