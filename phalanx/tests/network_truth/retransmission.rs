//! Retransmissions against what the sender's kernel counts.

use std::collections::BTreeMap;
use std::time::Duration;

use phalanx_common::abi::{self, FlowUpdate};
use phalanx_range::{Direction, Patch};

use super::watch::Watch;
use super::{alone, build, compare, connection, impair};

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn retransmissions_are_those_that_the_sender_counts() {
    const CONNECTIONS: usize = 8;
    const BYTES: usize = 400_000;
    let _alone = alone();
    let range = build();
    let watch = Watch::start(&range, "client", "to-edge", Duration::ZERO);
    let (server, sink) = connection::sink(&range, "server", CONNECTIONS);
    let port = server.port();
    let before = connection::retransmitted_segments(&range, "client");
    let outage = |is_out| {
        let patch = Patch {
            outage: Some(is_out),
            ..Patch::default()
        };
        range
            .link("wan")
            .unwrap()
            .patch(Direction::Forward, patch)
            .unwrap();
    };
    impair(&range, 20.0, [0.02, 0.0]);
    // The first SYN of one connection is lost for sure, and the first FIN of another.
    outage(true);
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| connection::connect(&range, "client", server));
        std::thread::sleep(Duration::from_millis(300));
        outage(false);
        first.join().unwrap()
    });
    let others = (1..CONNECTIONS).map(|_| connection::connect(&range, "client", server));
    let streams: Vec<_> = std::iter::once(first).chain(others).collect();
    std::thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(|| connection::write(stream, BYTES));
        }
    });
    let told = connection::ask_when_acknowledged(&range, "client", port);
    let mut streams = streams.into_iter();
    let last = streams.next().unwrap();
    streams.for_each(connection::end);
    outage(true);
    std::thread::scope(|scope| {
        scope.spawn(|| connection::end(last));
        std::thread::sleep(Duration::from_millis(100));
        outage(false);
    });
    sink.join().unwrap();
    connection::await_end(&range, "client", port);
    let kernel = connection::retransmitted_segments(&range, "client") - before;
    let counted = counted(&watch.take(), port);
    println!("retransmitted at the sender   segments     bytes");
    println!("RetransSegs                     {kernel:>6}");
    println!(
        "ss -ti before FIN               {:>6}    {:>6}",
        told.segments, told.bytes
    );
    println!(
        "measured                        {:>6}    {:>6}",
        counted.0, counted.1
    );
    assert_eq!(told.connections, CONNECTIONS);
    assert!(told.segments > 20, "{told:?}: too few to tell");
    assert!(kernel > told.segments, "no FIN was retransmitted");
    assert_eq!((counted.0, counted.1), (kernel, told.bytes));
}

/// Segments and payload bytes that were sent again towards a port, over all flows.
fn counted(updates: &[FlowUpdate], port: u16) -> (u64, u64) {
    let mut last = BTreeMap::new();
    for update in updates {
        for sender in [abi::Direction::FromLow, abi::Direction::FromHigh] {
            let way = compare::way(&update.key, sender);
            if way.1.port() == port {
                let half = &update.halves[sender as usize];
                let counts = (
                    update.version,
                    half.retransmitted_packets,
                    half.retransmitted_bytes,
                );
                let newest = last.entry(way).or_insert(counts);
                *newest = (*newest).max(counts);
            }
        }
    }
    last.values().fold((0, 0), |sum, (_, segments, bytes)| {
        (sum.0 + u64::from(*segments), sum.1 + bytes)
    })
}
