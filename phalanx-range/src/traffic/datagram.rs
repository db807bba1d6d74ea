//! The UDP programs of a client.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::server::sleep_us;
use super::{
    DATAGRAM_ORDER_BYTES, DatagramOrder, Outcome, UdpRequestResponse, UdpStream, ms_to_us,
};

/// Largest payload of a UDP datagram over IPv4.
const PAYLOAD_MAX: usize = 65_507;
/// Threads on one socket.
const THREADS_MAX: u32 = 64;

fn open(target: SocketAddr) -> Result<(UdpSocket, Outcome)> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).context("open a UDP socket")?;
    socket
        .connect(target)
        .with_context(|| format!("reach {target}"))?;
    let local = vec![socket.local_addr()?];
    Ok((
        socket,
        Outcome {
            connections: 1,
            local,
            ..Outcome::default()
        },
    ))
}

pub(super) fn request_response(
    program: &UdpRequestResponse,
    target: SocketAddr,
) -> Result<Outcome> {
    let (socket, mut outcome) = open(target)?;
    let bytes = (program.request_bytes as usize).clamp(DATAGRAM_ORDER_BYTES, PAYLOAD_MAX);
    let mut request = vec![0u8; bytes];
    let mut response = vec![0u8; PAYLOAD_MAX];
    let timeout = Duration::from_micros(ms_to_us(program.timeout_ms).max(1).into());
    for sequence in 0..program.requests {
        if sequence > 0 {
            sleep_us(ms_to_us(program.pause_ms));
        }
        let order = DatagramOrder {
            sequence,
            thread: 0,
            think_us: ms_to_us(program.think_ms),
            response_bytes: program.response_bytes.max(DATAGRAM_ORDER_BYTES as u32),
        };
        order.write(&mut request);
        let start = Instant::now();
        if socket.send(&request).is_err() {
            outcome.failed += 1;
            continue;
        }
        outcome.datagrams_sent += 1;
        outcome.bytes_sent += bytes as u64;
        let Some(length) = receive(&socket, &mut response, sequence, start + timeout)? else {
            outcome.failed += 1;
            continue;
        };
        outcome.response_us.push(start.elapsed().as_micros() as u64);
        outcome.datagrams_received += 1;
        outcome.bytes_received += length as u64;
        outcome.requests += 1;
        if let Some(answer) = DatagramOrder::read(&response[..length])
            && order.think_us > 0
        {
            outcome.slept_us.push(answer.think_us.into());
        }
    }
    Ok(outcome)
}

/// The length of the answer to request `sequence`, or nothing when it does not come in time.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    sequence: u32,
    end: Instant,
) -> Result<Option<usize>> {
    loop {
        let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        else {
            return Ok(None);
        };
        socket.set_read_timeout(Some(left))?;
        match socket.recv(buffer) {
            Ok(length) => {
                let answer = DatagramOrder::read(&buffer[..length]);
                if answer.is_some_and(|answer| answer.sequence == sequence) {
                    return Ok(Some(length));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            // An ICMP error: no answer will come.
            Err(_) => return Ok(None),
        }
    }
}

pub(super) fn stream(program: &UdpStream, target: SocketAddr) -> Result<Outcome> {
    if program.threads == 0 || program.threads > THREADS_MAX {
        bail!("threads: give 1 to {THREADS_MAX}");
    }
    let (socket, mut outcome) = open(target)?;
    let bytes = (program.bytes as usize).clamp(DATAGRAM_ORDER_BYTES, PAYLOAD_MAX);
    let gap = if program.rate_per_s > 0.0 {
        Duration::try_from_secs_f64(1.0 / program.rate_per_s)?
    } else {
        Duration::ZERO
    };
    let send = |thread: u32| {
        let mut payload = vec![0u8; bytes];
        let start = Instant::now();
        let (mut sent, mut failed) = (0u64, 0u64);
        for sequence in 0..program.datagrams {
            if let Some(early) = (gap * sequence).checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
            DatagramOrder {
                sequence,
                thread,
                ..DatagramOrder::default()
            }
            .write(&mut payload);
            match socket.send(&payload) {
                Ok(_) => sent += 1,
                Err(_) => failed += 1,
            }
        }
        (sent, failed)
    };
    std::thread::scope(|scope| {
        let send = &send;
        let threads: Vec<_> = (0..program.threads)
            .map(|thread| scope.spawn(move || send(thread)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok((sent, failed)) => {
                    outcome.datagrams_sent += sent;
                    outcome.failed += failed;
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    outcome.bytes_sent = outcome.datagrams_sent * bytes as u64;
    Ok(outcome)
}
