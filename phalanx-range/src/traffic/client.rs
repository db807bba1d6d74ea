//! The TCP programs of a client.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::server::{read_paced, sleep_us, write_for, write_paced};
use super::socket::{reset_on_close, set_receive_buffer, tcp_truth};
use super::{ANSWER_BYTES, ORDER_BYTES, Order, Outcome, Pace, Program, UNTIL_END, ms_to_us};
use super::{Download, Idle, RequestResponse, ShortConnections, Upload, datagram};
use crate::limits::CONNECTIONS_MAX;

/// How long `connect` may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be without any progress before it counts as failed.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Runs a program against the server at `target` from the calling thread's namespace, to its
/// end. A connection that fails is counted, and is no error.
pub fn run(program: &Program, target: SocketAddr) -> Result<Outcome> {
    let start = Instant::now();
    let mut outcome = match program {
        Program::RequestResponse(p) => at_once(p.connections, &|outcome| {
            request_response(p, target, outcome)
        })?,
        Program::Download(p) => {
            check_amount(p.bytes, p.seconds)?;
            at_once(p.connections, &|outcome| download(p, target, outcome))?
        }
        Program::Upload(p) => {
            check_amount(p.bytes, p.seconds)?;
            at_once(p.connections, &|outcome| upload(p, target, outcome))?
        }
        Program::Idle(p) => at_once(p.connections, &|outcome| idle(p, target, outcome))?,
        Program::ShortConnections(p) => short_connections(p, target)?,
        Program::UdpRequestResponse(p) => datagram::request_response(p, target)?,
        Program::UdpStream(p) => datagram::stream(p, target)?,
    };
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

fn check_amount(bytes: u64, seconds: f64) -> Result<()> {
    if (bytes > 0) == (seconds > 0.0) || !(0.0..=86_400.0).contains(&seconds) {
        bail!("give either `bytes` or `seconds` (up to a day)");
    }
    Ok(())
}

/// What one connection does; what it did so far is in the outcome even when it fails.
type Work<'a> = dyn Fn(&mut Outcome) -> io::Result<()> + Sync + 'a;

fn at_once(connections: u32, work: &Work<'_>) -> Result<Outcome> {
    if connections == 0 || connections > CONNECTIONS_MAX {
        bail!("connections: give 1 to {CONNECTIONS_MAX}");
    }
    let mut sum = Outcome::default();
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for _ in 0..connections {
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            threads.push(thread.spawn_scoped(scope, || one(work))?);
        }
        for thread in threads {
            match thread.join() {
                Ok(outcome) => sum.add(outcome),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    Ok(sum)
}

fn one(work: &Work<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(error) = work(&mut outcome) {
        outcome.failed = 1;
        outcome.error = Some(error.to_string());
    }
    outcome
}

fn connect(target: SocketAddr, outcome: &mut Outcome) -> io::Result<TcpStream> {
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)?;
    outcome.connect_us.push(start.elapsed().as_micros() as u64);
    outcome.connections = 1;
    outcome.local.push(stream.local_addr()?);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    Ok(stream)
}

/// Closes the connection in order, so that the server has it all, and notes what the kernel did.
fn close(stream: &TcpStream, outcome: &mut Outcome) -> io::Result<()> {
    match stream.shutdown(Shutdown::Write) {
        // An upload until the end was shut down before, and the server may have closed since.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
        result => result?,
    }
    read_paced(stream, UNTIL_END, Pace::default())?;
    outcome.retransmits += u64::from(tcp_truth(stream)?.retransmits);
    Ok(())
}

/// One request and its response.
fn exchange(mut stream: &TcpStream, order: Order, outcome: &mut Outcome) -> io::Result<()> {
    let order = Order {
        request_bytes: order.request_bytes.max(ORDER_BYTES as u64),
        response_bytes: order.response_bytes.max(ANSWER_BYTES as u64),
        ..order
    };
    let start = Instant::now();
    let bytes = order.to_bytes();
    write_paced(
        stream,
        &bytes,
        order.request_bytes,
        Pace::default(),
        &mut outcome.bytes_sent,
    )?;
    let mut head = [0u8; ANSWER_BYTES];
    stream.read_exact(&mut head[..1])?;
    outcome.response_us.push(start.elapsed().as_micros() as u64);
    stream.read_exact(&mut head[1..])?;
    let rest = order.response_bytes - ANSWER_BYTES as u64;
    outcome.bytes_received += ANSWER_BYTES as u64 + read_paced(stream, rest, Pace::default())?;
    outcome.requests += 1;
    if order.think_us > 0 {
        let (slept, _) = head.split_at(8);
        let slept_ns = slept
            .iter()
            .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        outcome.slept_us.push(slept_ns / 1_000);
    }
    Ok(())
}

fn request_response(
    program: &RequestResponse,
    target: SocketAddr,
    outcome: &mut Outcome,
) -> io::Result<()> {
    let stream = connect(target, outcome)?;
    let order = Order {
        request_bytes: program.request_bytes,
        response_bytes: program.response_bytes,
        think_us: ms_to_us(program.think_ms),
        ..Order::default()
    };
    for number in 0..program.requests {
        if number > 0 {
            sleep_us(ms_to_us(program.pause_ms));
        }
        exchange(&stream, order, outcome)?;
    }
    close(&stream, outcome)
}

fn download(program: &Download, target: SocketAddr, outcome: &mut Outcome) -> io::Result<()> {
    let stream = connect(target, outcome)?;
    if program.receive_buffer_bytes > 0 {
        set_receive_buffer(&stream, program.receive_buffer_bytes)?;
    }
    let bytes = if program.bytes > 0 {
        program.bytes
    } else {
        UNTIL_END
    };
    let order = Order {
        request_bytes: ORDER_BYTES as u64,
        response_bytes: bytes,
        write_for_ms: (program.seconds * 1e3) as u32,
        write: Pace {
            chunk_bytes: program.write_chunk_bytes,
            pause_us: ms_to_us(program.write_pause_ms),
        },
        ..Order::default()
    };
    let head = order.to_bytes();
    write_paced(
        &stream,
        &head,
        ORDER_BYTES as u64,
        Pace::default(),
        &mut outcome.bytes_sent,
    )?;
    let pace = Pace {
        chunk_bytes: program.read_chunk_bytes,
        pause_us: ms_to_us(program.read_pause_ms),
    };
    outcome.bytes_received += read_paced(&stream, bytes, pace)?;
    outcome.requests += 1;
    close(&stream, outcome)
}

fn upload(program: &Upload, target: SocketAddr, outcome: &mut Outcome) -> io::Result<()> {
    let mut stream = connect(target, outcome)?;
    let order = Order {
        request_bytes: if program.bytes > 0 {
            program.bytes.max(ORDER_BYTES as u64)
        } else {
            UNTIL_END
        },
        response_bytes: ANSWER_BYTES as u64,
        read: Pace {
            chunk_bytes: program.read_chunk_bytes,
            pause_us: ms_to_us(program.read_pause_ms),
        },
        ..Order::default()
    };
    let pace = Pace {
        chunk_bytes: program.write_chunk_bytes,
        pause_us: ms_to_us(program.write_pause_ms),
    };
    let head = order.to_bytes();
    if program.bytes > 0 {
        write_paced(
            &stream,
            &head,
            order.request_bytes,
            pace,
            &mut outcome.bytes_sent,
        )?;
    } else {
        let time = Duration::from_secs_f64(program.seconds);
        write_for(&stream, &head, time, pace, &mut outcome.bytes_sent)?;
    }
    let mut head = [0u8; ANSWER_BYTES];
    stream.read_exact(&mut head)?;
    outcome.bytes_received += ANSWER_BYTES as u64;
    outcome.requests += 1;
    close(&stream, outcome)
}

fn idle(program: &Idle, target: SocketAddr, outcome: &mut Outcome) -> io::Result<()> {
    let stream = connect(target, outcome)?;
    exchange(&stream, Order::default(), outcome)?;
    sleep_us(ms_to_us(program.idle_ms));
    exchange(&stream, Order::default(), outcome)?;
    close(&stream, outcome)
}

fn short_connections(program: &ShortConnections, target: SocketAddr) -> Result<Outcome> {
    let order = Order {
        request_bytes: program.request_bytes,
        response_bytes: program.response_bytes,
        think_us: ms_to_us(program.think_ms),
        ..Order::default()
    };
    let work = |outcome: &mut Outcome| {
        let stream = connect(target, outcome)?;
        exchange(&stream, order, outcome)?;
        if program.reset {
            outcome.retransmits += u64::from(tcp_truth(&stream)?.retransmits);
            return reset_on_close(&stream);
        }
        close(&stream, outcome)
    };
    let mut sum = Outcome::default();
    if program.rate_per_s <= 0.0 {
        (0..program.count).for_each(|_| sum.add(one(&work)));
        return Ok(sum);
    }
    let gap = Duration::try_from_secs_f64(1.0 / program.rate_per_s)?;
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = std::collections::VecDeque::new();
        for number in 0..program.count {
            if let Some(early) = (gap * number).checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            threads.push_back(thread.spawn_scoped(scope, || one(&work))?);
            while threads.len() >= CONNECTIONS_MAX as usize
                || threads
                    .front()
                    .is_some_and(std::thread::ScopedJoinHandle::is_finished)
            {
                join_into(threads.pop_front(), &mut sum);
            }
        }
        threads
            .into_iter()
            .for_each(|thread| join_into(Some(thread), &mut sum));
        Ok(())
    })?;
    Ok(sum)
}

fn join_into(thread: Option<std::thread::ScopedJoinHandle<'_, Outcome>>, sum: &mut Outcome) {
    match thread.map(std::thread::ScopedJoinHandle::join) {
        Some(Ok(outcome)) => sum.add(outcome),
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => {}
    }
}
