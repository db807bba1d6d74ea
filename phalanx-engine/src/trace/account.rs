//! Where a connection's time goes: makes its [`TimeBudget`] from what it waited for before each
//! packet ([`Situation`]) and what the packet was ([`Event`]).
//!
//! Rules, first match wins, for the time between two packets:
//! 1. handshake, until it is over; close, once a RST was seen or both FINs.
//! 2. the packet is a retransmission after a timeout, or a tail-loss probe: timeout recovery, with
//!    all that had not been settled before it.
//! 3. the receiver's window is closed: zero window.
//! 4. a loss is being repaired: fast or timeout recovery.
//! 5. the window has no room, as far as the sender can know: receiver window.
//! 6. bytes are under way: path, for as long as their round trip takes. What is beyond waits.
//! 7. nothing is under way: it waits.
//!
//! What waits is settled by the next data or the end. Data from the other side: server think or
//! client idle. Data from the same side: what the acknowledgement needed to reach the sender, and
//! the data to come, is the path's; what is beyond is the sender's own (sender limited), as is the
//! path's where no round trip has more bytes under way than the first of them ([`Sender`]). FIN,
//! RST or end: the time of whom the last data was sent to, once that is acknowledged; the close's
//! if a FIN was seen before; the path's while it is not acknowledged, and unknown beyond a second
//! of that. An acknowledgement of bytes that were not captured: unknown.
//!
//! Buckets after the triage of web100, Dapper (SOSR 2017) and TAPO (CoNEXT 2015).

use crate::budget::{Bucket, Checkpoint, TimeBudget};
use crate::segment::{Class, Recovery, Sender};
use crate::side::{Side, Sides};

/// What a connection waited for before a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Situation {
    pub(crate) phase: Phase,
    /// A window is closed.
    pub(crate) is_blocked: bool,
    pub(crate) recovery: Recovery,
    /// Bytes are under way, in either direction.
    pub(crate) is_outstanding: bool,
    /// Until when the receiver's window has no room, as the sender knows it; `None` where it has.
    pub(crate) limited_until_ns: Option<i64>,
}

/// Where a connection stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Handshake,
    Open,
    /// A FIN was seen.
    Closing,
    Closed,
}

/// What a packet means for the time before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) time_ns: i64,
    pub(crate) side: Side,
    pub(crate) class: Option<Class>,
    /// It carries payload that was not sent before, as far as is known.
    pub(crate) has_new_data: bool,
    /// FIN or RST, unless bytes are missing before it: what comes next tells whether they are
    /// under way or not in the capture.
    pub(crate) is_end: bool,
    /// It acknowledges bytes that are not in the capture.
    pub(crate) is_after_capture_gap: bool,
    /// It carries payload once more that has not arrived, as far as is known.
    pub(crate) repeats_data: bool,
    /// Round trip from the hop to the other side and back, for what the packet carries.
    pub(crate) reach_ns: i64,
    /// Round trip from the hop to the packet's sender and back.
    pub(crate) upstream_ns: i64,
    /// A pause of the sender longer than this, in nanoseconds, is its own.
    pub(crate) pause_ns: i64,
}

impl Event {
    /// How much later than its round trip data may come and still be what an acknowledgement let
    /// through, in nanoseconds.
    fn slack_ns(&self) -> i64 {
        (self.upstream_ns / 8).max(1_000_000)
    }
}

/// The bucket and the answer time that a turn came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turned {
    /// Who answered.
    pub(crate) side: Side,
    /// Its own time, in nanoseconds.
    pub(crate) own_ns: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// While bytes were under way, beyond their round trip.
    outstanding_ns: i64,
    /// While nothing was.
    quiet_ns: i64,
    /// Since a FIN was seen.
    closing_ns: i64,
}

impl Waiting {
    const fn all_ns(self) -> i64 {
        self.outstanding_ns + self.quiet_ns + self.closing_ns
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    budget: TimeBudget,
    last_ns: i64,
    waiting: Waiting,
    /// Round trip of the last data that is not used up.
    reach_left_ns: i64,
    last_data: Option<Side>,
    /// Time of the last data, and the reach that it needs.
    last_data_ns: i64,
    last_reach_ns: i64,
    /// Taken at the first sign of a loss of each side.
    suspicion: Sides<Option<Checkpoint>>,
    level: Sides<Level>,
}

/// How long the path had taken when something began, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    round: u32,
    /// At the beginning of the round that goes on, and of the one before.
    round_path_ns: i64,
    before_path_ns: i64,
    plateau: u64,
    /// At the beginning of its first round.
    plateau_path_ns: i64,
}

