//! How bad a conversation is, and why: the order of reports.
//!
//! The score is a sum of points, each for one thing that went wrong:
//!
//! - 100 for a connection that never came to be: no answer, refused, unreachable, half open, given
//!   up.
//! - 50 for a reset, 20 more where the RST does not fit its sender.
//! - 20·log₁₀(1 + t / 10 ms) for the time *t* lost in timeout recovery, fast recovery and behind
//!   closed windows, in a handshake beyond a second, and a quarter of the unknown time where both
//!   directions were seen: 21 for 0.1 s, 40 for 1 s, 60 for 10 s.
//! - 200 times the share of retransmitted segments of the worse side, 40 at most; a side with
//!   fewer than 20 segments counts as if it had sent 20.
//! - 10·log₁₀(1 + t / 100 ms) for the longest think time *t* of the server: 3 for 0.1 s, 10 for
//!   1 s, 20 for 10 s.
//! - 20 for a last request without an answer, where the server is heard at all.
//! - 15 for ICMP errors.
//!
//! A zero is a conversation with nothing to be said against it. Properties of the capture (copies,
//! bytes that were not captured) give no points.

use phalanx_engine::Side;
use phalanx_engine::budget::Bucket;
use phalanx_engine::story::{ConnectionState, FlowStory};

use super::ConversationReport;
use super::word;

const FAILED_POINTS: f64 = 100.0;
const RESET_POINTS: f64 = 50.0;
const UNFITTING_RESET_POINTS: f64 = 20.0;
const LOST_POINTS_PER_DECADE: f64 = 20.0;
const LOST_UNIT_NS: f64 = 1e7;
const HANDSHAKE_FREE_NS: i64 = 1_000_000_000;
const UNKNOWN_DIVISOR: i64 = 4;
const RETRANSMITTED_POINTS: f64 = 200.0;
const RETRANSMITTED_POINTS_MAX: f64 = 40.0;
const RETRANSMITTED_SEGMENTS_MIN: u64 = 20;
const THINK_POINTS_PER_DECADE: f64 = 10.0;
const THINK_UNIT_NS: f64 = 1e8;
const UNANSWERED_POINTS: f64 = 20.0;
const ICMP_POINTS: f64 = 15.0;

/// What is said where there are no points.
const NOTHING: &str = "nothing wrong";

