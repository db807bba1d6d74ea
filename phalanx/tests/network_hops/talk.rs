//! Connections that ask and answer, in rounds: between two rounds nothing is under way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use phalanx_range::Host;

/// Length of a request's head: how much follows, and how much to answer.
const HEAD_BYTES: usize = 8;

/// What each connection does in a round.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    pub(crate) exchanges: usize,
    pub(crate) request_bytes: u32,
    pub(crate) response_bytes: u32,
    pub(crate) pause: Duration,
}

/// A server that answers until its listener's thread is told of the last connection.
pub(crate) struct Talk {
    streams: Vec<TcpStream>,
    server: JoinHandle<()>,
}

impl Talk {
    /// Opens connections to where the service is seen from the client.
    pub(crate) fn open(
        (client, target): (&Host, SocketAddr),
        (server, port): (&Host, u16),
        connections: usize,
    ) -> Self {
        let address = (server.ipv4().unwrap(), port);
        let listener = server
            .enter(|| TcpListener::bind(address))
            .unwrap()
            .unwrap();
        let server = std::thread::spawn(move || {
            let accepted = (0..connections).map(|_| listener.accept().unwrap().0);
            let threads: Vec<_> = accepted
                .map(|stream| std::thread::spawn(move || serve(stream)))
                .collect();
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        });
        let connect = || {
            let streams = (0..connections).map(|_| TcpStream::connect(target).unwrap());
            streams.collect::<Vec<_>>()
        };
        let streams = client.enter(connect).unwrap();
        streams
            .iter()
            .for_each(|stream| stream.set_nodelay(true).unwrap());
        Self { streams, server }
    }

    /// All connections at once, each its exchanges one after the other.
    pub(crate) fn round(&self, round: Round) {
        std::thread::scope(|scope| {
            for stream in &self.streams {
                scope.spawn(move || ask(stream, round));
            }
        });
    }

    pub(crate) fn close(self) {
        for mut stream in self.streams {
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        }
        self.server.join().unwrap();
    }
}

fn ask(mut stream: &TcpStream, round: Round) {
    let mut request = vec![7; HEAD_BYTES + round.request_bytes as usize];
    request[..4].copy_from_slice(&round.request_bytes.to_be_bytes());
    request[4..8].copy_from_slice(&round.response_bytes.to_be_bytes());
    let mut response = vec![0; round.response_bytes as usize];
    for _ in 0..round.exchanges {
        stream.write_all(&request).unwrap();
        stream.read_exact(&mut response).unwrap();
        std::thread::sleep(round.pause);
    }
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut head = [0; HEAD_BYTES];
    while stream.read_exact(&mut head).is_ok() {
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let mut request = vec![0; word(0)];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&vec![8; word(4)]).unwrap();
    }
}
