//! What tcptrace 6.6.7 printed of a capture with `-l -r -n`: connections, and the fields of each
//! direction.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use phalanx_engine::Endpoint;

/// The fields of one direction by name: their first number.
pub(crate) type Direction = BTreeMap<String, f64>;

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) number: usize,
    /// Who sent the first packet, and the other.
    pub(crate) hosts: [Endpoint; 2],
    /// What each of them sent.
    pub(crate) directions: [Direction; 2],
}

/// The connections of a file that gzip packed.
pub(crate) fn read(path: &Path) -> Vec<Connection> {
    let output = Command::new("gzip").arg("-dc").arg(path).output();
    parse(&String::from_utf8_lossy(&output.expect("run gzip").stdout))
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let (address, port) = text.trim().rsplit_once(':')?;
    Some(Endpoint {
        address: address.parse().ok()?,
        port: port.parse().ok()?,
    })
}

fn parse(text: &str) -> Vec<Connection> {
    let mut connections = Vec::new();
    let mut hosts = Vec::new();
    let mut number = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("TCP connection ") {
            number = rest.trim_end_matches(':').parse().unwrap_or(0);
            hosts.clear();
        } else if let Some(rest) = line.trim().strip_prefix("host ") {
            hosts.extend(rest.split_once(": ").and_then(|(_, it)| endpoint(it)));
            if let [first, second] = hosts[..] {
                connections.push(Connection {
                    number,
                    hosts: [first, second],
                    directions: [Direction::new(), Direction::new()],
                });
            }
        } else if let (Some(connection), true) = (connections.last_mut(), hosts.len() == 2) {
            columns(line, connection);
        }
    }
    connections
}

/// A line `name: value unit name: value unit`, of which both names are the same.
fn columns(line: &str, connection: &mut Connection) {
    let Some((name, rest)) = line.trim().split_once(':') else {
        return;
    };
    let Some((left, right)) = rest.split_once(&format!("{name}:")) else {
        return;
    };
    for (direction, value) in connection.directions.iter_mut().zip([left, right]) {
        let mut words = value.split_whitespace();
        let (value, unit) = (words.next().unwrap_or_default(), words.next());
        if name == "SYN/FIN pkts sent" {
            for (name, value) in ["SYN", "FIN"].into_iter().zip(value.split('/')) {
                let value = value.parse().unwrap_or(f64::NAN);
                direction.insert(format!("{name} pkts sent"), value);
            }
        } else if let Ok(value) = value.parse() {
            let name = match (name, unit) {
                ("initial window", Some("pkts")) => "initial window pkts",
                _ => name,
            };
            direction.insert(name.to_owned(), value);
        }
    }
}
