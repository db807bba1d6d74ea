//! Proxies told by times alone: what a proxy does, and what only looks like it.

use phalanx_common::packet::TcpFlags;

use super::SECOND;
use crate::limits::{EXCHANGE_COUNT_MAX, EXCHANGE_NESTED_COUNT_MAX};
use crate::side::{Endpoint, Side, Sides};
use crate::stitch::clock::{AllSightings, Clocks};
use crate::stitch::content::Content;
use crate::stitch::conversation::StitchedConversation;
use crate::stitch::hull::Point;
use crate::stitch::proxy::{ProxyBasis, ProxyLink, link};
use crate::stitch::trail::{Crossing, Trail};

const CLIENT: u8 = 1;
const PROXY: u8 = 2;
const SERVER: u8 = 3;
/// TTL of packets that routers have passed on.
const ROUTED_TTL: u8 = 60;

/// A request and its answer: when, in microseconds, and how many bytes.
#[derive(Clone, Copy, Debug)]
struct Turn {
    us: [i64; 2],
    bytes: [u32; 2],
}

const fn turn(asked_us: i64, answered_us: i64) -> Turn {
    Turn {
        us: [asked_us, answered_us],
        bytes: [400, 9_000],
    }
}

/// A connection as a hop of the proxy's host sees it.
fn connection([from, to]: [u8; 2], port: u16, turns: &[Turn]) -> Trail {
    let mut trail = super::trail(0, port, 0, 0, |_| false);
    let end = |host: u8, port: u16| Endpoint {
        address: std::net::Ipv4Addr::new(10, 0, 0, host).into(),
        port,
    };
    trail.ends = Sides {
        client: end(from, port),
        server: end(to, 80),
    };
    for Turn { us, bytes } in turns {
        put(&mut trail, Side::Client, us[0], bytes[0], TcpFlags::ACK);
        put(&mut trail, Side::Server, us[1], bytes[1], TcpFlags::ACK);
    }
    trail
}

fn put(trail: &mut Trail, side: Side, us: i64, length: u32, flags: u8) {
    let frame = trail.packet_count() as u64 + 1;
    trail.crossings.get_mut(side).push(Crossing {
        time_ns: us * 1_000,
        frame,
        length,
        flags,
        ttl: ROUTED_TTL,
        ..Crossing::default()
    });
}

/// The same from SYN to FIN.
fn whole(hosts: [u8; 2], port: u16, life_us: [i64; 2], turns: &[Turn]) -> Trail {
    let mut trail = connection(hosts, port, &[]);
    put(&mut trail, Side::Client, life_us[0], 0, TcpFlags::SYN);
    for Turn { us, bytes } in turns {
        put(&mut trail, Side::Client, us[0], bytes[0], TcpFlags::ACK);
        put(&mut trail, Side::Server, us[1], bytes[1], TcpFlags::ACK);
    }
    let flags = TcpFlags::FIN | TcpFlags::ACK;
    put(&mut trail, Side::Server, life_us[1], 0, flags);
    trail
}

/// Links of connections each of which is a conversation that one hop saw.
fn links(trails: &[Trail]) -> Vec<ProxyLink> {
    links_by(trails, &Clocks::default())
}

fn links_by(trails: &[Trail], clocks: &Clocks) -> Vec<ProxyLink> {
    let conversation = |(place, trail): (usize, &Trail)| StitchedConversation {
        flows: vec![place],
        path: vec![trail.hop],
        return_path: vec![trail.hop],
        ..StitchedConversation::default()
    };
    let conversations: Vec<_> = trails.iter().enumerate().map(conversation).collect();
    link(&conversations, trails, clocks)
}

fn pairs(trails: &[Trail]) -> Vec<[usize; 2]> {
    links(trails).iter().map(|it| it.conversations).collect()
}

const NONE: [[usize; 2]; 0] = [];

/// So many turns, one in 100 ms, each from so many microseconds on for so long.
fn turns(count: i64, from_us: i64, long_us: i64) -> Vec<Turn> {
    let of = |index: i64| {
        let asked_us = index * 100_000 + from_us;
        turn(asked_us, asked_us + long_us)
    };
    (0..count).map(of).collect()
}

