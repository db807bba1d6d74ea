//! `phalanx-range`: brings a topology up, runs traffic in it, cleans up after dead runs.

use std::fs::File;
use std::io::BufWriter;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use phalanx_range::range::Host;
use phalanx_range::synthesis::{Scan, Synthesis};
use phalanx_range::traffic::{Flood, FloodKind, Flows, Program, Server, run};
use phalanx_range::{Range, Topology, namespace};
use serde_json::{Map, Value, json};

#[path = "main/hops.rs"]
mod hops;

/// Hosts and routers in network namespaces, links with known faults, traffic with known truth.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring a topology up, and remove it on Ctrl-C or when the time is over.
    Up {
        /// The topology (YAML).
        #[arg(short, long)]
        file: PathBuf,
        /// Traffic to run in it (YAML); one JSON line per run of a flow goes to standard output.
        #[arg(long)]
        traffic: Option<PathBuf>,
        /// End after this long, such as 500ms, 30s or 5m.
        #[arg(long, value_parser = parse_duration)]
        duration: Option<Duration>,
    },
    /// Read a topology, and traffic, and say what is wrong with them.
    Check {
        /// The topology (YAML).
        #[arg(short, long)]
        file: PathBuf,
        /// Traffic to run in it (YAML).
        #[arg(long)]
        traffic: Option<PathBuf>,
    },
    /// Remove the namespaces of runs that have ended.
    Cleanup,
    /// Run one side of a traffic program in this network namespace.
    #[command(subcommand)]
    Traffic(Traffic),
    /// Write a capture that nobody took (pcap): many connections, computed from a seed.
    Synthesize(Synthesize),
    /// Write captures that nobody took of several hops, and apart from them, which flow is which.
    SynthesizeHops(hops::SynthesizeHops),
    /// Give a capture the times of another clock.
    #[command(hide = true)]
    Retime(hops::Retime),
    /// Send a bounded flood to a host of a range, from many made-up sources; needs root.
    Flood {
        /// What it is made of.
        kind: Kind,
        /// Where it goes: address and port.
        target: SocketAddrV4,
        /// Packets altogether.
        #[arg(long, default_value_t = 200_000)]
        packets: u64,
        /// Distinct source addresses.
        #[arg(long, default_value_t = 200_000)]
        sources: u32,
        /// The first source address.
        #[arg(long, default_value = "100.64.0.1")]
        source_first: Ipv4Addr,
        /// Packets per second; 0 for as fast as it goes.
        #[arg(long, default_value_t = 50_000.0)]
        rate: f64,
        /// The namespace to send from, by its name under /run/netns; there must be one, so that
        /// a flood never leaves a range by mistake.
        #[arg(long)]
        netns: String,
    },
}

#[derive(clap::Args)]
struct Synthesize {
    /// TCP connections, or the attempts of a scan.
    #[arg(long, default_value_t = 100)]
    connections: u32,
    /// Packets altogether, about; a scan has what its attempts give.
    #[arg(long, default_value_t = 10_000)]
    packets: u64,
    /// Of all random decisions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Probability that a TCP packet is lost.
    #[arg(long, default_value_t = 0.002)]
    loss: f64,
    /// Bytes kept of each packet; 0 for all.
    #[arg(long, default_value_t = 0)]
    snap: u32,
    /// A SYN scan by one host instead.
    #[arg(long, conflicts_with_all = ["packets", "loss"])]
    scan: bool,
    /// The file to write.
    file: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Syn,
    Ack,
    Udp,
}

