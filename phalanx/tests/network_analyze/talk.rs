//! What client and server say to each other, and what they themselves know about its times.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use phalanx_range::Host;
use phalanx_range::range::SocketTruth;

use crate::limit::{Limits, Watch};
use crate::stage::{Stage, ask_when_acknowledged, now_ns};

/// Time from and to, by the clock of captures, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
}

impl Interval {
    /// Sleeps, and says when that really was.
    pub(crate) fn sleep(time: Duration) -> Self {
        let from_ns = now_ns();
        std::thread::sleep(time);
        let to_ns = now_ns();
        Self { from_ns, to_ns }
    }

    pub(crate) fn ms(&self) -> f64 {
        (self.to_ns - self.from_ns) as f64 / 1e6
    }
}

/// The sum in milliseconds.
pub(crate) fn sum_ms(intervals: &[Interval]) -> f64 {
    intervals.iter().map(Interval::ms).sum()
}

/// What the two of them know.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Who sent the bulk, or asked: what its kernel said before the end.
    pub(crate) socket: SocketTruth,
    /// The server's sleeps between request and response.
    pub(crate) thinks: Vec<Interval>,
    /// The client's sleeps between response and request.
    pub(crate) idles: Vec<Interval>,
    /// The reader's sleeps.
    pub(crate) stalls: Vec<Interval>,
    /// The writer's sleeps.
    pub(crate) pauses: Vec<Interval>,
    /// What held the writer of an upload back.
    pub(crate) limits: Limits,
}

/// How a bulk is sent and read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bulk {
    pub(crate) bytes: usize,
    pub(crate) send_buffer_bytes: Option<usize>,
    pub(crate) receive_buffer_bytes: Option<usize>,
    /// The reader sleeps each time it has read so many bytes.
    pub(crate) stall: Option<(usize, Duration)>,
    /// The writer sleeps each time it has written so many bytes.
    pub(crate) pause: Option<(usize, Duration)>,
}

impl Bulk {
    /// From the client to the server.
    pub(crate) fn upload(self, stage: &Stage) -> Told {
        let (listener, address) = self.listen(stage);
        let reader = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            read_all(&stream, self.stall)
        });
        let stream = connect(stage.client(), address);
        if let Some(bytes) = self.send_buffer_bytes {
            setsockopt(&stream.as_fd(), sockopt::SndBuf, &bytes).unwrap();
        }
        let watch = Watch::start(&stream);
        let pauses = write_all(&stream, self.bytes, self.pause);
        let limits = watch.end();
        let socket = ask_when_acknowledged(stage.client(), address.port());
        stream.shutdown(Shutdown::Write).unwrap();
        await_end(&stream);
        let stalls = reader.join().unwrap();
        Told {
            socket,
            stalls,
            pauses,
            limits,
            ..Told::default()
        }
    }

    /// From the server to the client, after a short request.
    pub(crate) fn download(self, stage: &Stage) -> Told {
        let (listener, address) = self.listen(stage);
        let writer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; REQUEST_BYTES]).unwrap();
            let pauses = write_all(&stream, self.bytes, self.pause);
            stream.shutdown(Shutdown::Write).unwrap();
            await_end(&stream);
            pauses
        });
        let mut stream = connect(stage.client(), address);
        stream.write_all(&[7; REQUEST_BYTES]).unwrap();
        let stalls = read_all(&stream, self.stall);
        drop(stream);
        let pauses = writer.join().unwrap();
        Told {
            stalls,
            pauses,
            ..Told::default()
        }
    }

    fn listen(&self, stage: &Stage) -> (TcpListener, SocketAddr) {
        let (listener, address) = listen(stage.server());
        if let Some(bytes) = self.receive_buffer_bytes {
            // A connection inherits it, and its window scale with it.
            setsockopt(&listener.as_fd(), sockopt::RcvBuf, &bytes).unwrap();
        }
        (listener, address)
    }
}

const REQUEST_BYTES: usize = 200;

/// Requests and responses, one after the other on one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchanges {
    pub(crate) count: usize,
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
    /// For the n-th.
    pub(crate) think: fn(usize) -> Duration,
    pub(crate) idle: fn(usize) -> Duration,
}

impl Exchanges {
    pub(crate) fn run(self, stage: &Stage) -> Told {
        let (listener, address) = listen(stage.server());
        let server = std::thread::spawn(move || self.serve(&listener));
        let mut stream = connect(stage.client(), address);
        let mut idles = Vec::new();
        let mut response = vec![0; self.response_bytes];
        for number in 0..self.count {
            if number > 0 && !(self.idle)(number).is_zero() {
                idles.push(Interval::sleep((self.idle)(number)));
            }
            stream.write_all(&vec![7; self.request_bytes]).unwrap();
            stream.read_exact(&mut response).unwrap();
        }
        let socket = ask_when_acknowledged(stage.client(), address.port());
        stream.shutdown(Shutdown::Write).unwrap();
        await_end(&stream);
        Told {
            socket,
            thinks: server.join().unwrap(),
            idles,
            ..Told::default()
        }
    }

    fn serve(self, listener: &TcpListener) -> Vec<Interval> {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = vec![0; self.request_bytes];
        let mut thinks = Vec::new();
        for number in 0..self.count {
            stream.read_exact(&mut request).unwrap();
            if !(self.think)(number).is_zero() {
                thinks.push(Interval::sleep((self.think)(number)));
            }
            stream.write_all(&vec![8; self.response_bytes]).unwrap();
        }
        await_end(&stream);
        thinks
    }
}

fn listen(host: &Host) -> (TcpListener, SocketAddr) {
    let address = (host.ipv4().unwrap(), 0);
    let listener = host.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(host: &Host, to: SocketAddr) -> TcpStream {
    let stream = host.enter(|| TcpStream::connect(to)).unwrap().unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads to the other side's end.
fn await_end(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

const PIECE_BYTES: usize = 16 << 10;

fn read_all(mut stream: &TcpStream, stall: Option<(usize, Duration)>) -> Vec<Interval> {
    let mut buffer = vec![0; PIECE_BYTES];
    let (mut stalls, mut read) = (Vec::new(), 0);
    loop {
        let bytes = stream.read(&mut buffer).unwrap();
        if bytes == 0 {
            return stalls;
        }
        read += bytes;
        if let Some((chunk_bytes, time)) = stall
            && read >= chunk_bytes
        {
            read -= chunk_bytes;
            stalls.push(Interval::sleep(time));
        }
    }
}

fn write_all(
    mut stream: &TcpStream,
    bytes: usize,
    pause: Option<(usize, Duration)>,
) -> Vec<Interval> {
    let mut pauses = Vec::new();
    let piece = pause.map_or(PIECE_BYTES, |(chunk_bytes, _)| chunk_bytes);
    let buffer = vec![7; piece];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(piece);
        stream.write_all(&buffer[..length]).unwrap();
        left -= length;
        if let Some((_, time)) = pause.filter(|_| left > 0) {
            pauses.push(Interval::sleep(time));
        }
    }
    pauses
}

/// Does something in the middle of a conversation, some times.
pub(crate) fn meanwhile<T: Send>(
    talk: impl FnOnce() -> T + Send,
    mut disturb: impl FnMut(),
    times: &[Duration],
) -> T {
    std::thread::scope(|scope| {
        let start = Instant::now();
        let talk = scope.spawn(talk);
        for time in times {
            std::thread::sleep(time.saturating_sub(start.elapsed()));
            disturb();
        }
        talk.join().unwrap()
    })
}
