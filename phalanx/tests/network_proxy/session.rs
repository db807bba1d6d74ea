//! Sessions through a proxy: each client asks again and again over one connection, and all ask the
//! same. The proxy has a connection beyond for each of them, or one for all.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Barrier, Mutex};
use std::thread::{scope, sleep};
use std::time::Duration;

use phalanx_range::{Host, Range};

use super::{PORT, PROXY_PORT, request, text};

const ANSWER_BYTES: usize = 9_000;

/// What is played.
#[derive(Clone, Copy)]
pub(crate) struct Sessions {
    pub(crate) clients: usize,
    /// Requests of each.
    pub(crate) rounds: u8,
    /// All clients ask at the same time.
    pub(crate) is_in_step: bool,
    /// One connection beyond serves all.
    pub(crate) is_pooled: bool,
}

/// Ports of a client's connection and of the one beyond.
pub(crate) type Pair = (u16, u16);

/// A time that differs with what it is for, in milliseconds.
fn some_ms(index: usize, round: u8) -> Duration {
    let mixed = (index as u64 + 1) * 7_919 + (u64::from(round) + 1) * 104_729;
    Duration::from_millis(2 + mixed * mixed % 97 % 17)
}

impl Sessions {
    /// Plays it; which connection the proxy passed on over which.
    pub(crate) fn play(self, range: &Range) -> Vec<Pair> {
        let host = |name| range.host(name).unwrap();
        let listen = |host: &Host, port: u16| {
            let bind = || TcpListener::bind(("0.0.0.0", port));
            host.enter(bind).unwrap().unwrap()
        };
        let server = listen(host("server"), PORT);
        let proxy = listen(host("proxy"), PROXY_PORT);
        let target = SocketAddr::from((host("server").ipv4().unwrap(), PORT));
        // The address that the proxy has towards the server as well.
        let beyond = host("proxy").interface_to("server").unwrap();
        let near = SocketAddr::from((beyond.addresses[0].addr(), PROXY_PORT));
        let step = Barrier::new(self.clients);
        scope(|scope| {
            scope.spawn(|| self.serve(&server));
            let passed = scope.spawn(|| {
                host("proxy")
                    .enter(|| self.pass_on(&proxy, target))
                    .unwrap()
            });
            let step = &step;
            for index in 0..self.clients {
                let ask = move || self.ask(near, index, step);
                scope.spawn(move || host("client").enter(ask).unwrap());
            }
            passed.join().unwrap()
        })
    }

    fn ask(self, target: SocketAddr, index: usize, step: &Barrier) {
        let mut stream = TcpStream::connect(target).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut answer = vec![0; ANSWER_BYTES];
        for round in 0..self.rounds {
            if self.is_in_step {
                step.wait();
            } else {
                sleep(3 * some_ms(3 * index, round));
            }
            stream.write_all(&request(round)).unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, text(round, ANSWER_BYTES));
        }
    }

    fn serve(self, listener: &TcpListener) {
        let count = if self.is_pooled { 1 } else { self.clients };
        scope(|scope| {
            for index in 0..count {
                let (mut stream, _) = listener.accept().unwrap();
                scope.spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    let mut asked = request(0);
                    while stream.read_exact(&mut asked).is_ok() {
                        // What it takes to find the answer.
                        sleep(some_ms(index, asked[0]));
                        stream.write_all(&text(asked[0], ANSWER_BYTES)).unwrap();
                    }
                });
            }
        });
    }

    fn pass_on(self, listener: &TcpListener, target: SocketAddr) -> Vec<Pair> {
        let connect = || {
            let stream = TcpStream::connect(target).unwrap();
            stream.set_nodelay(true).unwrap();
            Mutex::new(stream)
        };
        let pool: Vec<Mutex<TcpStream>> = (0..usize::from(self.is_pooled))
            .map(|_| connect())
            .collect();
        let mut pairs = Vec::new();
        scope(|scope| {
            for _ in 0..self.clients {
                let (mut client, from) = listener.accept().unwrap();
                client.set_nodelay(true).unwrap();
                let pool = pool.first();
                let own = pool.is_none().then(connect);
                if let Some(own) = &own {
                    let port = own.lock().unwrap().local_addr().unwrap().port();
                    pairs.push((from.port(), port));
                }
                scope.spawn(move || {
                    let onward = own.as_ref().or(pool).unwrap();
                    while exchange(&mut client, onward).is_some() {}
                });
            }
        });
        pairs
    }
}

/// Passes on one request and its answer, over a connection that is taken for that long.
fn exchange(client: &mut TcpStream, onward: &Mutex<TcpStream>) -> Option<()> {
    let mut asked = request(0);
    client.read_exact(&mut asked).ok()?;
    let mut onward = onward.lock().unwrap();
    onward.write_all(&asked).unwrap();
    let mut piece = [0; 777];
    let mut left = ANSWER_BYTES;
    while left > 0 {
        let most = left.min(piece.len());
        let count = onward.read(&mut piece[..most]).unwrap();
        client.write_all(&piece[..count]).unwrap();
        left -= count;
    }
    Some(())
}
