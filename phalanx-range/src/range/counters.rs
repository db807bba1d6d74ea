//! What the kernel of a host counts: its namespace's TCP as a whole, and each connection.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::Host;

/// The counters of `/proc/net/snmp` and `/proc/net/netstat` of a namespace, such as
/// `Tcp.RetransSegs` or `TcpExt.TCPTimeouts`. They are signed there: some are limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelCounters(BTreeMap<String, i64>);

impl KernelCounters {
    /// One counter; 0 where this kernel does not have it.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How much each has grown since `before`; those that have not are left out.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().filter_map(|(name, value)| {
            let growth = value - before.get(name);
            (growth != 0).then(|| (name.clone(), growth))
        });
        Self(grown.collect())
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Lines come in pairs with the same first word: the names, the values.
    fn parse(text: &str) -> Self {
        let mut counters = BTreeMap::new();
        let mut lines = text.lines();
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let Some((group, names)) = names.split_once(": ") else {
                continue;
            };
            let values = values.split(' ').skip(1);
            for (name, value) in names.split(' ').zip(values) {
                if let Ok(value) = value.parse() {
                    counters.insert(format!("{group}.{name}"), value);
                }
            }
        }
        Self(counters)
    }
}

/// What `ss -ti` tells of one connection; absent there is 0 here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SocketTruth {
    /// Segments sent again so far.
    pub retransmits: u64,
    /// Payload bytes sent again so far.
    pub retransmitted_bytes: u64,
    /// Segments sent again that DSACK called needless.
    pub dsack_duplicates: u64,
    /// Segments without an acknowledgement yet.
    pub unacknowledged: u64,
    /// Bytes that were not sent yet.
    pub not_sent_bytes: u64,
    /// How long there was something to send or to be acknowledged, in milliseconds.
    pub busy_ms: f64,
    /// Of it, how long the peer's window held the sender back.
    pub window_limited_ms: f64,
    /// Of it, how long its own send buffer did.
    pub buffer_limited_ms: f64,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: f64,
    /// The line itself.
    pub text: String,
}

impl SocketTruth {
    fn parse(line: &str) -> Self {
        let mut truth = Self {
            text: line.to_owned(),
            ..Self::default()
        };
        for (name, value) in line
            .split_whitespace()
            .filter_map(|word| word.split_once(':'))
        {
            // "retrans:<outstanding>/<all so far>"
            let last = value.rsplit('/').next().unwrap_or_default();
            let count = || last.parse().unwrap_or(0);
            match name {
                "retrans" => truth.retransmits = count(),
                "bytes_retrans" => truth.retransmitted_bytes = count(),
                "dsack_dups" => truth.dsack_duplicates = count(),
                "unacked" => truth.unacknowledged = count(),
                "notsent" => truth.not_sent_bytes = count(),
                "busy" => truth.busy_ms = milliseconds(value),
                "rwnd_limited" => truth.window_limited_ms = milliseconds(value),
                "sndbuf_limited" => truth.buffer_limited_ms = milliseconds(value),
                "rtt" => {
                    let (rtt, _) = value.split_once('/').unwrap_or((value, ""));
                    truth.rtt_ms = rtt.parse().unwrap_or(0.0);
                }
                _ => {}
            }
        }
        truth
    }
}

/// "120ms(97.6%)"
fn milliseconds(value: &str) -> f64 {
    let (number, _) = value.split_once("ms").unwrap_or((value, ""));
    number.parse().unwrap_or(0.0)
}

impl Host {
    /// The counters of its TCP and IP, as they stand.
    pub fn kernel_counters(&self) -> Result<KernelCounters> {
        // `/proc/net` is that of the process's first thread; this one is of the asking thread.
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let texts = self.enter(|| Ok([read("snmp")?, read("netstat")?]));
        let texts: std::io::Result<[String; 2]> = texts?;
        Ok(KernelCounters::parse(
            &texts.context("read the counters")?.concat(),
        ))
    }

