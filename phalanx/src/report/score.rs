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

/// The points of a connection of which one SYN was seen, and nothing else.
pub const LONE_SYN_POINTS: f64 = FAILED_POINTS;

/// A thing that can go wrong: its points, 0 where it did not, and what is said of it.
struct Part {
    points: fn(&FlowStory) -> f64,
    words: fn(&FlowStory) -> String,
}

const PARTS: [Part; 7] = [
    Part {
        points: failed,
        words: failed_words,
    },
    Part {
        points: reset,
        words: reset_words,
    },
    Part {
        points: unanswered,
        words: |_| "the last request has no answer".to_owned(),
    },
    Part {
        points: icmp,
        words: |story| word::count(icmp_errors(story), "ICMP error", "ICMP errors"),
    },
    Part {
        points: lost,
        words: lost_words,
    },
    Part {
        points: retransmitted,
        words: retransmitted_words,
    },
    Part {
        points: think,
        words: think_words,
    },
];

/// How bad a conversation is: higher is worse, 0 is best.
#[must_use]
pub fn points(story: &FlowStory) -> f64 {
    PARTS.iter().map(|part| (part.points)(story)).sum()
}

/// How bad a conversation is, and what makes most of it.
#[must_use]
pub fn score(story: &FlowStory) -> (f64, String) {
    let (mut sum, mut most, mut worst) = (0.0, 0.0, None);
    for part in &PARTS {
        let points = (part.points)(story);
        sum += points;
        // Of equals the first one.
        if points > most {
            (most, worst) = (points, Some(part));
        }
    }
    let words = worst.map_or_else(|| NOTHING.to_owned(), |part| (part.words)(story));
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

fn failed(story: &FlowStory) -> f64 {
    if story.state.is_failed() {
        FAILED_POINTS
    } else {
        0.0
    }
}

fn failed_words(story: &FlowStory) -> String {
    let tries = word::count(story.sides.client.counts.syns, "SYN", "SYNs");
    match story.state {
        ConnectionState::Refused => "refused by RST".to_owned(),
        ConnectionState::Unreachable => "unreachable, says ICMP".to_owned(),
        ConnectionState::HalfOpen => "half open: the SYN-ACK is never acknowledged".to_owned(),
        ConnectionState::Aborted => "given up by the client while connecting".to_owned(),
        _ => format!("no answer to {tries}"),
    }
}

fn reset(story: &FlowStory) -> f64 {
    match story.state {
        ConnectionState::Reset if has_unfitting_reset(story) => {
            RESET_POINTS + UNFITTING_RESET_POINTS
        }
        ConnectionState::Reset => RESET_POINTS,
        _ => 0.0,
    }
}

fn has_unfitting_reset(story: &FlowStory) -> bool {
    let sides = &story.sides;
    sides.client.counts.unfitting_resets + sides.server.counts.unfitting_resets > 0
}

fn reset_words(story: &FlowStory) -> String {
    let sides = &story.sides;
    let by = match (sides.client.counts.resets, sides.server.counts.resets) {
        (0, 0) => "reset",
        (_, 0) => "reset by the client",
        (0, _) => "reset by the server",
        _ => "reset by both sides",
    };
    if has_unfitting_reset(story) {
        return format!("{by}, with a RST that does not fit it");
    }
    by.to_owned()
}

fn unanswered(story: &FlowStory) -> f64 {
    let is_heard = story.sides.server.counts.packets > 0;
    if story.turns.is_last_unanswered && is_heard && !story.state.is_failed() {
        UNANSWERED_POINTS
    } else {
        0.0
    }
}

fn icmp(story: &FlowStory) -> f64 {
    if icmp_errors(story) > 0 {
        ICMP_POINTS
    } else {
        0.0
    }
}

fn icmp_errors(story: &FlowStory) -> u64 {
    story.sides.client.counts.icmp_errors + story.sides.server.counts.icmp_errors
}

/// Time that was lost: how much counts, how long it took, and where.
type Lost = (i64, i64, &'static str);

fn losses(story: &FlowStory) -> [Lost; 5] {
    let sides = &story.sides;
    let budget = story.budget.unwrap_or_default();
    let is_whole = sides.client.counts.packets > 0 && sides.server.counts.packets > 0;
    let unknown_ns = match is_whole {
        true => budget.get(Bucket::Unknown),
        false => 0,
    };
    let whole = |bucket, words| (budget.get(bucket), budget.get(bucket), words);
    let slow_ns = (budget.get(Bucket::Handshake) - HANDSHAKE_FREE_NS).max(0);
    [
        whole(Bucket::TimeoutRecovery, "in timeout recovery"),
        whole(Bucket::FastRecovery, "in fast recovery"),
        whole(Bucket::ZeroWindow, "behind a closed window"),
        (slow_ns, slow_ns, "in a slow handshake"),
        (unknown_ns / UNKNOWN_DIVISOR, unknown_ns, UNEXPLAINED),
    ]
}

fn lost(story: &FlowStory) -> f64 {
    let total_ns: i64 = losses(story).iter().map(|lost| lost.0).sum();
    if total_ns > 0 {
        LOST_POINTS_PER_DECADE * decades(total_ns, LOST_UNIT_NS)
    } else {
        0.0
    }
}

fn lost_words(story: &FlowStory) -> String {
    let losses = losses(story);
    // Of equals the first one.
    let most = losses.iter().rev().max_by_key(|lost| lost.0);
    let (_, whole_ns, words) = most.copied().unwrap_or((0, 0, UNEXPLAINED));
    format!("{} {words}", word::duration(whole_ns))
}

/// The worse side, and its share.
fn worse_side(story: &FlowStory) -> (Side, f64) {
    let share = |side: Side| {
        let (again, sent) = word::retransmissions(&story.sides.get(side).counts);
        word::ratio(again, sent.max(RETRANSMITTED_SEGMENTS_MIN)).unwrap_or(0.0)
    };
    let (client, server) = (share(Side::Client), share(Side::Server));
    if client > server {
        (Side::Client, client)
    } else {
        (Side::Server, server)
    }
}

fn retransmitted(story: &FlowStory) -> f64 {
    let (_, share) = worse_side(story);
    (RETRANSMITTED_POINTS * share).min(RETRANSMITTED_POINTS_MAX)
}

fn retransmitted_words(story: &FlowStory) -> String {
    let (side, _) = worse_side(story);
    let plain = word::retransmitted(story, side).unwrap_or(0.0);
    format!(
        "{} of the {}'s segments retransmitted",
        word::percent(plain),
        word::side(side)
    )
}

fn longest_think_ns(story: &FlowStory) -> i64 {
    story.turns.think.max_ns().unwrap_or(0).max(0)
}

fn think(story: &FlowStory) -> f64 {
    match longest_think_ns(story) {
        0 => 0.0,
        longest_ns => THINK_POINTS_PER_DECADE * decades(longest_ns, THINK_UNIT_NS),
    }
}

fn think_words(story: &FlowStory) -> String {
    let longest = word::duration(longest_think_ns(story));
    format!("the server thinks up to {longest}")
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
    fn a_lone_syn_has_the_points_that_are_said_of_it() {
        let mut decoded = Decoded::default();
        decoded.headers.protocol = phalanx_common::packet::protocol::TCP;
        for others in [0, TcpFlags::RST.0, TcpFlags::FIN.0, 0xff & !TcpFlags::ACK.0] {
            decoded.headers.tcp_flags = TcpFlags(TcpFlags::SYN.0 | others);
            let mut tracer = Tracer::new(1);
            tracer.handle(&decoded.record(1, 0, 54, &[]));
            tracer.finish();
            let ended: Vec<Ended> = tracer.ended().collect();
            assert!(ended[0].story().is_none());
            for ended in ended {
                let story = ended.into_story();
                assert_eq!(points(&story), LONE_SYN_POINTS);
                assert_eq!(score(&story), (100.0, "no answer to 1 SYN".to_owned()));
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