/// Bytes that have waited longer than this for an acknowledgement, and were neither acknowledged
/// nor sent again, say nothing of the path: the initial timeout (RFC 6298 section 2.1).
const UNANSWERED_NS: i64 = 1_000_000_000;

/// What may have been a loss being repaired, before that was known.
const ORDINARY: [Bucket; 3] = [Bucket::Path, Bucket::SenderLimited, Bucket::Unknown];

impl Account {
    pub(crate) fn new(start_ns: i64) -> Self {
        Self {
            last_ns: start_ns,
            last_data_ns: start_ns,
            ..Self::default()
        }
    }

    /// Takes a packet in; gives the turn that it makes.
    pub(crate) fn take(&mut self, situation: &Situation, event: &Event) -> Option<Turned> {
        // Clocks that step back take no time: the sum stays that of first to latest.
        let passed_ns = event.time_ns.saturating_sub(self.last_ns).max(0);
        self.last_ns = self.last_ns.max(event.time_ns);
        if passed_ns > 0 {
            self.spend(passed_ns, situation, event);
        }
        let mut turned = None;
        if event.has_new_data {
            turned = self.settle_data(situation, event, passed_ns);
            self.last_data = Some(event.side);
            self.last_data_ns = event.time_ns;
            self.last_reach_ns = event.reach_ns;
            self.reach_left_ns = event.reach_ns;
        } else if event.is_end {
            self.settle_end();
        } else if event.is_after_capture_gap {
            self.last_data = Some(event.side.other());
            (self.last_data_ns, self.last_reach_ns) = (event.time_ns, 0);
        } else if event.repeats_data && self.last_data == Some(event.side) {
            // An answer to what was lost can be to the repetition alone.
            self.last_data_ns = event.time_ns;
        }
        turned
    }

    /// Who sent data last, also such as was acknowledged and is not in the capture.
    pub(crate) const fn last_data(&self) -> Option<Side> {
        self.last_data
    }

    fn spend(&mut self, mut passed_ns: i64, situation: &Situation, event: &Event) {
        let is_timeout = matches!(
            event.class,
            Some(Class::TimeoutRetransmission | Class::TailLossProbe)
        );
        let bucket = match (situation.phase, situation.recovery) {
            (Phase::Handshake, _) => Bucket::Handshake,
            (Phase::Closed, _) => Bucket::Close,
            _ if event.is_after_capture_gap => {
                // What came in between may have ended what was waited for.
                let waiting = std::mem::take(&mut self.waiting);
                self.budget.add(Bucket::Unknown, waiting.all_ns());
                Bucket::Unknown
            }
            _ if situation.is_blocked => Bucket::ZeroWindow,
            _ if is_timeout => {
                let waited_ns = std::mem::take(&mut self.waiting.outstanding_ns);
                self.budget.add(Bucket::TimeoutRecovery, waited_ns);
                Bucket::TimeoutRecovery
            }
            (_, Recovery::Timeout(_)) => Bucket::TimeoutRecovery,
            (_, Recovery::Fast(_)) => Bucket::FastRecovery,
            _ => {
                if let Some(until_ns) = situation.limited_until_ns {
                    let start_ns = self.last_ns.saturating_sub(passed_ns);
                    let limited_ns = until_ns.saturating_sub(start_ns).clamp(0, passed_ns);
                    // Data that comes about then is what the window held back.
                    let is_clocked = passed_ns - limited_ns <= event.slack_ns();
                    let limited_ns = if event.has_new_data && is_clocked {
                        passed_ns
                    } else {
                        limited_ns
                    };
                    self.budget.add(Bucket::ReceiverWindow, limited_ns);
                    passed_ns -= limited_ns;
                }
                return self.spend_waiting(passed_ns, situation);
            }
        };
        self.budget.add(bucket, passed_ns);
    }

    fn spend_waiting(&mut self, passed_ns: i64, situation: &Situation) {
        if situation.is_outstanding {
            let path_ns = passed_ns.min(self.reach_left_ns);
            self.reach_left_ns -= path_ns;
            self.budget.add(Bucket::Path, path_ns);
            self.waiting.outstanding_ns += passed_ns - path_ns;
        } else if situation.phase == Phase::Closing {
            self.waiting.closing_ns += passed_ns;
        } else {
            self.waiting.quiet_ns += passed_ns;
        }
    }