#[test]
fn exchanges_within_those_of_another_are_a_hypothesis() {
    let near = connection([CLIENT, PROXY], 40_000, &turns(12, 0, 21_000));
    let far = connection([PROXY, SERVER], 50_000, &turns(12, 400, 20_000));
    let told = links(&[far.clone(), near.clone()]);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].conversations, [1, 0]);
    let ProxyBasis::Timing {
        exchanges,
        confidence,
    } = told[0].basis
    else {
        panic!("{told:?}");
    };
    assert_eq!(exchanges, 12);
    assert!((0.45..=0.5).contains(&confidence), "{confidence}");
    // Fewer tell less, and two nothing.
    let few = |count: i64| {
        let near = connection([CLIENT, PROXY], 40_000, &turns(count, 0, 21_000));
        let far = connection([PROXY, SERVER], 50_000, &turns(count, 400, 20_000));
        links(&[near, far])
    };
    assert_eq!(few(2), []);
    let ProxyBasis::Timing { confidence, .. } = few(3)[0].basis else {
        panic!("no content");
    };
    assert!((0.1..0.3).contains(&confidence), "{confidence}");
}

#[test]
fn a_row_of_proxies_is_told_link_by_link() {
    let row = [
        connection([CLIENT, PROXY], 40_000, &turns(6, 0, 23_000)),
        connection([PROXY, 5], 50_000, &turns(6, 500, 22_000)),
        connection([5, SERVER], 60_000, &turns(6, 900, 21_000)),
    ];
    assert_eq!(pairs(&row), [[0, 1], [1, 2]]);
}

#[test]
fn what_is_not_nested_is_not_the_same_exchange() {
    let near = connection([CLIENT, PROXY], 40_000, &turns(12, 0, 21_000));
    // Answered later than the client was, asked before it asked, at other times altogether.
    for (from_us, long_us) in [(400, 22_000), (-100, 20_000), (50_000, 20_000)] {
        let far = connection([PROXY, SERVER], 50_000, &turns(12, from_us, long_us));
        assert_eq!(pairs(&[near.clone(), far]), NONE, "{from_us} {long_us}");
    }
    // From another host than the one that was asked.
    let far = connection([7, SERVER], 50_000, &turns(12, 400, 20_000));
    assert_eq!(pairs(&[near.clone(), far]), NONE);
    // Other sizes.
    let mut other = turns(12, 400, 20_000);
    other.iter_mut().for_each(|it| it.bytes[1] = 900);
    let far = connection([PROXY, SERVER], 50_000, &other);
    assert_eq!(pairs(&[near, far]), NONE);
}

#[test]
fn a_loop_that_leaves_much_room_needs_many_exchanges() {
    // Half of the time between requests is left: each tells little.
    let pair = |count: i64| {
        [
            connection([CLIENT, PROXY], 40_000, &turns(count, 0, 99_000)),
            connection([PROXY, SERVER], 50_000, &turns(count, 24_000, 50_000)),
        ]
    };
    assert_eq!(pairs(&pair(6)), NONE);
    assert_eq!(pairs(&pair(16)), [[0, 1]]);
}

/// The clocks of two hops: the second is ahead by so much, known to within some microseconds.
fn clocks(ahead_us: i64, error_us: i64) -> Clocks {
    let mut sightings = AllSightings::default();
    for time_ns in (0..4 * SECOND).step_by(100_000_000) {
        for (is_onward, more_us) in [(true, error_us), (false, -error_us)] {
            let ahead_ns = (ahead_us + more_us) * 1_000;
            sightings.add((0, 1), Point { time_ns, ahead_ns }, is_onward);
        }
    }
    let mut clocks = Clocks::default();
    sightings.settle(&super::hops(2), &mut clocks);
    clocks
}

#[test]
fn clocks_that_differ_are_compared_and_leave_no_doubt() {
    let ahead_us = 3_600_000_000;
    let near = connection([CLIENT, PROXY], 40_000, &turns(12, 0, 21_000));
    let far = turns(12, ahead_us + 400, 20_000);
    let far = connection([PROXY, SERVER], 50_000, &far);
    let far = Trail { hop: 1, ..far };
    let both = [near, far];
    assert_eq!(links_by(&both, &clocks(ahead_us, 100)).len(), 1);
    // Whether the proxy asked after its client is in doubt, or nothing is known.
    assert_eq!(links_by(&both, &clocks(ahead_us, 450)), []);
    assert_eq!(links_by(&both, &Clocks::default()), []);
}

