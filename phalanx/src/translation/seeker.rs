//! The thread that asks connection tracking: flows go in, facts about those that are translated
//! come out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use caps::Capability;
use phalanx_common::packet::protocol;
use phalanx_engine::{ChangeKind, Endpoint, HopId, NameFact, NamespaceId, Sides};

use super::conntrack::Conntrack;
use super::limits::{BURST_COUNT, QUESTION_COUNT_MAX, QUESTIONS_PER_SECOND_MAX};
use super::table::Translations;
use crate::daemon::Waker;
use crate::privilege;

/// What the thread works with.
pub(crate) struct Seeker {
    /// Connection tracking of each namespace.
    pub(crate) tables: BTreeMap<NamespaceId, Conntrack>,
    /// What this host is called.
    pub(crate) host: Arc<str>,
    /// Where facts go.
    pub(crate) facts: SyncSender<NameFact>,
    /// Wakes the loop.
    pub(crate) told: Waker,
    /// Where translations are kept.
    pub(crate) translations: Arc<Translations>,
}

/// A flow in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    namespace: NamespaceId,
    protocol: u8,
    ends: Sides<Endpoint>,
}

/// Nobody takes facts any more.
struct Gone;

/// Asks for every flow that opens, and never waits.
pub(crate) struct Asker {
    questions: SyncSender<Question>,
    /// The namespaces of hops.
    hops: BTreeMap<HopId, NamespaceId>,
    translations: Arc<Translations>,
}

impl Asker {
    /// Follows what the engine decides.
    pub(crate) fn follow(&mut self, change: &ChangeKind) {
        match change {
            ChangeKind::HopAppeared(hop) => {
                self.hops.insert(hop.id, hop.namespace);
            }
            ChangeKind::HopVanished(hop) => {
                self.hops.remove(hop);
            }
            ChangeKind::FlowOpened(opened) if has_ports(opened.key.protocol) => {
                if let Some(namespace) = self.hops.get(&opened.hop) {
                    self.ask(Question {
                        namespace: *namespace,
                        protocol: opened.key.protocol,
                        ends: opened.endpoints,
                    });
                }
            }
            _ => {}
        }
    }

    fn ask(&self, question: Question) {
        match self.questions.try_send(question) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.translations.count_left_out(),
            // Nothing can be asked any more.
            Err(TrySendError::Disconnected(_)) => self.translations.count_failed(),
        }
    }
}

/// Protocols whose tuples are addresses and ports.
const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

/// Starts the thread.
pub(crate) fn start_seeker(seeker: Seeker) -> anyhow::Result<Asker> {
    let (questions, inbox) = sync_channel(QUESTION_COUNT_MAX);
    let translations = Arc::clone(&seeker.translations);
    let thread = std::thread::Builder::new().name("conntrack".to_owned());
    thread
        .spawn(move || seeker.run(inbox))
        .context("start the reader of connection tracking")?;
    Ok(Asker {
        questions,
        hops: BTreeMap::new(),
        translations,
    })
}

