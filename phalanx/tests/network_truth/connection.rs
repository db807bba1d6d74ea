//! Connections whose end the test holds itself, so that it can ask the kernel about them first.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use phalanx_range::Range;

/// Retransmissions with exponential pauses take their time.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A server that reads connections to their end, each on a thread of its own.
pub(crate) fn sink(range: &Range, host: &str, connections: usize) -> (SocketAddr, JoinHandle<()>) {
    let host = range.host(host).unwrap();
    let address = (host.ipv4().unwrap(), 0);
    let listener = host.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let mut readers = Vec::new();
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            readers.push(std::thread::spawn(move || {
                std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            }));
        }
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    };
    (address, std::thread::spawn(serve))
}

/// What `ss` tells of the retransmissions of all connections to a port.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// Segments, SYN included.
    pub(crate) segments: u64,
    /// Payload bytes.
    pub(crate) bytes: u64,
    /// Connections.
    pub(crate) connections: usize,
    /// Segments without an acknowledgement yet.
    unacknowledged: u64,
}

fn ask(range: &Range, host: &str, port: u16) -> Told {
    let filter = format!("dport = :{port}");
    let host = range.host(host).unwrap();
    let text = host.exec(&["ss", "-tinOH", &filter]).unwrap();
    let mut told = Told::default();
    for line in text.lines() {
        told.connections += 1;
        for word in line.split_whitespace() {
            let Some((name, value)) = word.split_once(':') else {
                continue;
            };
            // "retrans:<outstanding>/<all so far>"
            let last = value.rsplit('/').next().unwrap();
            match name {
                "retrans" => told.segments += last.parse::<u64>().unwrap(),
                "bytes_retrans" => told.bytes += last.parse::<u64>().unwrap(),
                "unacked" | "notsent" => told.unacknowledged += last.parse::<u64>().unwrap(),
                _ => {}
            }
        }
    }
    told
}

/// What `ss` tells once everything that was sent has been acknowledged.
pub(crate) fn ask_when_acknowledged(range: &Range, host: &str, port: u16) -> Told {
    let end = Instant::now() + WAIT_MAX;
    loop {
        let told = ask(range, host, port);
        if told.unacknowledged == 0 {
            return told;
        }
        assert!(Instant::now() < end, "not acknowledged: {told:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until no connection to a port is in any state but the last one.
pub(crate) fn await_end(range: &Range, host: &str, port: u16) {
    let end = Instant::now() + WAIT_MAX;
    while ask(range, host, port).connections > 0 {
        assert!(Instant::now() < end, "connections stay open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Opens a connection from a host.
pub(crate) fn connect(range: &Range, host: &str, to: SocketAddr) -> TcpStream {
    let host = range.host(host).unwrap();
    host.enter(|| TcpStream::connect(to)).unwrap().unwrap()
}

/// Writes this many bytes.
pub(crate) fn write(mut stream: &TcpStream, bytes: usize) {
    stream.write_all(&vec![7; bytes]).unwrap();
}

/// Says that there is no more, and waits for the other end to say so too.
pub(crate) fn end(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

/// Segments that a namespace's TCP has sent again: `RetransSegs` of `/proc/net/snmp`.
pub(crate) fn retransmitted_segments(range: &Range, host: &str) -> u64 {
    let text = range
        .host(host)
        .unwrap()
        .exec(&["cat", "/proc/net/snmp"])
        .unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "RetransSegs").unwrap();
    value.parse().unwrap()
}