#[test]
fn handshakes_of_tls_are_the_connections_own() {
    let mut near = turns(6, 20_000, 21_000);
    near.insert(0, turn(1_000, 2_000));
    near.insert(1, turn(3_000, 3_500));
    let near = connection([CLIENT, PROXY], 40_000, &near);
    // The first request waits until the proxy has shaken hands with the server.
    let mut far = turns(6, 20_400, 20_000);
    far.insert(0, turn(20_100, 20_150));
    far[1] = turn(20_400, 40_400);
    let far = connection([PROXY, SERVER], 50_000, &far);
    assert_eq!(pairs(&[near, far]), [[0, 1]]);
}

#[test]
fn a_pool_is_nobodys() {
    let all = turns(12, 0, 21_000);
    let beyond = turns(12, 400, 20_000);
    // One connection beyond for three clients in turn: by blocks, and exchange by exchange.
    let in_blocks = |index: usize| index / 4;
    let in_turn = |index: usize| index % 3;
    for of in [in_blocks as fn(usize) -> usize, in_turn] {
        let clients = (0..3).map(|client| {
            let own = (0..12).filter(|it| of(*it) == client).map(|it| all[it]);
            let own: Vec<Turn> = own.collect();
            connection([CLIENT, PROXY], 40_000 + client as u16, &own)
        });
        let mut trails: Vec<Trail> = clients.collect();
        trails.push(connection([PROXY, SERVER], 50_000, &beyond));
        assert_eq!(pairs(&trails), NONE);
    }
    // One client over two connections beyond, evenly and mostly over one.
    for part in [2, 6] {
        let of = |is_second: bool| -> Vec<Turn> {
            let own = (0..12).filter(|it| (it % part == 0) == is_second);
            own.map(|it| beyond[it]).collect()
        };
        let trails = [
            connection([CLIENT, PROXY], 40_000, &all),
            connection([PROXY, SERVER], 50_000, &of(false)),
            connection([PROXY, SERVER], 50_001, &of(true)),
        ];
        assert_eq!(pairs(&trails), NONE, "{part}");
    }
}

#[test]
fn what_fits_two_is_told_of_neither() {
    let outer = connection([CLIENT, PROXY], 40_000, &turns(12, 0, 23_000));
    let inner = connection([4, PROXY], 40_001, &turns(12, 300, 22_000));
    let far = connection([PROXY, SERVER], 50_000, &turns(12, 600, 20_000));
    let other = connection([PROXY, SERVER], 50_001, &turns(12, 700, 20_000));
    assert_eq!(pairs(&[outer.clone(), inner.clone(), far.clone()]), NONE);
    assert_eq!(pairs(&[outer.clone(), far.clone(), other.clone()]), NONE);
    assert_eq!(pairs(&[outer, inner, far, other]), NONE);
}

#[test]
fn one_exchange_tells_where_the_connection_lives_within_the_other() {
    let near = |port, at: i64| {
        let own = [turn(at + 500, at + 30_500)];
        whole([CLIENT, PROXY], port, [at, at + 31_000], &own)
    };
    let far = |port, at: i64| {
        let own = [turn(at + 5_900, at + 30_000)];
        whole([PROXY, SERVER], port, [at + 700, at + 30_600], &own)
    };
    let told = links(&[near(40_000, 0), far(50_000, 0)]);
    assert_eq!(told.len(), 1, "{told:?}");
    let ProxyBasis::Timing { confidence, .. } = told[0].basis else {
        panic!("{told:?}");
    };
    assert!(confidence < 0.3, "{confidence}");
    // Many one after the other, each by itself.
    let all: Vec<Trail> = (0..8)
        .flat_map(|it| {
            [
                near(40_000 + it, i64::from(it) * 40_000),
                far(50_000 + it, i64::from(it) * 40_000),
            ]
        })
        .collect();
    assert_eq!(pairs(&all).len(), 8);
    // Two at once that may be each other's.
    let at_once = [
        near(40_000, 0),
        far(50_000, 0),
        near(40_001, 100),
        far(50_001, 100),
    ];
    assert_eq!(pairs(&at_once), NONE);
    // It was open before, outlives the other, or its beginning was not captured.
    let own = [turn(5_900, 30_000)];
    for life_us in [[-100, 30_600], [700, 32_000]] {
        let far = whole([PROXY, SERVER], 50_000, life_us, &own);
        assert_eq!(pairs(&[near(40_000, 0), far]), NONE, "{life_us:?}");
    }
    assert_eq!(
        pairs(&[near(40_000, 0), connection([PROXY, SERVER], 50_000, &own)]),
        NONE
    );
    // The proxy asks that server on its own account as well.
    let mut with_others = vec![near(40_000, 0), far(50_000, 0)];
    with_others.push(far(50_001, 60_000));
    assert_eq!(pairs(&with_others), NONE);
}

