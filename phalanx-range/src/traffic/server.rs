//! The server of all programs: TCP and UDP on one port, both families. It does what the orders
//! say and records what it did.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Backlog, listen};
use serde::Serialize;

use super::socket::{TcpTruth, make_room, receive_from, send_back, tcp_truth, tell_destination};
use super::{ANSWER_BYTES, DATAGRAM_ORDER_BYTES, DatagramOrder, ORDER_BYTES, Order, Pace};
use super::{Summary, UNTIL_END};
use crate::limits::SERVER_THREADS_MAX;

/// How often the threads look whether the server is to end.
const STOP_CHECK_MS: u16 = 50;
/// Threads that answer datagrams, so that one that thinks does not hold up the others.
const UDP_THREADS: usize = 4;
/// Records of ended connections that are kept.
const RECORDS_MAX: usize = 100_000;

/// What the server did on one connection that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionRecord {
    /// The client's address.
    pub peer: SocketAddr,
    /// Requests answered.
    pub requests: u64,
    /// Application bytes received.
    pub bytes_received: u64,
    /// Application bytes handed to the kernel.
    pub bytes_sent: u64,
    /// Time slept per request in microseconds.
    pub slept_us: Summary,
    /// What the kernel said at the end.
    pub tcp: TcpTruth,
    /// Why it ended, unless the client closed it.
    pub error: Option<String>,
}

/// Sums over all connections and datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ServerCounters {
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused because too many were open.
    pub refused: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Their payload bytes.
    pub datagram_bytes_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
}

#[derive(Debug, Default)]
struct Shared {
    is_stopping: AtomicBool,
    connections: AtomicU64,
    refused: AtomicU64,
    datagrams_received: AtomicU64,
    datagram_bytes_received: AtomicU64,
    datagrams_sent: AtomicU64,
    open: Mutex<BTreeMap<u64, TcpStream>>,
    records: Mutex<Vec<ConnectionRecord>>,
}

/// A running server. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on `port` in the calling thread's namespace; 0 picks a free one.
    pub fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .with_context(|| format!("listen on TCP port {port}"))?;
        listener.set_nonblocking(true)?;
        // The standard library lets 128 wait, and what comes beyond is reset in the end.
        listen(&listener, Backlog::MAXALLOWABLE)?;
        let address = listener.local_addr()?;
        let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, address.port()))
            .with_context(|| format!("listen on UDP port {}", address.port()))?;
        make_room(&datagrams)?;
        tell_destination(&datagrams)?;
        datagrams.set_read_timeout(Some(Duration::from_millis(STOP_CHECK_MS.into())))?;
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for _ in 0..UDP_THREADS {
            let (socket, shared) = (datagrams.try_clone()?, Arc::clone(&shared));
            threads.push(std::thread::spawn(move || {
                answer_datagrams(&socket, &shared)
            }));
        }
        let accepting = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || accept(&listener, &accepting)));
        Ok(Self {
            shared,
            address,
            threads,
        })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sums so far.
    pub fn counters(&self) -> ServerCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerCounters {
            connections: read(&self.shared.connections),
            refused: read(&self.shared.refused),
            datagrams_received: read(&self.shared.datagrams_received),
            datagram_bytes_received: read(&self.shared.datagram_bytes_received),
            datagrams_sent: read(&self.shared.datagrams_sent),
        }
    }

    /// Takes the records of the connections that have ended.
    pub fn take_records(&self) -> Vec<ConnectionRecord> {
        std::mem::take(&mut *lock(&self.shared.records))
    }

    /// Waits until no connection is open, and takes all records; fails after `limit`.
    pub fn finish(&self, limit: Duration) -> Result<Vec<ConnectionRecord>> {
        let end = Instant::now() + limit;
        while !lock(&self.shared.open).is_empty() {
            anyhow::ensure!(
                Instant::now() < end,
                "connections are still open after {limit:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(self.take_records())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to say.
            let _ = thread.join();
        }
        for stream in lock(&self.shared.open).values() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The data behind these locks is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.is_stopping.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is looked at like any other.
        let _ = poll(&mut waiting, PollTimeout::from(STOP_CHECK_MS));
        while let Ok((stream, peer)) = listener.accept() {
            let number = shared.connections.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = admit(stream, peer, number, shared) {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                eprintln!("phalanx-range: connection from {peer}: {error}");
            }
        }
    }
}

fn admit(stream: TcpStream, peer: SocketAddr, number: u64, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut open = lock(&shared.open);
    if open.len() >= SERVER_THREADS_MAX {
        return Err(io::Error::other("too many connections are open"));
    }
    open.insert(number, stream.try_clone()?);
    drop(open);
    let own = Arc::clone(shared);
    let thread = std::thread::Builder::new().stack_size(256 * 1024);
    let started = thread.spawn(move || {
        let record = serve(&stream, peer);
        let mut records = lock(&own.records);
        if records.len() < RECORDS_MAX {
            records.push(record);
        }
        drop(records);
        lock(&own.open).remove(&number);
    });
    if started.is_err() {
        lock(&shared.open).remove(&number);
    }
    started.map(drop)
}

fn serve(stream: &TcpStream, peer: SocketAddr) -> ConnectionRecord {
    let mut record = ConnectionRecord {
        peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        requests: 0,
        bytes_received: 0,
        bytes_sent: 0,
        slept_us: Summary::default(),
        tcp: TcpTruth::default(),
        error: None,
    };
    loop {
        match answer(stream, &mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                record.error = Some(error.to_string());
                break;
            }
        }
    }
    record.tcp = tcp_truth(stream).unwrap_or_default();
    record
}

