//! Proxies told by times alone, where headers are all that was captured: the exchanges of one
//! connection lie within those of another, one in each, and the first one's client is the host
//! that the other one's server is. That is a hypothesis (METHODS K7); content goes before it.
//!
//! That an exchange lies so by chance is as likely as the proxy's own time is a part of the time
//! between two requests. An exchange of the farther connection that lies elsewhere, as in a pool
//! that serves many clients, speaks against the pair; exchanges that may as well be another's tell
//! nothing.

mod course;
mod matching;
mod wait;

use std::collections::BTreeMap;
use std::net::IpAddr;

use self::course::{Course, Farther, Nested, courses};
use self::matching::Matching;
use self::wait::Waits;
use super::clock::{Clocks, Difference};
use super::conversation::StitchedConversation;
use super::exchange::Exchange;
use super::proxy::{ProxyBasis, ProxyLink, are_siblings};
use super::trail::Trail;
use crate::side::Endpoint;

/// Fewest nested exchanges that tell by themselves.
const COUNT_MIN: u32 = 3;

/// The same where not the addresses but the hop alone says that both are the proxy's.
const HOP_COUNT_MIN: u32 = 8;

/// Exchanges that a connection may have for itself: two of a TLS handshake.
const HANDSHAKE_COUNT: u32 = 2;

/// Least evidence, as a logarithm of the odds: once in a thousand by chance.
const EVIDENCE_MIN: f64 = 6.9;

/// Evidence from which on nothing is added, and the confidence then: what METHODS section 4 gives
/// a heuristic at most.
const EVIDENCE_FULL: f64 = 20.0;
const CONFIDENCE_MAX: f64 = 0.5;

/// Confidence in a single exchange.
const CONFIDENCE_SINGLE: f64 = 0.2;

/// Least share of chance that one exchange counts with, since requests may come in step.
const SHARE_MIN: f64 = 1.0 / 16.0;

/// The same of an exchange that others fit but for those that are needed elsewhere.
const SHARE_MIN_AMONG: f64 = 1.0 / 2.0;

/// Of so many exchanges the proxy may have answered one by itself.
const OWN_PART: u32 = 8;

/// Of so many exchanges one may be another's.
const DOUBTED_PART: u32 = 16;

/// What two connections have in common.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Exchanges of the nearer one before the first that holds one of the farther.
    before: u32,
    /// Exchanges of the nearer one that hold one of the farther beyond doubt.
    holding: u32,
    /// Exchanges of the farther one that are held so.
    held: u32,
    /// Exchanges of the nearer one that can hold no other.
    assigned: u32,
    /// Of these, those that hold nobody else's, and that nobody else may hold.
    alone: u32,
    /// Of those that hold one, those whose sizes are alike.
    alike: u32,
    /// Logarithm of the odds against chance.
    evidence: f64,
    /// How long those that are assigned took.
    waits: Waits,
    /// Places of the last one: in the nearer connection, and the last within it.
    last: Option<(usize, Nested)>,
}

/// What a connection on the client's side has in common with those beyond.
#[derive(Debug, Default)]
struct Tallies {
    by_far: BTreeMap<usize, Tally>,
    /// Its exchanges that may hold one of anybody.
    holding: u32,
}

/// Two connections that fit.
#[derive(Clone, Copy, Debug)]
struct Fit {
    near: usize,
    far: usize,
    exchanges: u32,
    confidence: f64,
}

/// Finds the conversations on both sides of proxies by their times; `linked` are those of which
/// content tells.
pub(super) fn link(
    conversations: &[StitchedConversation],
    trails: &[Trail],
    clocks: &Clocks,
    linked: &[ProxyLink],
) -> Vec<ProxyLink> {
    let Some((near, farther)) = courses(conversations, trails, linked) else {
        return Vec::new();
    };
    let Some(matching) = Matching::of(&near, &farther, clocks) else {
        return Vec::new();
    };
    let fit = |near: (usize, &Course<'_>)| {
        let tallies = farther.tallies(near, &matching, clocks);
        farther.best(near, &tallies)
    };
    let mut fits: Vec<Fit> = near.iter().enumerate().filter_map(fit).collect();
    let devotion = devotion(&farther.courses, &matching);
    fits.retain(|fit| {
        let is_devoted = fit.exchanges >= COUNT_MIN || {
            let (held, all) = devotion[&service(&farther.courses[fit.far])];
            8 * held >= 7 * all
        };
        let pair = [&near[fit.near], &farther.courses[fit.far]].map(|it| it.conversation);
        let members = pair.map(|it| &conversations[it].flows[..]);
        is_devoted && !are_siblings(members, trails)
    });
    let told = fits.iter().map(|fit| ProxyLink {
        conversations: [
            near[fit.near].conversation,
            farther.courses[fit.far].conversation,
        ],
        basis: ProxyBasis::Timing {
            exchanges: fit.exchanges,
            confidence: fit.confidence,
        },
    });
    told.collect()
}