#[test]
fn content_goes_before_times() {
    let with_content = |mut trail: Trail, us: [i64; 2]| {
        let chunks = |first: u64, us: i64| (first..first + 3).map(|it| (it, us * 1_000)).collect();
        trail.content = Box::new(Content::of_chunks(Sides {
            client: chunks(100, us[0]),
            server: chunks(200, us[1]),
        }));
        trail
    };
    let near = connection([CLIENT, PROXY], 40_000, &turns(12, 0, 21_000));
    let far = connection([PROXY, SERVER], 50_000, &turns(12, 400, 20_000));
    // What was asked on it is what another one carries.
    let other = connection([PROXY, 9], 50_001, &[]);
    let all = [
        with_content(near, [0, 21_000]),
        far,
        with_content(other, [500, 20_500]),
    ];
    let told = links(&all);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].conversations, [0, 2]);
    assert_eq!(told[0].basis, ProxyBasis::Content { chunks: [3, 3] });
}

#[test]
fn at_a_hop_of_the_proxys_host_its_addresses_may_differ() {
    let at_host = |mut trail: Trail, side: Side| {
        trail
            .crossings
            .get_mut(side)
            .iter_mut()
            .for_each(|it| it.ttl = 64);
        trail
    };
    let pair = |count: i64| {
        let near = connection([CLIENT, PROXY], 40_000, &turns(count, 0, 21_000));
        let far = connection([7, SERVER], 50_000, &turns(count, 400, 20_000));
        [at_host(near, Side::Server), at_host(far, Side::Client)]
    };
    let told = links(&pair(12));
    assert_eq!(told.len(), 1);
    let ProxyBasis::Timing { confidence, .. } = told[0].basis else {
        panic!("{told:?}");
    };
    assert!(confidence <= 0.25, "{confidence}");
    assert_eq!(links(&pair(5)), []);
    // One client that asks two servers of its network.
    let [near, mut far] = pair(12);
    far.ends.client.address = near.ends.client.address;
    assert_eq!(pairs(&[near, far]), NONE);
}

#[test]
fn what_was_sent_again_is_said_once() {
    let near = turns(6, 0, 21_000);
    let mut outer = connection([CLIENT, PROXY], 40_000, &[]);
    for Turn { us, bytes } in &near {
        put(&mut outer, Side::Client, us[0], bytes[0], TcpFlags::ACK);
        put(&mut outer, Side::Server, us[1], bytes[1], TcpFlags::ACK);
        put(
            &mut outer,
            Side::Client,
            us[1] + 500,
            bytes[0],
            TcpFlags::ACK,
        );
        let again = outer.crossings.client.last_mut().expect("just put");
        again.class = Some(crate::segment::Class::SpuriousRetransmission);
    }
    let far = connection([PROXY, SERVER], 50_000, &turns(6, 400, 20_000));
    assert_eq!(pairs(&[outer, far]), [[0, 1]]);
}

/// Numbers that look random (Numerical Recipes' generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as i64) % end
    }
}

#[test]
fn who_is_asked_and_asks_in_one_rhythm_is_no_proxy() {
    let mut dice = Dice(5);
    for case in 0..50 {
        let (mut near, mut far, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..120 {
            let at = index * 1_000_000;
            let asked = at + 1_000;
            let answered = asked + 10_000 + dice.below(8_000);
            far.push(turn(asked, answered));
            // Its own time, whatever that takes; and what waits for it.
            near.push(turn(at, at + 20_000 + dice.below(8_000)));
            behind.push(turn(at, answered + 200 + dice.below(4_000)));
        }
        let far = connection([PROXY, SERVER], 50_000, &far);
        let near = connection([CLIENT, PROXY], 40_000, &near);
        assert_eq!(pairs(&[near, far.clone()]), NONE, "case {case}");
        let behind = connection([CLIENT, PROXY], 40_000, &behind);
        assert_eq!(pairs(&[behind, far]), [[0, 1]], "case {case}");
    }
}

/// Clients that ask the same in rounds, through one proxy.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    clients: usize,
    rounds: i64,
    /// How far apart they ask within a round, in microseconds.
    spread_us: i64,
    /// Each request goes over any connection beyond that is idle; else each client has its own.
    is_pooled: bool,
    /// One answer in so many is the proxy's own.
    own_answers: Option<i64>,
    /// One connection beyond was not captured.
    has_gap: bool,
}

