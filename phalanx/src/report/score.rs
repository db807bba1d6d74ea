//! How bad a conversation is, and why: the order of reports.
//!
//! The score is a sum of points, each for one thing that went wrong:
//!
//! - 100 for a connection that never came to be: no answer, refused, unreachable, half open, given
//!   up. What was not answered yet when the capture ended, less than a second after its beginning,
//!   is not one.
//! - 50 for a reset, 25 where only the client sent RST and had its answers; 20 more where the RST
//!   does not fit its sender.
//! - 20·log₁₀(1 + t / 10 ms) for the time *t* lost in timeout recovery, fast recovery and behind
//!   closed windows, in a handshake beyond a second, and a quarter of the unknown time where both
//!   directions were seen: 21 for 0.1 s, 40 for 1 s, 60 for 10 s.
//! - 200 times the share of retransmitted segments of the worse side, 40 at most; a side with
//!   fewer than 20 segments counts as if it had sent 20.
//! - 100 times the share of packets that the network copied or let overtake, 20 at most; fewer than
//!   20 packets count as 20.
//! - 10·log₁₀(t / 100 ms) for the longest think time *t* of the server, if beyond 100 ms: 10 for
//!   1 s, 20 for 10 s.
//! - 30 for an application that failed: a fatal TLS alert, DNS without an answer or with an error,
//!   an HTTP status from 500 on; 10 for an HTTP status from 400 on.
//! - 20 for a last request of a TCP connection without an answer, where the server is heard at
//!   all, the capture lacks none of its bytes, and the connection ended so, or a second passed.
//! - 15 for ICMP errors.
//!
//! A zero is a conversation with nothing to be said against it. Properties of the capture (copies,
//! bytes that were not captured) give no points.

use phalanx_common::packet::protocol;
use phalanx_engine::Side;
use phalanx_engine::budget::Bucket;
use phalanx_engine::story::{ConnectionState, FlowStory};

use super::ConversationReport;
use super::failure;
use super::word;

const FAILED_POINTS: f64 = 100.0;
const RESET_POINTS: f64 = 50.0;
const DONE_RESET_POINTS: f64 = 25.0;
const UNFITTING_RESET_POINTS: f64 = 20.0;
const LOST_POINTS_PER_DECADE: f64 = 20.0;
const LOST_UNIT_NS: f64 = 1e7;
const HANDSHAKE_FREE_NS: i64 = 1_000_000_000;
const UNKNOWN_DIVISOR: i64 = 4;
const RETRANSMITTED_POINTS: f64 = 200.0;
const RETRANSMITTED_POINTS_MAX: f64 = 40.0;
const SEGMENT_COUNT_MIN: u64 = 20;
const DISTURBED_POINTS: f64 = 100.0;
const DISTURBED_POINTS_MAX: f64 = 20.0;
const THINK_POINTS_PER_DECADE: f64 = 10.0;
const THINK_UNIT_NS: f64 = 1e8;
const THINK_FREE_NS: i64 = 100_000_000;
const UNANSWERED_POINTS: f64 = 20.0;
/// Less than this after a request its answer may just not have come yet.
pub(super) const ANSWER_FREE_NS: i64 = 1_000_000_000;
const ICMP_POINTS: f64 = 15.0;

/// The points of a connection of which one SYN was seen, and nothing else for `watched_ns`.
#[must_use]
pub const fn lone_syn_points(watched_ns: i64) -> f64 {
    if watched_ns < ANSWER_FREE_NS {
        0.0
    } else {
        FAILED_POINTS
    }
}

/// What is said where there are no points.
const NOTHING: &str = "nothing wrong";

/// How bad a conversation is (higher is worse, 0 is best), and what makes most of it.
#[must_use]
pub fn score(story: &FlowStory) -> (f64, String) {
    let (sum, reason) = add_up(story);
    (
        sum,
        reason.map_or_else(|| NOTHING.to_owned(), |reason| say(story, reason)),
    )
}

/// How bad a conversation is, without the words.
#[must_use]
pub fn points(story: &FlowStory) -> f64 {
    add_up(story).0
}