/// How bad a conversation is (higher is worse, 0 is best), and what makes most of it.
#[must_use]
pub fn score(story: &FlowStory) -> (f64, String) {
    let parts = [failed(story), reset(story), unanswered(story), icmp(story)];
    let measured = [lost(story), retransmitted(story), think(story)];
    let parts = parts.into_iter().chain(measured).flatten();
    let (mut sum, mut most, mut words) = (0.0, 0.0, NOTHING.to_owned());
    for (points, reason) in parts {
        sum += points;
        // Of equals the first one.
        if points > most {
            (most, words) = (points, reason);
        }
    }
    (sum, words)
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

const UNEXPLAINED: &str = "that cannot be explained";

type Part = Option<(f64, String)>;

fn failed(story: &FlowStory) -> Part {
    let tries = word::count(story.sides.client.counts.syns, "SYN", "SYNs");
    let words = match story.state {
        ConnectionState::Unanswered => format!("no answer to {tries}"),
        ConnectionState::Refused => "refused by RST".to_owned(),
        ConnectionState::Unreachable => "unreachable, says ICMP".to_owned(),
        ConnectionState::HalfOpen => "half open: the SYN-ACK is never acknowledged".to_owned(),
        ConnectionState::Aborted => "given up by the client while connecting".to_owned(),
        _ => return None,
    };
    Some((FAILED_POINTS, words))
}

fn reset(story: &FlowStory) -> Part {
    if story.state != ConnectionState::Reset {
        return None;
    }
    let sides = &story.sides;
    let by = match (sides.client.counts.resets, sides.server.counts.resets) {
        (0, 0) => "reset".to_owned(),
        (_, 0) => "reset by the client".to_owned(),
        (0, _) => "reset by the server".to_owned(),
        _ => "reset by both sides".to_owned(),
    };
    if sides.client.counts.unfitting_resets + sides.server.counts.unfitting_resets == 0 {
        return Some((RESET_POINTS, by));
    }
    let words = format!("{by}, with a RST that does not fit it");
    Some((RESET_POINTS + UNFITTING_RESET_POINTS, words))
}

fn unanswered(story: &FlowStory) -> Part {
    let is_heard = story.sides.server.counts.packets > 0;
    let is_so = story.turns.is_last_unanswered && is_heard && !story.state.is_failed();
    is_so.then(|| {
        let words = "the last request has no answer".to_owned();
        (UNANSWERED_POINTS, words)
    })
}

fn icmp(story: &FlowStory) -> Part {
    let sides = &story.sides;
    let errors = sides.client.counts.icmp_errors + sides.server.counts.icmp_errors;
    (errors > 0).then(|| {
        let words = word::count(errors, "ICMP error", "ICMP errors");
        (ICMP_POINTS, words)
    })
}

fn lost(story: &FlowStory) -> Part {
    let budget = story.budget.as_ref()?;
    let sides = &story.sides;
    let is_whole = sides.client.counts.packets > 0 && sides.server.counts.packets > 0;
    let unknown_ns = match is_whole {
        true => budget.get(Bucket::Unknown),
        false => 0,
    };
    let parts = [
        (budget.get(Bucket::TimeoutRecovery), "in timeout recovery"),
        (budget.get(Bucket::FastRecovery), "in fast recovery"),
        (budget.get(Bucket::ZeroWindow), "behind a closed window"),
        (
            (budget.get(Bucket::Handshake) - HANDSHAKE_FREE_NS).max(0),
            "in a slow handshake",
        ),
        (unknown_ns / UNKNOWN_DIVISOR, UNEXPLAINED),
    ];
    let total_ns: i64 = parts.iter().map(|(ns, _)| ns).sum();
    let points = LOST_POINTS_PER_DECADE * decades(total_ns, LOST_UNIT_NS);
    let most = parts.iter().rev().max_by_key(|(ns, _)| *ns)?;
    let whole_ns = match most.1 {
        UNEXPLAINED => unknown_ns,
        _ => most.0,
    };
    (total_ns > 0).then(|| (points, format!("{} {}", word::duration(whole_ns), most.1)))
}

fn retransmitted(story: &FlowStory) -> Part {
    let share = |side: Side| {
        let (again, sent) = word::retransmissions(&story.sides.get(side).counts);
        word::ratio(again, sent.max(RETRANSMITTED_SEGMENTS_MIN)).unwrap_or(0.0)
    };
    let (client, server) = (share(Side::Client), share(Side::Server));
    let side = if client > server {
        Side::Client
    } else {
        Side::Server
    };
    let points = (RETRANSMITTED_POINTS * client.max(server)).min(RETRANSMITTED_POINTS_MAX);
    let plain = word::retransmitted(story, side).unwrap_or(0.0);
    (points > 0.0).then(|| {
        let words = format!(
            "{} of the {}'s segments retransmitted",
            word::percent(plain),
            word::side(side)
        );
        (points, words)
    })
}

fn think(story: &FlowStory) -> Part {
    let longest_ns = story.turns.think.max_ns().filter(|ns| *ns > 0)?;
    let points = THINK_POINTS_PER_DECADE * decades(longest_ns, THINK_UNIT_NS);
    let words = format!("the server thinks up to {}", word::duration(longest_ns));
    Some((points, words))
}

/// log₁₀(1 + time / unit).
fn decades(ns: i64, unit_ns: f64) -> f64 {
    (word::seconds(ns.max(0)) * 1e9 / unit_ns).ln_1p() / std::f64::consts::LN_10
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx_engine::budget::TimeBudget;

    fn story(state: ConnectionState) -> FlowStory {
        FlowStory {
            state,
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