impl Seeker {
    /// Ends when nobody asks any more, or nothing can be asked.
    fn run(mut self, inbox: Receiver<Question>) {
        // The kernel looks at the one who asks and at the one who opened the socket.
        if let Err(error) = privilege::keep_only(&[Capability::CAP_NET_ADMIN]) {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "the reader of connection tracking keeps capabilities"
            );
        }
        let mut pace = Pace::new(Instant::now());
        while !self.tables.is_empty() {
            let Ok(first) = inbox.recv() else {
                return;
            };
            // The loop is woken once for flows that were opened together.
            let mut has_told = false;
            for question in std::iter::once(first).chain(inbox.try_iter().take(BURST_COUNT)) {
                if !self.tables.contains_key(&question.namespace) {
                    self.translations.count_failed();
                    continue;
                }
                if let Some(pause) = pace.pause(Instant::now()) {
                    // What was told does not wait for that.
                    if std::mem::take(&mut has_told) {
                        self.told.wake();
                    }
                    std::thread::sleep(pause);
                }
                match self.answer(question) {
                    Ok(is_translated) => has_told |= is_translated,
                    Err(Gone) => return,
                }
            }
            if has_told {
                self.told.wake();
            }
        }
    }

    /// Asks, and tells what is translated; whether it is.
    fn answer(&mut self, question: Question) -> Result<bool, Gone> {
        let Question {
            namespace,
            protocol,
            ends,
        } = question;
        let Some(table) = self.tables.get_mut(&namespace) else {
            return Ok(false);
        };
        let found = match table.find(protocol, ends) {
            Ok(found) => found,
            Err(error) => {
                self.translations.count_failed();
                // Else it is of this question: there was no memory, or no room for the answer.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.give_up(namespace, &error);
                }
                return Ok(false);
            }
        };
        let Some(translation) = self.translations.note(namespace, protocol, ends, found) else {
            return Ok(false);
        };
        let fact = NameFact::Translated {
            host: Arc::clone(&self.host),
            namespace,
            translation,
        };
        self.facts.send(fact).map_err(|_| Gone)?;
        Ok(true)
    }

    /// Says once why a namespace is not asked any more.
    fn give_up(&mut self, namespace: NamespaceId, error: &io::Error) {
        tracing::warn!(
            namespace = namespace.0,
            %error,
            "connection tracking cannot be read: translations there are not known"
        );
        self.tables.remove(&namespace);
    }
}

/// So many questions a second, those of a burst at once.
struct Pace {
    began: Instant,
    asked: u32,
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self {
            began: now,
            asked: 0,
        }
    }

    /// How long to wait before the next question.
    fn pause(&mut self, now: Instant) -> Option<Duration> {
        let second = Duration::from_secs(1);
        let left = second.saturating_sub(now.saturating_duration_since(self.began));
        self.asked += 1;
        if !left.is_zero() && self.asked <= QUESTIONS_PER_SECOND_MAX {
            return None;
        }
        (self.began, self.asked) = (now + left, 1);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_asked_at_once_and_the_rest_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..QUESTIONS_PER_SECOND_MAX {
            assert_eq!(pace.pause(start), None);
        }
        let now = start + Duration::from_millis(100);
        assert_eq!(pace.pause(now), Some(Duration::from_millis(900)));
        let now = start + Duration::from_secs(1);
        for _ in 1..QUESTIONS_PER_SECOND_MAX {
            assert_eq!(pace.pause(now), None);
        }
        assert!(pace.pause(now).is_some());
        assert_eq!(pace.pause(start + Duration::from_secs(9)), None);
    }

    fn question() -> Question {
        let end = Endpoint {
            address: [10, 0, 0, 1].into(),
            port: 80,
        };
        Question {
            namespace: NamespaceId(1),
            protocol: 6,
            ends: Sides {
                client: end,
                server: end,
            },
        }
    }

    #[test]
    fn the_thread_ends_with_its_last_table_and_questions_count_as_failed() {
        let translations = Arc::<Translations>::default();
        let (facts, facts_end) = sync_channel(1);
        let asker = start_seeker(Seeker {
            tables: BTreeMap::new(),
            host: "edge-1".into(),
            facts,
            told: Waker::new().unwrap(),
            translations: Arc::clone(&translations),
        });
        // The thread lets go of the questions first, then of this.
        assert!(facts_end.recv().is_err());
        let asker = asker.unwrap();
        asker.ask(question());
        let counts = translations.counts();
        assert_eq!((counts.failed, counts.left_out), (1, 0));
    }

    #[test]
    fn flows_that_find_no_room_are_counted() {
        let (questions, _inbox) = sync_channel(1);
        let translations = Arc::<Translations>::default();
        let asker = Asker {
            questions,
            hops: BTreeMap::new(),
            translations: Arc::clone(&translations),
        };
        for _ in 0..3 {
            asker.ask(question());
        }
        assert_eq!(translations.counts().left_out, 2);
    }
}
