//! The life of attempts to connect: started, answered by a flow, or failed.

use phalanx_common::abi::{Attempt, Direction, attempt_outcome};

use super::Engine;
use crate::attempt::{AttemptState, PendingAttempt};
use crate::change::{AttemptFailed, AttemptFailure, ChangeKind, IcmpError};
use crate::conversation::ConversationKey;
use crate::flow::endpoints;
use crate::hop::HopId;
use crate::limits::{ATTEMPT_FAILED_KEEP_NS, ATTEMPT_TIMEOUT_NS};
use crate::side::Sides;
use crate::table::Slot;
use crate::time::Monotonic;
use crate::timer::Timer;

impl Engine {
    pub(super) fn attempt(&mut self, hop: HopId, attempt: &Attempt) {
        let Some(watched) = self.hops.get(&hop) else {
            self.outbox.tally.hop_unknown += 1;
            return;
        };
        let namespace = watched.hop.namespace;
        let failure = match attempt.outcome {
            attempt_outcome::STARTED => None,
            attempt_outcome::REFUSED => Some(AttemptFailure::Refused),
            attempt_outcome::ICMP_ERROR => {
                let IcmpError {
                    icmp_type,
                    icmp_code,
                } = IcmpError::new(attempt.icmp_error);
                Some(AttemptFailure::Unreachable {
                    icmp_type,
                    icmp_code,
                })
            }
            _ => {
                self.outbox.tally.attempts_unknown += 1;
                return;
            }
        };
        let observed = Monotonic(attempt.now_ns).min(self.outbox.now);
        let key = ConversationKey::new(&attempt.key, namespace);
        let slot = match self.find_attempt(&key, hop, observed) {
            FoundAttempt::Waiting(slot) => slot,
            FoundAttempt::Counted => return,
            FoundAttempt::Missing => {
                let client = match attempt.initiator {
                    2 => Direction::FromHigh,
                    _ => Direction::FromLow,
                };
                let pending = PendingAttempt {
                    key,
                    hop,
                    namespace,
                    endpoints: endpoints(&attempt.key, client),
                    started: failure.is_none().then_some(observed),
                    state: AttemptState::Waiting,
                    timer: observed.plus_ns(ATTEMPT_TIMEOUT_NS),
                };
                let timer = pending.timer;
                let Some(slot) = self.attempts.insert(pending) else {
                    self.outbox.tally.attempts_refused += 1;
                    return;
                };
                self.timers.set(timer, Timer::Attempt(slot));
                slot
            }
        };
        if let Some(failure) = failure {
            let answer_us = (attempt.answer_us > 0).then_some(attempt.answer_us);
            self.fail_attempt(slot, failure, observed, answer_us);
        }
    }

    /// The attempt that a hop tells of, if it is known. What failed and is told again by another
    /// hop, or is older than its failure, was counted.
    fn find_attempt(
        &mut self,
        key: &ConversationKey,
        hop: HopId,
        observed: Monotonic,
    ) -> FoundAttempt {
        let Some(slot) = self.attempts.find(key) else {
            return FoundAttempt::Missing;
        };
        let Some(known) = self.attempts.get(slot) else {
            return FoundAttempt::Missing;
        };
        match known.state {
            AttemptState::Waiting => FoundAttempt::Waiting(slot),
            AttemptState::Failed(failed) if observed <= failed || known.hop != hop => {
                FoundAttempt::Counted
            }
            AttemptState::Failed(_) => {
                self.forget_attempt(slot);
                FoundAttempt::Missing
            }
        }
    }

    fn fail_attempt(
        &mut self,
        slot: Slot,
        failure: AttemptFailure,
        observed: Monotonic,
        answer_us: Option<u32>,
    ) {
        let Some(attempt) = self.attempts.get_mut(slot) else {
            return;
        };
        attempt.state = AttemptState::Failed(observed);
        self.timers.clear(attempt.timer, Timer::Attempt(slot));
        attempt.timer = self.outbox.now.plus_ns(ATTEMPT_FAILED_KEEP_NS);
        self.timers.set(attempt.timer, Timer::Attempt(slot));
        let (hop, ends, started) = (attempt.hop, attempt.endpoints, attempt.started);
        let namespace = attempt.namespace;
        let services = self.services(crate::flow::TCP, &ends, Sides::both(namespace));
        // A scan must not push out the pairs that talk.
        let pair = self.find_pair(crate::flow::TCP, &ends, &services, false);
        self.pairs
            .fail_attempt(pair, self.outbox.now, &mut self.timers);
        let failed = AttemptFailed {
            hop,
            endpoints: ends,
            pair,
            failure,
            started,
            answer_us,
        };
        self.outbox
            .change(ChangeKind::AttemptFailed(Box::new(failed)));
    }

    /// An open flow with packets of both ends ends the wait. One that the kernel opened only
    /// because SYNs went on does not.
    pub(super) fn resolve_attempt(&mut self, flow: Slot) {
        if self.attempts.count() == 0 {
            return;
        }
        let Some(flow) = self.flows.get(flow) else {
            return;
        };
        if flow.counted.client.packets == 0 || flow.counted.server.packets == 0 {
            return;
        }
        let Some(watched) = self.hops.get(&flow.hop) else {
            return;
        };
        let key = ConversationKey::new(&flow.key, watched.hop.namespace);
        let Some(slot) = self.attempts.find(&key) else {
            return;
        };
        let state = self.attempts.get(slot).map(|attempt| attempt.state);
        if let Some(AttemptState::Failed(_)) = state {
            self.outbox.tally.attempts_late += 1;
        }
        self.forget_attempt(slot);
    }

    fn forget_attempt(&mut self, slot: Slot) {
        if let Some(attempt) = self.attempts.remove(slot) {
            self.timers.clear(attempt.timer, Timer::Attempt(slot));
        }
    }

    pub(super) fn attempt_due(&mut self, slot: Slot) {
        match self.attempts.get(slot).map(|attempt| attempt.state) {
            Some(AttemptState::Waiting) => {
                self.fail_attempt(slot, AttemptFailure::Unanswered, self.outbox.now, None);
            }
            Some(AttemptState::Failed(_)) => self.forget_attempt(slot),
            None => {}
        }
    }
}

enum FoundAttempt {
    Waiting(Slot),
    /// It failed, and was told.
    Counted,
    Missing,
}