/// The connections of a crowd, those of clients first, and by client the place of the connection
/// beyond that each exchange went over.
struct Scene {
    trails: Vec<Trail>,
    served: Vec<Vec<Option<usize>>>,
}

impl Crowd {
    fn play(&self, dice: &mut Dice) -> Scene {
        let mut near = vec![Vec::new(); self.clients];
        let mut far: Vec<Vec<Turn>> = vec![Vec::new(); self.clients];
        let mut served = vec![Vec::new(); self.clients];
        for round in 0..self.rounds {
            let time = |_| round * 100_000 + dice.below(self.spread_us);
            let times: Vec<i64> = (0..self.clients).map(time).collect();
            let mut asked: Vec<(i64, usize)> = times.into_iter().zip(0..).collect();
            asked.sort_unstable();
            for (at_us, client) in asked {
                let sent_us = at_us + 100 + dice.below(400);
                let answered_us = sent_us + 1_000 + dice.below(20_000);
                let idle = |it: &usize| far[*it].last().is_none_or(|it| it.us[1] < sent_us);
                let idle: Vec<usize> = (0..self.clients).filter(idle).collect();
                let any = idle[dice.below(idle.len() as i64) as usize];
                let place = if self.is_pooled { any } else { client };
                let is_own = self.own_answers.is_some_and(|it| dice.below(it) == 0);
                if !is_own {
                    far[place].push(turn(sent_us, answered_us));
                }
                near[client].push(turn(at_us, answered_us + 100 + dice.below(400)));
                served[client].push((!is_own).then_some(place));
            }
        }
        if self.has_gap {
            far[0].clear();
        }
        let side = |hosts: [u8; 2], first: u16, turns: &[Vec<Turn>]| -> Vec<Trail> {
            let numbered = (first..).zip(turns);
            let one = |(port, own): (u16, &Vec<Turn>)| connection(hosts, port, own);
            numbered.map(one).collect()
        };
        let mut trails = side([CLIENT, PROXY], 40_000, &near);
        trails.extend(side([PROXY, SERVER], 50_000, &far));
        Scene { trails, served }
    }

    /// How many clients are linked, none of them wrongly.
    fn found(&self, dice: &mut Dice) -> usize {
        let Scene { trails, served } = self.play(dice);
        let told = pairs(&trails);
        for [near, far] in &told {
            let place = far - self.clients;
            let goes_there = |it: &Option<usize>| it.is_none_or(|it| it == place);
            let is_own = served[*near].iter().all(goes_there);
            let others = served.iter().enumerate().filter(|it| it.0 != *near);
            let is_shared = others.flat_map(|it| it.1).any(|it| *it == Some(place));
            assert!(
                is_own && !is_shared,
                "{near} to {place}: {self:?} {served:?}"
            );
        }
        told.len()
    }

    /// The same of many crowds: found, and all.
    fn many(self, dice: &mut Dice) -> (usize, usize) {
        let crowds: Vec<Self> = (0..200)
            .map(|case| Self {
                clients: 2 + case % 7,
                rounds: 3 + dice.below(20),
                ..self
            })
            .collect();
        let found = crowds.iter().map(|it| it.found(dice)).sum();
        let all = crowds.iter().map(|it| it.clients).sum();
        println!("{found} of {all} clients linked, none wrongly: {self:?}");
        (found, all)
    }
}

const CROWD: Crowd = Crowd {
    clients: 0,
    rounds: 0,
    spread_us: 75_000,
    is_pooled: false,
    own_answers: None,
    has_gap: false,
};