/// Answers one request; false when the client has closed the connection instead.
fn answer(mut stream: &TcpStream, record: &mut ConnectionRecord) -> io::Result<bool> {
    let mut bytes = [0u8; ORDER_BYTES];
    if stream.read(&mut bytes[..1])? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut bytes[1..])?;
    let order = Order::from_bytes(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an order"))?;
    let rest = match order.request_bytes {
        UNTIL_END => UNTIL_END,
        bytes => bytes.saturating_sub(ORDER_BYTES as u64),
    };
    let received = ORDER_BYTES as u64 + read_paced(stream, rest, order.read)?;
    record.bytes_received += received;
    let slept = sleep_us(order.think_us);
    if order.think_us > 0 {
        record.slept_us.push(slept.as_micros() as u64);
    }
    if order.response_bytes > 0 {
        let mut head = [0u8; ANSWER_BYTES];
        head[..8].copy_from_slice(&(slept.as_nanos() as u64).to_be_bytes());
        head[8..].copy_from_slice(&received.to_be_bytes());
        if order.response_bytes == UNTIL_END {
            let time = Duration::from_millis(order.write_for_ms.into());
            write_for(stream, &head, time, order.write, &mut record.bytes_sent)?;
        } else {
            write_paced(
                stream,
                &head,
                order.response_bytes,
                order.write,
                &mut record.bytes_sent,
            )?;
        }
    }
    record.requests += 1;
    Ok(order.request_bytes != UNTIL_END && order.response_bytes != UNTIL_END)
}

/// Sleeps and says how long it really was.
pub(super) fn sleep_us(microseconds: u32) -> Duration {
    if microseconds == 0 {
        return Duration::ZERO;
    }
    let start = Instant::now();
    std::thread::sleep(Duration::from_micros(microseconds.into()));
    start.elapsed()
}

const BUFFER_BYTES: usize = 64 * 1024;

/// Reads `bytes` (or to the end), pausing as told; gives back how many there were.
pub(super) fn read_paced(mut stream: &TcpStream, bytes: u64, pace: Pace) -> io::Result<u64> {
    let mut buffer = [0u8; BUFFER_BYTES];
    let (mut total, mut since_pause) = (0u64, 0u64);
    while total < bytes {
        let room = (bytes - total).min(buffer.len() as u64) as usize;
        let length = stream.read(&mut buffer[..room])?;
        if length == 0 {
            if bytes == UNTIL_END {
                break;
            }
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "closed in the middle",
            ));
        }
        total += length as u64;
        since_pause += length as u64;
        if pace.chunk_bytes > 0 && since_pause >= u64::from(pace.chunk_bytes) {
            since_pause = 0;
            sleep_us(pace.pause_us);
        }
    }
    Ok(total)
}

/// Writes `bytes` that begin with `head`, pausing as told; counts in `sent` as it goes.
pub(super) fn write_paced(
    mut stream: &TcpStream,
    head: &[u8],
    bytes: u64,
    pace: Pace,
    sent: &mut u64,
) -> io::Result<()> {
    let mut buffer = [0x5a_u8; BUFFER_BYTES];
    buffer[..head.len()].copy_from_slice(head);
    let (mut total, mut since_pause) = (0u64, 0u64);
    while total < bytes {
        let mut room = (bytes - total).min(buffer.len() as u64);
        if pace.chunk_bytes > 0 {
            room = room.min(u64::from(pace.chunk_bytes) - since_pause);
        }
        if total == 0 {
            // The head goes out whole.
            room = room.max(head.len() as u64);
        }
        stream.write_all(&buffer[..room as usize])?;
        buffer[..head.len()].fill(0x5a);
        total += room;
        since_pause += room;
        *sent += room;
        if pace.chunk_bytes > 0 && since_pause >= u64::from(pace.chunk_bytes) {
            since_pause = 0;
            sleep_us(pace.pause_us);
        }
    }
    Ok(())
}

/// Writes for `time`, then ends the stream in order.
pub(super) fn write_for(
    stream: &TcpStream,
    head: &[u8],
    time: Duration,
    pace: Pace,
    sent: &mut u64,
) -> io::Result<()> {
    let end = Instant::now() + time;
    write_paced(stream, head, head.len() as u64, Pace::default(), sent)?;
    // Pieces small enough that the end is kept, large enough to cost nothing; with a pace, a
    // piece is what is written between two pauses.
    let piece_bytes = match pace.chunk_bytes {
        0 => BUFFER_BYTES as u64,
        chunk_bytes => u64::from(chunk_bytes),
    };
    while Instant::now() < end {
        write_paced(stream, &[], piece_bytes, pace, sent)?;
    }
    stream.shutdown(Shutdown::Write)
}

fn answer_datagrams(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = vec![0u8; 65_536];
    while !shared.is_stopping.load(Ordering::Relaxed) {
        let Ok((length, envelope)) = receive_from(socket, &mut buffer) else {
            continue;
        };
        shared.datagrams_received.fetch_add(1, Ordering::Relaxed);
        shared
            .datagram_bytes_received
            .fetch_add(length as u64, Ordering::Relaxed);
        let Some(mut order) = DatagramOrder::read(&buffer[..length]) else {
            continue;
        };
        if order.response_bytes == 0 {
            continue;
        }
        order.think_us = sleep_us(order.think_us).as_micros() as u32;
        let bytes = (order.response_bytes as usize).clamp(DATAGRAM_ORDER_BYTES, 65_507);
        let mut response = vec![0u8; bytes];
        order.write(&mut response);
        if send_back(socket, &response, &envelope).is_ok() {
            shared.datagrams_sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
