//! Proxies in a row, and several of the same content at once.

use super::{MS, trail};
use crate::side::{Endpoint, Sides};
use crate::stitch::clock::Clocks;
use crate::stitch::content::Content;
use crate::stitch::proxy::link_by_content;
use crate::stitch::trail::Trail;

/// A fetch that all hops of one host saw: from a host to another, asked and answered at these
/// times.
fn fetch(from: u8, to: u8, port: u16, [asked_ms, answered_ms]: [i64; 2]) -> Trail {
    let mut trail = trail(0, port, 0, 1, |_| false);
    let end = |host: u8, port: u16| Endpoint {
        address: std::net::Ipv4Addr::new(10, 0, 0, host).into(),
        port,
    };
    trail.ends = Sides {
        client: end(from, port),
        server: end(to, 80),
    };
    let chunks = |first: u64, count: u64, ms: i64| -> Vec<(u64, i64)> {
        (first..first + count).map(|it| (it, ms * MS)).collect()
    };
    trail.content = Box::new(Content::of_chunks(Sides {
        client: chunks(100, 1, asked_ms),
        server: chunks(200, 5, answered_ms),
    }));
    trail
}

/// What is linked, of fetches each of which is a conversation.
fn linked(fetches: &[Trail]) -> Vec<[usize; 2]> {
    let places: Vec<[usize; 1]> = (0..fetches.len()).map(|it| [it]).collect();
    let groups: Vec<&[usize]> = places.iter().map(|it| &it[..]).collect();
    let links = link_by_content(&groups, fetches, &Clocks::default());
    links.iter().map(|it| it.conversations).collect()
}

#[test]
fn of_proxies_in_a_row_neighbours_are_linked() {
    // In any order: client to proxy, proxy to proxy, proxy to server.
    let client = fetch(1, 2, 40_000, [0, 100]);
    let middle = fetch(2, 3, 41_000, [10, 90]);
    let server = fetch(3, 4, 42_000, [20, 80]);
    let row = [client.clone(), middle.clone(), server.clone()];
    assert_eq!(linked(&row), [[0, 1], [1, 2]]);
    assert_eq!(linked(&[server, client, middle]), [[1, 2], [2, 0]]);
}

#[test]
fn equal_fetches_within_each_other_are_linked_where_it_is_clear() {
    let outer = fetch(1, 2, 40_000, [0, 100]);
    let inner = fetch(5, 2, 40_001, [20, 80]);
    let outer_onward = fetch(2, 4, 41_000, [10, 90]);
    let inner_onward = fetch(2, 4, 41_001, [30, 70]);
    let all = [
        outer.clone(),
        inner.clone(),
        outer_onward,
        inner_onward.clone(),
    ];
    assert_eq!(linked(&all), [[0, 2], [1, 3]]);
    // The inner one was answered from what the proxy keeps, or the outer one: nobody knows.
    let none: [[usize; 2]; 0] = [];
    assert_eq!(linked(&[outer.clone(), inner, inner_onward.clone()]), none);
    // One client, and two onward that may both be its.
    let again = fetch(2, 4, 41_002, [40, 60]);
    assert_eq!(linked(&[outer, inner_onward, again]), none);
}

#[test]
fn who_fetches_the_same_twice_is_no_proxy() {
    let none: [[usize; 2]; 0] = [];
    let fetches = [fetch(1, 2, 40_000, [0, 100]), fetch(5, 2, 40_001, [10, 90])];
    assert_eq!(linked(&fetches), none);
}
