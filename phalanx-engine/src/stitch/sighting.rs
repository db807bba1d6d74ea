//! Sightings: packets of one conversation that two hops both saw beyond doubt, and which of the two
//! came first. They tell the order of hops and the clocks; the packets in doubt are aligned later.

use super::alignment::{Expectation, Item, Link, align, ids_agree};
use crate::side::{Side, Sides};

/// One packet at two hops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    /// Times by the clocks of the two.
    pub(super) times_ns: [i64; 2],
    pub(super) ttls: [u8; 2],
}

/// Packets of a conversation that two hops both saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    /// By sender.
    pub(super) sightings: Sides<Vec<Sighting>>,
    pub(super) ids_survive: Sides<bool>,
    pub(super) stamps_survive: Sides<bool>,
    /// Least and largest that the second's time was ahead, in nanoseconds.
    pub(super) ahead_ns: Sides<Option<(i64, i64)>>,
}

/// Which of two hops a packet meets first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    First,
    Second,
    #[default]
    Unknown,
}

impl Order {
    pub(super) const fn reversed(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            Self::Unknown => Self::Unknown,
        }
    }

    const fn of_sign(sign: i64) -> Self {
        match sign {
            1.. => Self::First,
            0 => Self::Unknown,
            _ => Self::Second,
        }
    }
}

/// One pair of so many has to agree: what a middlebox rewrites, it rewrites everywhere, and pairs
/// that do not agree are then two sendings of the same bytes.
const AGREEING_SHARE: usize = 2;

/// Fewest pairs by which IP ids are told to be rewritten, none of them agreeing.
const REWRITTEN_COUNT_MIN: usize = 4;

/// Where neither ids nor timestamps of data come through, one in so many of what either hop saw
/// has to be seen by both: hops on ways of their own see now and then what was sent, and was sent
/// again.
const PAIRED_SHARE: usize = 4;

/// Windows in which round trips are compared, in nanoseconds: in one of them a skew of 250 ppm
/// makes 25 µs.
const WINDOW_NS: i64 = 100_000_000;

impl Common {
    /// What two hops both saw.
    pub(super) fn of(first: &Sides<Vec<Item>>, second: &Sides<Vec<Item>>) -> Self {
        let mut common = Self::default();
        for side in [Side::Client, Side::Server] {
            let (xs, ys) = (first.get(side), second.get(side));
            let links = align(xs, ys, &Expectation::default()).unwrap_or_default();
            let pairs = plain_pairs(xs, ys, &links);
            let survives = |agrees: fn(&Item, &Item) -> bool| {
                let count = pairs.iter().filter(|it| agrees(it.0, it.1)).count();
                count > 0 && AGREEING_SHARE * count >= pairs.len()
            };
            let has_stamps = pairs.iter().any(|it| it.0.crossing.has_timestamps());
            let ids_survive = survives(|x, y| ids_agree(&x.crossing, &y.crossing))
                && pairs.iter().any(|it| it.0.crossing.ip_id != 0);
            let stamps_survive = has_stamps && survives(stamps_agree);
            *common.ids_survive.get_mut(side) = ids_survive;
            *common.stamps_survive.get_mut(side) = stamps_survive;
            // Whether ids are rewritten, only many pairs can tell: what few say may as well be of a
            // packet and of its repetition, of which either hop saw one.
            let are_few = !ids_survive && pairs.len() < REWRITTEN_COUNT_MIN;
            let may_repeat = |x: &Item, y: &Item| {
                let is_told = stamps_survive && stamps_agree(x, y);
                are_few && !is_told && !ids_agree(&x.crossing, &y.crossing)
            };
            let is_sure = |it: &&(&Item, &Item)| {
                (!stamps_survive || stamps_agree(it.0, it.1))
                    && (!ids_survive || ids_agree(&it.0.crossing, &it.1.crossing))
                    && !may_repeat(it.0, it.1)
            };
            let sighting = |(x, y): &(&Item, &Item)| Sighting {
                times_ns: [x.time_ns, y.time_ns],
                ttls: [x.crossing.ttl, y.crossing.ttl],
            };
            let sightings: Vec<Sighting> =
                if ids_survive || data_stamps_agree(&pairs) || !are_beside(&links) {
                    pairs.iter().filter(is_sure).map(sighting).collect()
                } else {
                    Vec::new()
                };
            let ahead = sightings
                .iter()
                .map(|it| it.times_ns[1].saturating_sub(it.times_ns[0]));
            let range = |range: Option<(i64, i64)>, it: i64| match range {
                None => Some((it, it)),
                Some((least, most)) => Some((least.min(it), most.max(it))),
            };
            *common.ahead_ns.get_mut(side) = ahead.fold(None, range);
            *common.sightings.get_mut(side) = sightings;
        }
        common
    }