    fn settle_data(
        &mut self,
        situation: &Situation,
        event: &Event,
        passed_ns: i64,
    ) -> Option<Turned> {
        let waiting = std::mem::take(&mut self.waiting);
        if self.last_data == Some(event.side) {
            // The last wait was the sender's own where no acknowledgement ended it.
            let own_ns = if situation.is_outstanding && passed_ns > event.pause_ns {
                passed_ns.min(waiting.outstanding_ns)
            } else {
                0
            };
            let quiet_ns = waiting.quiet_ns + waiting.closing_ns;
            // What the acknowledgement needed to reach the sender, and its data to come back.
            let clocked_ns = if quiet_ns <= event.upstream_ns.saturating_add(event.slack_ns()) {
                quiet_ns
            } else {
                event.upstream_ns
            };
            self.budget.add(Bucket::Path, clocked_ns);
            let pause_ns = quiet_ns - clocked_ns + own_ns;
            self.budget.add(Bucket::SenderLimited, pause_ns);
            self.budget
                .add(Bucket::Path, waiting.outstanding_ns - own_ns);
            return None;
        }
        let own = match event.side {
            Side::Client => Bucket::ClientIdle,
            Side::Server => Bucket::ServerThink,
        };
        self.budget.add(own, waiting.all_ns());
        self.last_data?;
        let since_ns = event.time_ns.saturating_sub(self.last_data_ns);
        Some(Turned {
            side: event.side,
            own_ns: since_ns.saturating_sub(self.last_reach_ns).max(0),
        })
    }

    fn settle_end(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let outstanding = if waiting.outstanding_ns > UNANSWERED_NS {
            Bucket::Unknown
        } else {
            Bucket::Path
        };
        self.budget.add(outstanding, waiting.outstanding_ns);
        self.budget.add(Bucket::Close, waiting.closing_ns);
        let own = match self.last_data {
            Some(Side::Client) => Bucket::ServerThink,
            _ => Bucket::ClientIdle,
        };
        self.budget.add(own, waiting.quiet_ns);
    }

    /// A connection that was taken for closed is still being opened: the RST was not of the peer.
    pub(crate) fn reopen(&mut self) {
        let from = Checkpoint::default();
        self.budget
            .move_since(&from, &[Bucket::Close], Bucket::Handshake);
    }

    /// Notes the first sign of a loss of what `side` sends.
    pub(crate) fn suspect(&mut self, side: Side) {
        let budget = self.budget;
        self.suspicion
            .get_mut(side)
            .get_or_insert_with(|| Checkpoint::from(budget));
    }

    /// The sign meant nothing.
    pub(crate) fn clear(&mut self, side: Side) {
        *self.suspicion.get_mut(side) = None;
    }

    /// A loss of what `side` sends is certain: what was taken for ordinary since its first sign
    /// was its repair.
    pub(crate) fn confirm(&mut self, side: Side, to: Bucket) {
        let waited_ns = std::mem::take(&mut self.waiting.outstanding_ns);
        if let Some(since) = self.suspicion.get_mut(side) {
            self.budget.add(Bucket::Path, waited_ns);
            self.budget.move_since(since, &ORDINARY, to);
            *since = Checkpoint::from(self.budget);
        } else {
            self.budget.add(Bucket::Path, waited_ns);
        }
    }

    /// `side` has sent new data. Follows its rounds with no more under way than before: once there
    /// are enough, what passed since the first of them began was the sender's own, as it had more
    /// to send.
    pub(crate) fn level(&mut self, side: Side, sender: &Sender) {
        let path_ns = self.budget.get(Bucket::Path);
        let level = self.level.get_mut(side);
        if level.plateau != sender.plateau() {
            level.plateau = sender.plateau();
            level.plateau_path_ns = match sender.plateau_rounds() {
                0 => level.round_path_ns,
                _ => level.before_path_ns,
            };
        }
        if level.round != sender.round() {
            level.round = sender.round();
            level.before_path_ns = level.round_path_ns;
            level.round_path_ns = path_ns;
        }
        if sender.is_at_plateau() {
            let own_ns = (path_ns - level.plateau_path_ns).max(0);
            self.budget.add(Bucket::Path, -own_ns);
            self.budget.add(Bucket::SenderLimited, own_ns);
            level.plateau_path_ns = path_ns - own_ns;
            (level.before_path_ns, level.round_path_ns) = (path_ns - own_ns, path_ns - own_ns);
        }
    }

    /// The whole budget; `is_one_way` where one direction was never seen.
    pub(crate) fn finish(mut self, is_one_way: bool) -> TimeBudget {
        self.settle_end();
        if is_one_way {
            let from = Checkpoint::default();
            let all = Bucket::ALL;
            let but_handshake: Vec<Bucket> = all
                .into_iter()
                .filter(|bucket| *bucket != Bucket::Handshake)
                .collect();
            self.budget
                .move_since(&from, &but_handshake, Bucket::Unknown);
        }
        self.budget
    }
}