#[derive(Subcommand)]
enum Traffic {
    /// Serve all programs, TCP and UDP; on SIGTERM, a JSON line of what was done.
    Server {
        /// The port to listen on.
        #[arg(long)]
        port: u16,
    },
    /// Run a program against a server; a JSON line of what was done.
    Client {
        /// The server: address and port.
        server: SocketAddr,
        /// The program: request_response, download, upload, idle, short_connections,
        /// udp_request_response or udp_stream.
        program: String,
        /// Its settings, such as requests=100 think_ms=30.
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.verb {
        Verb::Up {
            file,
            traffic,
            duration,
        } => up(&file, traffic.as_deref(), duration),
        Verb::Check { file, traffic } => check(&file, traffic.as_deref()),
        Verb::Cleanup => cleanup(),
        Verb::Traffic(Traffic::Server { port }) => serve(port),
        Verb::Traffic(Traffic::Client {
            server,
            program,
            settings,
        }) => client(server, &program, &settings),
        Verb::Synthesize(arguments) => synthesize(&arguments),
        Verb::SynthesizeHops(arguments) => {
            hops::synthesize(&arguments).map(|told| print_line(&told))
        }
        Verb::Retime(arguments) => hops::retime(&arguments).map(|told| print_line(&told)),
        Verb::Flood {
            kind,
            target,
            packets,
            sources,
            source_first,
            rate,
            netns,
        } => {
            let kind = match kind {
                Kind::Syn => FloodKind::Syn,
                Kind::Ack => FloodKind::Ack,
                Kind::Udp => FloodKind::Udp,
            };
            flood(
                &netns,
                Flood {
                    kind,
                    target,
                    source_first,
                    sources,
                    packets,
                    rate_per_s: rate,
                },
            )
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("phalanx-range: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long flows may take to end once they were told to.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

fn up(
    file: &std::path::Path,
    traffic: Option<&std::path::Path>,
    duration: Option<Duration>,
) -> Result<()> {
    let (topology, flows) = read(file, traffic)?;
    stop_on_signals()?;
    let range = Range::build(&topology)?;
    for host in range.hosts() {
        describe(host);
    }
    eprintln!("up; enter a node with: ip netns exec NAMESPACE bash; end with Ctrl-C");
    let end = duration.map(|duration| Instant::now() + duration);
    std::thread::scope(|scope| -> Result<()> {
        let running = flows.as_ref().map(|flows| {
            let report = |outcome| print_line(&json!(outcome));
            let range = &range;
            scope.spawn(move || flows.run(range, &STOP, &report))
        });
        wait_until(end);
        STOP.store(true, Ordering::Relaxed);
        let patience = Instant::now() + STOP_PATIENCE;
        while running.as_ref().is_some_and(|flows| !flows.is_finished()) {
            if Instant::now() > patience {
                print_counters(&range)?;
                eprintln!("phalanx-range: flows that do not end were cut off");
                // The watcher removes the namespaces when this process has ended.
                std::process::exit(1);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        match running.map(std::thread::ScopedJoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    })?;
    print_counters(&range)
}

fn print_counters(range: &Range) -> Result<()> {
    for link in range.links() {
        print_line(&json!({ "link": link.name(), "counters": link.counters()? }));
    }
    Ok(())
}

fn describe(host: &Host) {
    eprintln!("{}: {}", host.name(), host.namespace().name());
    for interface in host.interfaces() {
        let addresses: Vec<String> = interface
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        eprintln!(
            "  {} to {}: {}",
            interface.name,
            interface.peer,
            addresses.join(" ")
        );
    }
}

fn check(file: &std::path::Path, traffic: Option<&std::path::Path>) -> Result<()> {
    let (topology, flows) = read(file, traffic)?;
    let flows = flows.map_or(0, |flows| flows.flows.len());
    println!(
        "{} nodes, {} links, {flows} flows",
        topology.nodes.len(),
        topology.links.len()
    );
    Ok(())
}

fn read(
    file: &std::path::Path,
    traffic: Option<&std::path::Path>,
) -> Result<(Topology, Option<Flows>)> {
    let topology = Topology::from_yaml_file(file)?;
    let flows = traffic.map(Flows::from_yaml_file).transpose()?;
    if let (Some(flows), Some(path)) = (&flows, traffic) {
        flows
            .check(&topology)
            .with_context(|| format!("flows {}", path.display()))?;
    }
    Ok((topology, flows))
}

fn cleanup() -> Result<()> {
    let removed = namespace::remove_stale()?;
    for name in &removed {
        println!("removed {name}");
    }
    let left = namespace::names()?.len();
    println!("{} removed, {left} belong to living runs", removed.len());
    Ok(())
}

fn serve(port: u16) -> Result<()> {
    stop_on_signals()?;
    let server = Server::start(port)?;
    eprintln!("listening on port {}", server.port());
    wait_until(None);
    let (counters, connections) = (server.counters(), server.take_records());
    print_line(&json!({ "counters": counters, "connections": connections }));
    Ok(())
}

fn client(server: SocketAddr, program: &str, settings: &[String]) -> Result<()> {
    let outcome = run(&parse_program(program, settings)?, server)?;
    let has_failed = outcome.failed > 0;
    print_line(&json!(outcome));
    if has_failed {
        bail!(
            "{} failed; see `failed` and `error` in the result",
            outcome.failed
        );
    }
    Ok(())
}

fn flood(netns: &str, flood: Flood) -> Result<()> {
    let outcome = namespace::Namespace::existing(netns).enter(|| flood.run())??;
    print_line(&json!(outcome));
    Ok(())
}

fn synthesize(arguments: &Synthesize) -> Result<()> {
    let path = &arguments.file;
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let file = BufWriter::with_capacity(1 << 20, file);
    let &Synthesize {
        connections,
        packets,
        seed,
        loss,
        snap: snap_bytes,
        ..
    } = arguments;
    let outcome = if arguments.scan {
        let scan = Scan {
            connections,
            seed,
            snap_bytes,
        };
        scan.write(file)
    } else {
        let synthesis = Synthesis {
            connections,
            packets,
            seed,
            loss,
            snap_bytes,
        };
        synthesis.write(file)
    };
    print_line(&json!(
        outcome.with_context(|| format!("write {}", path.display()))?
    ));
    Ok(())
}

fn parse_program(program: &str, settings: &[String]) -> Result<Program> {
    let mut map = Map::new();
    for setting in settings {
        let (key, text) = setting
            .split_once('=')
            .with_context(|| format!("`{setting}`: write KEY=VALUE, such as requests=100"))?;
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        map.insert(key.to_owned(), value);
    }
    let name = program.replace('-', "_");
    serde_json::from_value(json!({ name: map })).with_context(|| format!("program {program}"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        unit => return Err(format!("`{unit}` is no unit; there are ms, s, m and h")),
    };
    digits
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * factor).ok())
        .ok_or_else(|| format!("`{text}`: write a time such as 500ms, 30s or 5m"))
}

/// One JSON line on standard output, and out at once, so that a reader of a pipe sees it.
fn print_line(value: &Value) {
    println!("{value}");
}

/// Set by SIGINT and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note_stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

fn stop_on_signals() -> Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let handler = SigHandler::Handler(note_stop);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("handle SIGINT and SIGTERM")?;
    }
    Ok(())
}

fn wait_until(end: Option<Instant>) {
    while !STOP.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("3 days").is_err() && parse_duration("-1s").is_err());
    }

    #[test]
    fn programs_are_read_strictly() {
        let settings = ["requests=3".to_owned(), "think_ms=1.5".to_owned()];
        let Ok(Program::RequestResponse(program)) = parse_program("request-response", &settings)
        else {
            panic!("not a request_response");
        };
        assert_eq!((program.requests, program.think_ms), (3, 1.5));
        assert!(parse_program("request_response", &["reqs=3".to_owned()]).is_err());
        assert!(parse_program("nothing", &[]).is_err());
    }
}