    /// Which of the two packets of a side meet first: by what routers took off the TTL, else by the
    /// round trips that either sees. The hop that is nearer to the client sees the longer ones from
    /// there to the server and back: `min(t₂ − t₁) + min(t₁ − t₂)` of the two directions is what
    /// lies between the hops, whatever their clocks say.
    pub(super) fn order(&self, side: Side) -> Order {
        let sightings = self.sightings.get(side);
        let mut falls: Vec<i64> = sightings
            .iter()
            .map(|it| i64::from(it.ttls[0]) - i64::from(it.ttls[1]))
            .collect();
        falls.sort_unstable();
        match falls.get(falls.len() / 2) {
            None => return Order::Unknown,
            Some(0) => {}
            Some(fall) => return Order::of_sign(*fall),
        }
        let order = Order::of_sign(self.between_ns());
        if side == Side::Client {
            order
        } else {
            order.reversed()
        }
    }

    /// Time from the first hop to the second and back: negative where the second is nearer to the
    /// client, 0 where it cannot be told.
    fn between_ns(&self) -> i64 {
        let least = |side: Side, sign: i64| {
            let mut windows = std::collections::BTreeMap::new();
            for sighting in self.sightings.get(side) {
                let [first, second] = sighting.times_ns;
                let ahead = sign * second.saturating_sub(first);
                let window = windows.entry(first.div_euclid(WINDOW_NS)).or_insert(ahead);
                *window = ahead.min(*window);
            }
            windows
        };
        let (onward, back) = (least(Side::Client, 1), least(Side::Server, -1));
        let both = onward.iter().filter_map(|(window, ahead)| {
            let behind = back.get(window)?;
            Some(ahead.saturating_add(*behind))
        });
        let mut sums: Vec<i64> = both.collect();
        if sums.is_empty() {
            let all = |of: &std::collections::BTreeMap<i64, i64>| of.values().min().copied();
            return match (all(&onward), all(&back)) {
                (Some(onward), Some(back)) => onward.saturating_add(back),
                _ => 0,
            };
        }
        sums.sort_unstable();
        sums[sums.len() / 2]
    }
}

/// Pairs whose first bytes are the same, in the order of their bytes.
fn plain_pairs<'a>(xs: &'a [Item], ys: &'a [Item], links: &[Link]) -> Vec<(&'a Item, &'a Item)> {
    let mut pairs = Vec::new();
    for link in links.iter().filter(|link| link.is_plain) {
        let (Some(x), Some(y)) = (link.upstream, link.downstream) else {
            continue;
        };
        let (x, y) = (&xs[x as usize], &ys[y as usize]);
        // When the later bytes of a merged segment came is not known.
        if x.start == y.start && (link.range.start == x.start || link.range.is_empty()) {
            pairs.push((x, y));
        }
    }
    pairs
}

/// Whether either hop saw so little of what the other one saw that it was another sending. What was
/// cut otherwise counts as seen.
fn are_beside(links: &[Link]) -> bool {
    let count = |is_seen: fn(&Link) -> bool| links.iter().filter(|it| is_seen(it)).count();
    let least = count(|it| it.upstream.is_some()).min(count(|it| it.downstream.is_some()));
    let both = count(|it| it.upstream.is_some() && it.downstream.is_some());
    PAIRED_SHARE * both < least
}

/// Whether what carries data has the same timestamps at both hops: what is sent again has others.
fn data_stamps_agree(pairs: &[(&Item, &Item)]) -> bool {
    let is_data = |it: &&(&Item, &Item)| it.0.start < it.0.end && it.0.crossing.has_timestamps();
    let data = || pairs.iter().filter(is_data);
    let agreeing = data().filter(|it| stamps_agree(it.0, it.1)).count();
    agreeing > 0 && 10 * agreeing >= 9 * data().count()
}

fn stamps_agree(x: &Item, y: &Item) -> bool {
    x.crossing.timestamp_value == y.crossing.timestamp_value
        && x.crossing.timestamp_echo == y.crossing.timestamp_echo
}