/// The sum, and what gives most of it; of equals the first.
fn add_up(story: &FlowStory) -> (f64, Option<Reason>) {
    let parts = [
        failed(story),
        reset(story),
        application(story),
        unanswered(story),
        icmp(story),
        lost(story),
        retransmitted(story),
        disturbed(story),
        think(story),
    ];
    let (mut sum, mut most, mut first) = (0.0, 0.0, None);
    for (points, reason) in parts.into_iter().flatten() {
        sum += points;
        if points > most {
            (most, first) = (points, Some(reason));
        }
    }
    (sum, first)
}

/// Puts the worst first; of equals the one that began first.
pub fn rank(conversations: &mut [ConversationReport]) {
    conversations.sort_by(|left, right| {
        let order = right.score.total_cmp(&left.score);
        order
            .then(left.story.start_ns.cmp(&right.story.start_ns))
            .then_with(|| left.hop.cmp(&right.hop))
            .then(left.story.flow.cmp(&right.story.flow))
    });
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    Failed,
    Reset,
    Application,
    Unanswered,
    Icmp(u64),
    /// Where, and how long.
    Lost(&'static str, i64),
    Retransmitted(Side),
    /// Packets copied by the network, or overtaken.
    Disturbed(u64, &'static str),
    Think(i64),
}

const UNEXPLAINED: &str = "that cannot be explained";

type Part = Option<(f64, Reason)>;

fn failed(story: &FlowStory) -> Part {
    // A capture often ends while an answer is under way.
    let is_pending = matches!(
        story.state,
        ConnectionState::Unanswered | ConnectionState::HalfOpen
    ) && story.watched_ns() < ANSWER_FREE_NS;
    let is_so = story.state.is_failed() && !is_pending;
    is_so.then_some((FAILED_POINTS, Reason::Failed))
}

fn reset(story: &FlowStory) -> Part {
    let sides = &story.sides;
    let unfitting = sides.client.counts.unfitting_resets + sides.server.counts.unfitting_resets;
    let more = if unfitting > 0 {
        UNFITTING_RESET_POINTS
    } else {
        0.0
    };
    // Many clients end what they are done with so.
    let is_served = story.turns.count > 0 && !story.turns.is_last_unanswered;
    let is_by_client = sides.server.counts.resets == 0 && sides.client.counts.resets > 0;
    let points = if is_by_client && is_served {
        DONE_RESET_POINTS
    } else {
        RESET_POINTS
    };
    let is_so = story.state == ConnectionState::Reset;
    is_so.then_some((points + more, Reason::Reset))
}

fn application(story: &FlowStory) -> Part {
    let failure = failure::of(story)?;
    Some((failure.points(), Reason::Application))
}

fn unanswered(story: &FlowStory) -> Part {
    let is_heard = story.sides.server.counts.packets > 0;
    let is_asked = story.turns.is_last_unanswered && story.protocol == protocol::TCP;
    let is_whole = story.sides.server.counts.unseen_bytes == 0;
    // A capture often ends while an answer is under way.
    let end_ns = story.start_ns.saturating_add(story.watched_ns());
    let asked_ns = story.sides.client.data_last_ns.unwrap_or(end_ns);
    let is_over = matches!(
        story.state,
        ConnectionState::Closed | ConnectionState::HalfClosed | ConnectionState::Reset
    );
    let is_late = is_over || end_ns.saturating_sub(asked_ns) >= ANSWER_FREE_NS;
    let is_so = is_asked && is_heard && is_whole && is_late && !story.state.is_failed();
    is_so.then_some((UNANSWERED_POINTS, Reason::Unanswered))
}

fn icmp(story: &FlowStory) -> Part {
    let sides = &story.sides;
    let errors = sides.client.counts.icmp_errors + sides.server.counts.icmp_errors;
    (errors > 0).then_some((ICMP_POINTS, Reason::Icmp(errors)))
}

fn lost(story: &FlowStory) -> Part {
    let budget = story.budget.as_ref()?;
    let sides = &story.sides;
    let is_whole = sides.client.counts.packets > 0 && sides.server.counts.packets > 0;
    let unknown_ns = match is_whole {
        true => budget.get(Bucket::Unknown),
        false => 0,
    };
    let handshake_ns = budget.get(Bucket::Handshake) - HANDSHAKE_FREE_NS;
    let parts = [
        (budget.get(Bucket::TimeoutRecovery), "in timeout recovery"),
        (budget.get(Bucket::FastRecovery), "in fast recovery"),
        (budget.get(Bucket::ZeroWindow), "behind a closed window"),
        (handshake_ns.max(0), "in a slow handshake"),
        (unknown_ns / UNKNOWN_DIVISOR, UNEXPLAINED),
    ];
    let total_ns: i64 = parts.iter().map(|(ns, _)| ns).sum();
    let points = LOST_POINTS_PER_DECADE * decades(total_ns, LOST_UNIT_NS);
    let (ns, place) = *parts.iter().rev().max_by_key(|(ns, _)| *ns)?;
    let ns = if place == UNEXPLAINED { unknown_ns } else { ns };
    (total_ns > 0).then_some((points, Reason::Lost(place, ns)))
}

fn retransmitted(story: &FlowStory) -> Part {
    let share = |side: Side| {
        let (again, sent) = word::retransmissions(&story.sides.get(side).counts);
        word::ratio(again, sent.max(SEGMENT_COUNT_MIN)).unwrap_or(0.0)
    };
    let (client, server) = (share(Side::Client), share(Side::Server));
    let side = if client > server {
        Side::Client
    } else {
        Side::Server
    };
    let points = (RETRANSMITTED_POINTS * client.max(server)).min(RETRANSMITTED_POINTS_MAX);
    (points > 0.0).then_some((points, Reason::Retransmitted(side)))
}

fn disturbed(story: &FlowStory) -> Part {
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let copied = client.network_duplicates + server.network_duplicates;
    let overtaken = client.reordered_packets + server.reordered_packets;
    let packets = (client.packets + server.packets).max(SEGMENT_COUNT_MIN);
    let share = word::ratio(copied + overtaken, packets).unwrap_or(0.0);
    let points = (DISTURBED_POINTS * share).min(DISTURBED_POINTS_MAX);
    let reason = if copied > overtaken {
        Reason::Disturbed(copied, "copied by the network")
    } else {
        Reason::Disturbed(overtaken, "overtaken by later ones")
    };
    (points > 0.0).then_some((points, reason))
}

fn think(story: &FlowStory) -> Part {
    let longest_ns = story.turns.think.max_ns()?;
    // What is above the unit, so that 1 + it / unit is the time in units.
    let beyond_ns = longest_ns.saturating_sub(THINK_FREE_NS).max(0);
    let points = THINK_POINTS_PER_DECADE * decades(beyond_ns, THINK_UNIT_NS);
    Some((points, Reason::Think(longest_ns)))
}

/// A reason in words.
fn say(story: &FlowStory, reason: Reason) -> String {
    match reason {
        Reason::Failed => say_failed(story),
        Reason::Reset => say_reset(story),
        Reason::Application => {
            let failure = failure::of(story);
            failure.map_or_else(String::new, |failure| failure.say())
        }
        Reason::Unanswered => "the last request has no answer".to_owned(),
        Reason::Icmp(errors) => word::count(errors, "ICMP error", "ICMP errors"),
        Reason::Lost(place, ns) => format!("{} {place}", word::duration(ns)),
        Reason::Retransmitted(side) => {
            let share = word::retransmitted(story, side).unwrap_or(0.0);
            let (share, side) = (word::percent(share), word::side(side));
            format!("{share} of the {side}'s segments retransmitted")
        }
        Reason::Disturbed(number, how) => {
            format!("{} {how}", word::count(number, "packet", "packets"))
        }
        Reason::Think(ns) => format!("the server thinks up to {}", word::duration(ns)),
    }
}

fn say_failed(story: &FlowStory) -> String {
    let tries = word::count(story.sides.client.counts.syns, "SYN", "SYNs");
    match story.state {
        ConnectionState::Unanswered => format!("no answer to {tries}"),
        ConnectionState::Refused => "refused by RST".to_owned(),
        ConnectionState::Unreachable => "unreachable, says ICMP".to_owned(),
        ConnectionState::HalfOpen => "half open: the SYN-ACK is never acknowledged".to_owned(),
        _ => "given up by the client while connecting".to_owned(),
    }
}

fn say_reset(story: &FlowStory) -> String {
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let by = match (client.resets, server.resets) {
        (0, 0) => "reset",
        (_, 0) => "reset by the client",
        (0, _) => "reset by the server",
        _ => "reset by both sides",
    };
    match client.unfitting_resets + server.unfitting_resets {
        0 => by.to_owned(),
        _ => format!("{by}, with a RST that does not fit it"),
    }
}

/// log₁₀(1 + time / unit).
fn decades(ns: i64, unit_ns: f64) -> f64 {
    (word::seconds(ns.max(0)) * 1e9 / unit_ns).ln_1p() / std::f64::consts::LN_10
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx_common::packet::TcpFlags;
    use phalanx_engine::budget::TimeBudget;
    use phalanx_engine::record::Decoded;
    use phalanx_engine::trace::{Ended, Tracer};

    fn story(state: ConnectionState) -> FlowStory {
        FlowStory {
            state,
            protocol: 6,
            ..FlowStory::default()
        }
    }

    fn lost_in(bucket: Bucket, ns: i64) -> FlowStory {
        let mut story = story(ConnectionState::Closed);
        story.budget = Some(TimeBudget::from_iter([(bucket, ns), (Bucket::Path, ns)]));
        story.sides.client.counts.packets = 1;
        story.sides.server.counts.packets = 1;
        story
    }

    #[test]
    fn nothing_wrong_is_zero() {
        let (points, words) = score(&lost_in(Bucket::ClientIdle, 1_000_000_000_000));
        assert_eq!((points, &*words), (0.0, NOTHING));
    }

    #[test]
    fn the_reason_is_what_gives_most_points() {
        let mut story = lost_in(Bucket::TimeoutRecovery, 1_000_000_000);
        let (points, words) = score(&story);
        assert!((40.0..40.2).contains(&points), "{points}");
        assert_eq!(words, "1.00 s in timeout recovery");
        story.state = ConnectionState::Reset;
        story.sides.server.counts.resets = 1;
        let (points, words) = score(&story);
        assert!((90.0..90.2).contains(&points), "{points}");
        assert_eq!(words, "reset by the server");
    }

    #[test]
    fn failures_are_worse_than_losses_and_unknown_time_counts_a_quarter() {
        let mut story = story(ConnectionState::Unanswered);
        story.sides.client.counts.syns = 3;
        story.duration_ns = 3_000_000_000;
        let failed = score(&story);
        assert_eq!(failed, (100.0, "no answer to 3 SYNs".to_owned()));
        let unknown = score(&lost_in(Bucket::Unknown, 4_000_000_000));
        let zero_window = score(&lost_in(Bucket::ZeroWindow, 1_000_000_000));
        assert!(failed.0 > unknown.0);
        assert!((unknown.0 - zero_window.0).abs() < 1e-9);
        assert_eq!(unknown.1, "4.00 s that cannot be explained");
        assert_eq!(zero_window.1, "1.00 s behind a closed window");
    }

    #[test]
    fn a_lone_syn_has_the_points_of_a_failure_and_no_more() {
        let mut story = story(ConnectionState::Unanswered);
        story.sides.client.counts.packets = 1;
        story.sides.client.counts.syns = 1;
        story.budget = Some(TimeBudget::default());
        for watched_ns in [0, ANSWER_FREE_NS - 1, ANSWER_FREE_NS] {
            story.watched_after_ns = watched_ns;
            assert!((points(&story) - lone_syn_points(watched_ns)).abs() < 1e-9);
        }
    }

    #[test]
    fn a_capture_that_ends_during_a_handshake_or_a_query_blames_nobody() {
        for state in [ConnectionState::Unanswered, ConnectionState::HalfOpen] {
            let mut story = story(state);
            (story.duration_ns, story.watched_after_ns) = (300_000_000, 600_000_000);
            assert_eq!(score(&story), (0.0, NOTHING.to_owned()));
            story.watched_after_ns = ANSWER_FREE_NS;
            assert!((points(&story) - FAILED_POINTS).abs() < 1e-9);
        }
        let mut refused = story(ConnectionState::Refused);
        refused.watched_after_ns = 0;
        assert!((points(&refused) - FAILED_POINTS).abs() < 1e-9);
    }

    #[test]
    fn a_capture_that_ends_during_an_answer_blames_nobody() {
        let asked = |state, waited_ms: i64| {
            let mut story = story(state);
            story.duration_ns = waited_ms * 1_000_000;
            story.sides.client.data_last_ns = Some(0);
            story.sides.server.counts.packets = 1;
            story.turns.is_last_unanswered = true;
            points(&story)
        };
        assert!(asked(ConnectionState::Established, 100) < 1e-9);
        assert!(asked(ConnectionState::Established, 1_000) > 19.0);
        assert!(asked(ConnectionState::Closed, 100) > 19.0);
    }

    #[test]
    fn a_client_that_resets_what_it_is_done_with_is_less_bad() {
        let mut story = story(ConnectionState::Reset);
        story.sides.client.counts.resets = 1;
        assert!((points(&story) - RESET_POINTS).abs() < 1e-9);
        story.turns.count = 1;
        assert!((points(&story) - DONE_RESET_POINTS).abs() < 1e-9);
        story.sides.server.counts.resets = 1;
        assert!((points(&story) - RESET_POINTS).abs() < 1e-9);
    }

    #[test]
    fn a_share_of_few_segments_counts_less() {
        let with = |sent, again| {
            let mut story = story(ConnectionState::Closed);
            story.sides.server.counts.data_packets = sent;
            story.sides.server.counts.retransmitted_packets = again;
            score(&story)
        };
        assert!((with(2, 1).0 - 10.0).abs() < 1e-9);
        assert!((with(100, 5).0 - 10.0).abs() < 1e-9);
        assert!((with(100, 100).0 - RETRANSMITTED_POINTS_MAX).abs() < 1e-9);
        assert_eq!(
            with(100, 5).1,
            "5.0 % of the server's segments retransmitted"
        );
    }

    #[test]
    fn thinking_counts_beyond_a_tenth_of_a_second() {
        let think = |ms: i64| {
            let mut story = story(ConnectionState::Closed);
            story.turns.think = [ms * 1_000_000].into_iter().collect();
            score(&story)
        };
        assert_eq!(think(100), (0.0, NOTHING.to_owned()));
        let (points, words) = think(1_000);
        assert!((points - 10.0).abs() < 1e-9);
        assert_eq!(words, "the server thinks up to 1.00 s");
    }

    #[test]
    fn the_sum_alone_is_the_same() {
        let mut story = lost_in(Bucket::FastRecovery, 77_000_000);
        story.state = ConnectionState::Reset;
        story.sides.client.counts.reordered_packets = 3;
        assert!((points(&story) - score(&story).0).abs() < 1e-12);
    }

    #[test]
    fn a_lone_syn_has_the_points_that_are_said_of_it() {
        let mut decoded = Decoded::default();
        decoded.headers.protocol = protocol::TCP;
        for port in [1, 53, 443] {
            for others in [0, TcpFlags::RST, TcpFlags::FIN, !TcpFlags::ACK] {
                decoded.headers.destination_port = port;
                decoded.headers.tcp_flags = TcpFlags(TcpFlags::SYN | others);
                let mut tracer = Tracer::new(1);
                tracer.handle(&decoded.record(1, 0, 54, &[]));
                tracer.advance(i64::from(port) * 10_000_000);
                let ended: Vec<Ended> = tracer.finish().collect();
                assert!(ended.len() == 1 && ended.iter().all(|it| it.story().is_none()));
                for ended in ended {
                    let said = lone_syn_points(ended.watched_ns());
                    assert_eq!(points(&ended.into_story()), said);
                    assert_eq!(said > 0.0, port > 99);
                }
            }
        }
    }

    #[test]
    fn the_worst_stands_first_and_of_equals_the_earliest() {
        let report = |flow, start_ns, state| {
            let story = FlowStory {
                flow,
                start_ns,
                ..story(state)
            };
            ConversationReport::new(flow.to_string(), "hop".to_owned(), story)
        };
        let mut list = [
            report(1, 30, ConnectionState::Closed),
            report(2, 20, ConnectionState::Closed),
            report(3, 40, ConnectionState::Refused),
        ];
        rank(&mut list);
        let ids = list.map(|it| it.id);
        assert_eq!(ids, ["3", "2", "1"]);
    }
}