    /// How many of its TCP sockets wait for an acknowledgement, of data, SYN or FIN, have something
    /// to send yet, or have still to close what their peer has closed: none of the others sends
    /// anything unless somebody asks it to.
    pub fn outstanding_sockets(&self) -> Result<usize> {
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let texts = self.enter(|| Ok([read("tcp")?, read("tcp6")?]));
        let texts: std::io::Result<[String; 2]> = texts?;
        let [v4, v6] = texts.context("read the sockets")?;
        Ok(v4
            .lines()
            .chain(v6.lines())
            .filter(|it| is_outstanding(it))
            .count())
    }

    /// Its TCP connections to a port, as `ss -ti` (iproute2) tells of them.
    pub fn connections_to(&self, port: u16) -> Result<Vec<SocketTruth>> {
        let filter = format!("dport = :{port}");
        let text = self.exec(&["ss", "-tinOH", &filter])?;
        Ok(text.lines().map(SocketTruth::parse).collect())
    }
}

/// Whether a line of `/proc/net/tcp` (proc(5)) is of a socket that has something outstanding: the
/// fourth column is its state, the fifth `tx_queue:rx_queue`, all in hexadecimal.
fn is_outstanding(line: &str) -> bool {
    // A request that a listener has answered has no queue of its own.
    const SYN_RECEIVED: &str = "03";
    const CLOSE_WAIT: &str = "08";
    let mut columns = line.split_whitespace().skip(3);
    let is_due = columns
        .next()
        .is_some_and(|it| [SYN_RECEIVED, CLOSE_WAIT].contains(&it));
    let queue = columns.next().and_then(|queues| queues.split_once(':'));
    let sending = queue.and_then(|(sending, _)| u32::from_str_radix(sending, 16).ok());
    sending.is_some_and(|bytes| bytes > 0 || is_due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_by_group() {
        let text = "Tcp: RtoAlgorithm MaxConn RetransSegs\nTcp: 1 -1 7\nUdp: A\nUdp: 3\n";
        let after = KernelCounters::parse(text);
        assert_eq!(
            (after.get("Tcp.RetransSegs"), after.get("Tcp.MaxConn")),
            (7, -1)
        );
        let before = KernelCounters::parse("Tcp: RetransSegs\nTcp: 5\n");
        let grown: Vec<_> = after.since(&before).iter().map(|it| it.1).collect();
        assert_eq!(after.since(&before).get("Tcp.RetransSegs"), 2);
        assert_eq!(grown.len(), 4);
    }

    #[test]
    fn sockets_that_wait_for_an_acknowledgement_are_known() {
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
        let line = |state: &str, queues: &str| {
            format!("   0: 0100007F:1F90 0200007F:C350 {state} {queues} 00:00000000 00000000 0")
        };
        assert!(!is_outstanding(heading));
        assert!(!is_outstanding(&line("0A", "00000000:00000003")));
        assert!(!is_outstanding(&line("01", "00000000:00000000")));
        assert!(is_outstanding(&line("01", "0000000A:00000000")));
        assert!(is_outstanding(&line("03", "00000000:00000000")));
        assert!(is_outstanding(&line("08", "00000000:00000000")));
        assert!(is_outstanding(&line("09", "00000001:00000000")));
    }

    #[test]
    fn a_line_of_ss_is_read() {
        let line = "ESTAB 0 0 10.0.0.1:4 10.0.0.2:5 cubic rto:204 rtt:40.1/0.2 unacked:3 \
             retrans:1/12 bytes_retrans:14480 busy:1200ms rwnd_limited:800ms(66.7%) dsack_dups:2";
        let truth = SocketTruth::parse(line);
        assert_eq!((truth.retransmits, truth.retransmitted_bytes), (12, 14_480));
        assert_eq!((truth.busy_ms, truth.window_limited_ms), (1_200.0, 800.0));
        assert_eq!(
            (truth.rtt_ms, truth.dsack_duplicates, truth.unacknowledged),
            (40.1, 2, 3)
        );
        assert_eq!(truth.buffer_limited_ms, 0.0);
    }
}
