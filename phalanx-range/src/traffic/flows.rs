//! Flows between the hosts of a range, read from YAML and run all at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::{Outcome, Program, Server, run};
use crate::limits::FLOWS_MAX;
use crate::range::Range;
use crate::topology::{FileError, Topology, read_bounded};

/// How long after the stop the flows that run may go on.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The family of addresses that a flow uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One flow: a program run by a client against a server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flow {
    /// Its name in the results.
    pub name: String,
    /// The node that runs the client.
    pub from: String,
    /// The node that runs the server.
    pub to: String,
    /// The server's port; flows to the same node and port share a server.
    pub port: u16,
    /// Where the client connects to, when it is not the first address of `to`.
    pub address: Option<IpAddr>,
    /// Family of that first address.
    pub family: Family,
    /// When it starts, in milliseconds.
    pub start_ms: f64,
    /// Whether it starts over until all is stopped.
    pub repeat: bool,
    /// What the client does.
    pub program: Program,
    line: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowsFile {
    flows: Vec<FlowFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowFile {
    name: Spanned<String>,
    from: String,
    to: String,
    port: u16,
    address: Option<IpAddr>,
    #[serde(default)]
    family: Family,
    #[serde(default)]
    start_ms: f64,
    #[serde(default)]
    repeat: bool,
    program: Program,
}

/// Flows that run together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flows {
    /// The flows, in the order of the file.
    pub flows: Vec<Flow>,
}

/// What one run of a flow really was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowOutcome {
    /// The flow's name.
    pub flow: String,
    /// The server's address and port.
    pub server: SocketAddr,
    /// The client's truth.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Flows {
    /// Reads flows; anything unknown is an error with its line.
    pub fn from_yaml_str(text: &str) -> Result<Self, FileError> {
        let file: FlowsFile = serde_saphyr::from_str(text)?;
        if file.flows.len() > FLOWS_MAX {
            return Err(FileError::at_line(
                0,
                format!("more than {FLOWS_MAX} flows"),
            ));
        }
        let mut flows: Vec<Flow> = Vec::new();
        for flow in file.flows {
            let place = flow.name.defined;
            if flows.iter().any(|other| other.name == flow.name.value) {
                let message = format!("flow `{}` is there twice", flow.name.value);
                return Err(FileError::at(place, message));
            }
            if !(0.0..=86_400_000.0).contains(&flow.start_ms) {
                return Err(FileError::at(place, "start_ms lies between 0 and a day"));
            }
            flows.push(Flow {
                name: flow.name.value,
                from: flow.from,
                to: flow.to,
                port: flow.port,
                address: flow.address,
                family: flow.family,
                start_ms: flow.start_ms,
                repeat: flow.repeat,
                program: flow.program,
                line: place.line(),
            });
        }
        Ok(Self { flows })
    }

    /// Reads flows from a file.
    pub fn from_yaml_file(path: &Path) -> Result<Self> {
        let text = read_bounded(path)?;
        Self::from_yaml_str(&text).with_context(|| format!("flows {}", path.display()))
    }

    /// Says which flow names a node that the topology does not have.
    pub fn check(&self, topology: &Topology) -> Result<(), FileError> {
        for flow in &self.flows {
            for node in [&flow.from, &flow.to] {
                if topology.node_index(node).is_none() {
                    let message = format!("flow `{}`: there is no node `{node}`", flow.name);
                    return Err(FileError::at_line(flow.line, message));
                }
            }
        }
        Ok(())
    }

    /// Runs all flows in the range to their ends, and tells `report` of each run as it ends.
    /// Once `stop` is set no flow starts, or starts over, and a second later the servers end.
    pub fn run(
        &self,
        range: &Range,
        stop: &AtomicBool,
        report: &(dyn Fn(FlowOutcome) + Sync),
    ) -> Result<()> {
        let mut servers = BTreeMap::new();
        for flow in &self.flows {
            if let Entry::Vacant(place) = servers.entry((flow.to.as_str(), flow.port)) {
                let server = range.host(&flow.to)?.enter(|| Server::start(flow.port))?;
                place.insert(server.with_context(|| format!("flow {}", flow.name))?);
            }
        }
        let start = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .flows
                .iter()
                .map(|flow| scope.spawn(move || run_flow(flow, range, start, stop, report)))
                .collect();
            let mut stopped_at = None;
            while threads.iter().any(|thread| !thread.is_finished()) {
                std::thread::sleep(Duration::from_millis(5));
                if stop.load(Ordering::Relaxed)
                    && stopped_at.get_or_insert_with(Instant::now).elapsed() > STOP_GRACE
                {
                    servers.clear();
                }
            }
            for thread in threads {
                match thread.join() {
                    Ok(result) => result?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(())
        })
    }
}

fn run_flow(
    flow: &Flow,
    range: &Range,
    start: Instant,
    stop: &AtomicBool,
    report: &(dyn Fn(FlowOutcome) + Sync),
) -> Result<()> {
    let to = range.host(&flow.to)?;
    let address = match (flow.address, flow.family) {
        (Some(address), _) => address,
        (None, Family::Ipv4) => to.ipv4()?.into(),
        (None, Family::Ipv6) => to.ipv6()?.into(),
    };
    let server = SocketAddr::new(address, flow.port);
    let due = Duration::from_secs_f64(flow.start_ms / 1e3);
    while let Some(early) = due
        .checked_sub(start.elapsed())
        .filter(|early| !early.is_zero())
    {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        std::thread::sleep(early.min(Duration::from_millis(50)));
    }
    while !stop.load(Ordering::Relaxed) {
        let outcome = range
            .host(&flow.from)?
            .enter(|| run(&flow.program, server))?
            .with_context(|| format!("flow {}", flow.name))?;
        let has_failed = outcome.failed > 0;
        report(FlowOutcome {
            flow: flow.name.clone(),
            server,
            outcome,
        });
        if !flow.repeat {
            break;
        }
        if has_failed {
            // A server out of reach must not make this a busy loop.
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_have_defaults_and_unknown_keys_are_refused() {
        let text = "
flows:
  - name: web
    from: client
    to: server
    port: 80
    program: { request_response: { think_ms: 30 } }
  - { name: idle, from: client, to: server, port: 80, program: { idle: {} } }
";
        let flows = Flows::from_yaml_str(text).unwrap();
        let Program::RequestResponse(web) = &flows.flows[0].program else {
            panic!("{flows:?}");
        };
        assert_eq!((web.think_ms, web.requests), (30.0, 10));
        let error = Flows::from_yaml_str(&text.replace("think_ms", "thnk_ms")).unwrap_err();
        assert!(error.message.contains("thnk_ms"), "{error}");
        assert_eq!(error.line, 7, "{error}");
        let error = Flows::from_yaml_str(&text.replace("name: idle", "name: web")).unwrap_err();
        assert_eq!(
            (error.line, error.message.contains("twice")),
            (8, true),
            "{error}"
        );
    }
}