/// Who asks whom beyond the proxy.
fn service(course: &Course<'_>) -> (IpAddr, Endpoint) {
    let ends = course.trail.ends;
    (ends.client.address, ends.server)
}

/// By service: connections that somebody holds an exchange of, and all. A host that asks a service
/// on its own account as well may do so at any time.
fn devotion(
    courses: &[Course<'_>],
    matching: &Matching,
) -> BTreeMap<(IpAddr, Endpoint), (usize, usize)> {
    let mut services: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for (far, course) in courses.iter().enumerate() {
        let counts = services.entry(service(course)).or_default();
        counts.0 += usize::from(matching.is_held(far, course));
        counts.1 += 1;
    }
    services
}

impl Farther<'_> {
    /// What each of these connections has in common with one on the client's side.
    fn tallies(
        &self,
        (near, course): (usize, &Course<'_>),
        matching: &Matching,
        clocks: &Clocks,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        for (place, exchange) in course.exchanges.list.iter().enumerate() {
            let Some(nested) = self.nested(course, exchange, clocks) else {
                tallies.holding += 1;
                continue;
            };
            tallies.holding += u32::from(!nested.is_empty());
            let is_one = nested.iter().all(|it| it.far == nested[0].far);
            for few in nested.chunk_by(|a, b| a.far == b.far) {
                let certain = || few.iter().filter(|it| it.is_certain);
                let (Some(first), Some(last)) = (certain().next(), certain().next_back()) else {
                    continue;
                };
                let tally = tallies.by_far.entry(last.far).or_default();
                if tally.holding == 0 {
                    tally.before = place as u32;
                }
                tally.holding += 1;
                tally.held += certain().count() as u32;
                tally.last = Some((place, *last));
                let pair = [self.exchange(first), self.exchange(last)];
                tally.alike += u32::from(are_alike(exchange, pair[1], (512, 4)));
                if !matching.assigns((near, place), last) {
                    continue;
                }
                tally.assigned += 1;
                let outer_ns = exchange.wait_ns();
                let last_ns = pair[1].response.first_ns;
                let inner_ns = last_ns.saturating_sub(pair[0].request.first_ns);
                tally.waits.add([outer_ns, inner_ns]);
                let is_alone = is_one && few.iter().all(|it| matching.holder_count(it) == 1);
                tally.alone += u32::from(is_alone);
                let least = if is_alone { SHARE_MIN } else { SHARE_MIN_AMONG };
                let share = chance(course, place, pair, last.clock);
                tally.evidence -= share.clamp(least, 1.0).ln();
            }
        }
        tallies
    }

    /// The connection that one on the client's side goes on in: no more than one in sixteen
    /// exchanges may be another's.
    fn best(&self, (near, course): (usize, &Course<'_>), tallies: &Tallies) -> Option<Fit> {
        // As many as there are might have fitted by chance.
        let doubt = (tallies.by_far.len().max(1) as f64).ln();
        let is_its =
            |tally: &Tally| DOUBTED_PART * (tallies.holding - tally.assigned) <= tallies.holding;
        let (far, tally) = tallies.by_far.iter().find(|it| is_its(it.1))?;
        let beyond = &self.courses[*far];
        Some(Fit {
            near,
            far: *far,
            exchanges: tally.holding,
            confidence: self.confidence(course, beyond, tally, doubt)?,
        })
    }

    /// How sure it is that one connection goes on in another, if it may be.
    fn confidence(
        &self,
        near: &Course<'_>,
        far: &Course<'_>,
        tally: &Tally,
        doubt: f64,
    ) -> Option<f64> {
        let all = near.exchanges.list.len() as u32;
        let handshake = tally.before.min(HANDSHAKE_COUNT);
        let fits = !near.exchanges.is_cut
            && !far.exchanges.is_cut
            && tally.held == far.exchanges.list.len() as u32
            && tally.held - tally.holding <= HANDSHAKE_COUNT
            && OWN_PART * (all - tally.holding - handshake) <= all
            && 4 * tally.alike >= 3 * tally.holding
            && !tally.waits.contradict();
        if !fits {
            return None;
        }
        let is_addressed = has_one_address(near.trail, far.trail);
        if tally.holding < COUNT_MIN {
            let is_alone = tally.alone == tally.holding;
            return (is_addressed && is_alone && self.is_one_life(near, far, tally))
                .then_some(CONFIDENCE_SINGLE);
        }
        let evidence = tally.evidence - doubt;
        let share = if is_addressed { 1.0 } else { 0.5 };
        (evidence >= EVIDENCE_MIN && (is_addressed || tally.holding >= HOP_COUNT_MIN))
            .then_some(share * CONFIDENCE_MAX * (evidence / EVIDENCE_FULL).min(1.0))
    }

    /// Whether one connection lives within the other, for exchanges of the same sizes, and the
    /// proxy took the lesser part of the time.
    fn is_one_life(&self, near: &Course<'_>, far: &Course<'_>, tally: &Tally) -> bool {
        let lives = near.exchanges.life_ns.zip(far.exchanges.life_ns);
        let (Some((outer_life, inner_life)), Some((place, last))) = (lives, &tally.last) else {
            return false;
        };
        let (outer, inner) = (&near.exchanges.list[*place], self.exchange(last));
        // By the clock on the client's side, and what is left of it beyond doubt.
        let here = |time_ns: i64| time_ns.saturating_sub(last.clock.ahead_ns as i64);
        let error_ns = last.clock.error_ns() as i64;
        let (opened_ns, ended_ns) = (here(inner_life.0), here(inner_life.1));
        let is_within = opened_ns.saturating_sub(error_ns) >= outer_life.0
            && ended_ns.saturating_add(error_ns) <= outer_life.1;
        // A proxy connects when its client does, or when that asks.
        let begun_ns = if opened_ns < outer.request.first_ns {
            outer_life.0
        } else {
            outer.request.first_ns
        };
        let answered_ns = outer.response.first_ns;
        let beyond_ns = here(inner.response.first_ns).saturating_sub(opened_ns);
        let all_ns = answered_ns.saturating_sub(begun_ns);
        is_within && 2 * beyond_ns.max(0) >= all_ns && are_alike(outer, inner, (256, 8))
    }
}

/// How likely it is that an exchange lies so within one of a connection by chance: the time that is
/// left, as a part of that between two requests.
fn chance(course: &Course<'_>, place: usize, inner: [&Exchange; 2], clock: Difference) -> f64 {
    let list = &course.exchanges.list;
    let outer = &list[place];
    let start = |it: usize| list.get(it).map(|it| it.request.first_ns);
    let before = place.checked_sub(1).and_then(start);
    let (from_ns, to_ns) = match (before, start(place + 1)) {
        (_, Some(next)) => (outer.request.first_ns, next),
        (Some(before), None) => (before, outer.request.first_ns),
        (None, None) => (outer.request.first_ns, outer.response.first_ns),
    };
    let [first, last] = inner;
    let whole_ns = outer.response.first_ns as f64 - outer.request.first_ns as f64;
    let beyond_ns = last.response.first_ns as f64 - first.request.first_ns as f64;
    let left_ns = whole_ns - beyond_ns + 2.0 * clock.error_ns();
    left_ns / (to_ns as f64 - from_ns as f64).max(1.0)
}

/// Whether the sizes of two exchanges differ by so many bytes and a part of the larger at most.
fn are_alike(a: &Exchange, b: &Exchange, (bytes, part): (u64, u64)) -> bool {
    let are_near = |a: u64, b: u64| a.abs_diff(b) <= bytes + a.max(b) / part;
    are_near(a.request.bytes, b.request.bytes) && are_near(a.response.bytes, b.response.bytes)
}

/// Whether the host that one connection goes to is, by its address, where another one begins.
fn has_one_address(near: &Trail, far: &Trail) -> bool {
    let (server, client) = (near.ends.server, far.ends.client);
    server.address == client.address && !server.is_scoped()
}