#[test]
fn equal_clients_at_once_are_never_crossed() {
    let mut dice = Dice(7);
    let (found, all) = CROWD.many(&mut dice);
    assert!(10 * found >= 9 * all, "found {found} of {all}");
    let in_step = Crowd {
        spread_us: 3_000,
        ..CROWD
    };
    let (found, all) = in_step.many(&mut dice);
    assert!(10 * found >= 3 * all, "found {found} of {all}");
    for crowd in [CROWD, in_step] {
        let with_gaps = Crowd {
            own_answers: Some(8),
            has_gap: true,
            ..crowd
        };
        with_gaps.many(&mut dice);
        for pool in [crowd, with_gaps] {
            let pool = Crowd {
                is_pooled: true,
                ..pool
            };
            pool.many(&mut dice);
        }
    }
}

#[test]
fn single_exchanges_are_never_crossed() {
    let mut dice = Dice(11);
    let (mut found, mut all) = (0, 0);
    for case in 0..200 {
        let (mut near, mut far) = (Vec::new(), Vec::new());
        let count = 3 + case % 12;
        for port in 0..count {
            // So many in a second, from hardly any at once to five.
            let at = dice.below(count * (4_000 + case * 500));
            let port = port as u16;
            let connected = at + 1_000 + dice.below(500);
            let asked = connected + 5_000 + dice.below(500);
            let answered = asked + 5_000 + dice.below(20_000);
            let end = answered + 200 + dice.below(400);
            let own = [turn(at + 900, answered + 100 + dice.below(100))];
            near.push(whole([CLIENT, PROXY], 40_000 + port, [at, end + 100], &own));
            // One of them may be missing, or the proxy's own answer.
            let own = [turn(asked, answered)];
            let own = if dice.below(12) == 0 { &own[..0] } else { &own };
            let beyond = whole([PROXY, SERVER], 50_000 + port, [connected, end], own);
            far.push(beyond);
        }
        let told = pairs(&[near, far].concat());
        for [near, far] in &told {
            assert_eq!(near + count as usize, *far, "case {case}");
        }
        found += told.len();
        all += count as usize;
    }
    println!("{found} of {all} single exchanges linked, none wrongly");
    assert!(10 * found >= 2 * all, "found {found} of {all}");
}

#[test]
fn ten_thousand_connections_through_one_proxy() {
    let mut dice = Dice(3);
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for port in 0..10_000 {
        // Some six at once.
        let at = i64::from(port) * 10_000 + dice.below(10_000);
        let (asked, answered) = (at + 500, at + 10_000 + dice.below(100_000));
        let own = [turn(at, answered + 500)];
        near.push(whole(
            [CLIENT, PROXY],
            port,
            [at - 200, answered + 900],
            &own,
        ));
        let own = [turn(asked, answered)];
        let life_us = [asked - 300, answered + 300];
        far.push(whole([PROXY, SERVER], port, life_us, &own));
    }
    let is_right = |it: &[usize; 2]| it[0] + 10_000 == it[1];
    let told = pairs(&[&near[..], &far].concat());
    assert!(told.iter().all(is_right) && !told.is_empty());
    // A long session among them.
    let all = [
        &near[..],
        &far,
        &[connection([4, PROXY], 1, &turns(4_000, 0, 21_000))],
        &[connection([PROXY, 5], 1, &turns(4_000, 400, 20_000))],
    ];
    let told = pairs(&all.concat());
    let session = [20_000, 20_001];
    assert!(told.iter().all(|it| is_right(it) || *it == session));
    assert!(told.contains(&session));
}

#[test]
fn what_is_crowded_or_endless_tells_nothing_and_ends() {
    // As many at once as begin within one exchange, and one more than is counted.
    let near = connection([CLIENT, PROXY], 40_000, &turns(12, 0, 60_000));
    let mut trails = vec![near];
    for index in 0..=EXCHANGE_NESTED_COUNT_MAX as i64 {
        let own = turns(12, 100 + index, 59_000);
        trails.push(connection([PROXY, SERVER], 50_000 + index as u16, &own));
    }
    assert_eq!(pairs(&trails), NONE);
    let count = EXCHANGE_COUNT_MAX as i64 + 1;
    let near = connection([CLIENT, PROXY], 40_000, &turns(count, 0, 21_000));
    let far = connection([PROXY, SERVER], 50_000, &turns(count, 400, 20_000));
    assert_eq!(pairs(&[near, far]), NONE);
}
