//! The store's thread: one after the other, batches are judged by their numbers, written to the
//! log together, acknowledged once they are on disk, and given to the loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant, SystemTime};

use phalanx_engine::Monotonic;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tonic::Status;

use super::log::Log;
use super::log::record::Entry;
use super::position::{Before, Position, Positions, Standing};
use super::registry::Registered;
use super::roster::Taken;
use crate::link::Opened;
use crate::link::protocol::hub_message::Message as FromHub;
use crate::link::protocol::{Ack, Batch, HubMessage};

/// Orders that wait for the store; full: sessions wait, and their agents run out of credit.
pub(crate) const ORDER_COUNT_MAX: usize = 1_024;
/// Batches that are written together at most: one of each agent.
const GROUP_COUNT_MAX: usize = 1_024;
/// How long the store gathers at least, from one write to the next: with many agents that tell a
/// little each, waiting for the disk and waking others is most of what a batch costs.
const GROUP_INTERVAL: Duration = Duration::from_millis(5);
/// Groups of batches that wait for the loop, with what they hold unpacked; full: the store waits.
/// The batches of all groups are bounded by the places of sessions.
pub(crate) const GROUP_TAKEN_COUNT_MAX: usize = 4;

/// A batch that a session has checked.
pub(crate) struct Arrived {
    pub(crate) batch: Batch,
    pub(crate) opened: Opened,
    /// The place in memory that it takes until the engine has it.
    pub(crate) place: OwnedSemaphorePermit,
}

/// What sessions ask of the store.
pub(crate) enum Order {
    /// A session begins: how far has its agent come?
    Begin {
        session: u64,
        agent: Arc<Registered>,
        run: u64,
        outbox: mpsc::Sender<Result<HubMessage, Status>>,
        reply: oneshot::Sender<Result<Position, Status>>,
    },
    /// A batch of a session.
    Take { session: u64, arrived: Box<Arrived> },
    /// A session has ended.
    End { session: u64 },
    /// The hub ends: nothing that comes later is stored.
    Stop,
}

/// What the store tells the loop: batches that are in the log.
pub(crate) struct Stored {
    /// In order, each with its place, which is given back when the engine has it.
    pub(crate) batches: Vec<(Taken, OwnedSemaphorePermit)>,
    /// Bytes that the log takes.
    pub(crate) log_bytes: u64,
}

struct Session {
    agent: Arc<Registered>,
    /// The run of the process that it is with.
    run: u64,
    outbox: mpsc::Sender<Result<HubMessage, Status>>,
    /// What its agent is to be told next.
    ack: Option<Ack>,
}

/// Writes the log.
pub(crate) struct Store {
    log: Log,
    positions: Positions,
    sessions: BTreeMap<u64, Session>,
    /// The session of each agent that counts: the last one that began.
    current: BTreeMap<String, u64>,
    now: Monotonic,
    /// When the last group was gathered.
    written: Instant,
}

impl Store {
    pub(crate) fn new(log: Log, positions: Positions, now: Monotonic) -> Self {
        Self {
            log,
            positions,
            sessions: BTreeMap::new(),
            current: BTreeMap::new(),
            now,
            written: Instant::now(),
        }
    }

    /// Works until nobody can ask any more, or nobody takes what is stored.
    pub(crate) fn work(mut self, orders: &Receiver<Order>, stored: &SyncSender<Stored>) {
        while let Ok(first) = orders.recv() {
            let mut group = Vec::new();
            let mut order = Some(first);
            while let Some(next) = order.take() {
                match next {
                    Order::Take { session, arrived } => group.push((session, arrived)),
                    // What came before it is stored before it.
                    other => {
                        if self.take(std::mem::take(&mut group), stored).is_err()
                            || matches!(other, Order::Stop)
                        {
                            return;
                        }
                        self.obey(other);
                    }
                }
                if group.len() < GROUP_COUNT_MAX {
                    order = self.gather(orders, !group.is_empty());
                }
            }
            self.written = Instant::now();
            if self.take(group, stored).is_err() {
                return;
            }
        }
    }

    /// The next order of a group, if one comes in time.
    fn gather(&self, orders: &Receiver<Order>, may_wait: bool) -> Option<Order> {
        let left = GROUP_INTERVAL.saturating_sub(self.written.elapsed());
        if may_wait && !left.is_zero() {
            orders.recv_timeout(left).ok()
        } else {
            orders.try_recv().ok()
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Begin {
                session,
                agent,
                run,
                outbox,
                reply,
            } => {
                // Fails only where the session has gone again.
                drop(reply.send(self.begin(session, agent, run, outbox)));
            }
            Order::End { session } => {
                if let Some(ended) = self.sessions.remove(&session)
                    && self.current.get(&ended.agent.agent) == Some(&session)
                {
                    self.current.remove(&ended.agent.agent);
                }
            }
            Order::Take { .. } | Order::Stop => {}
        }
    }

    /// A session takes the place of the one before it: that is half open mostly, after a network
    /// failed. One with an older process is refused: two of them share one certificate.
    fn begin(
        &mut self,
        number: u64,
        agent: Arc<Registered>,
        run: u64,
        outbox: mpsc::Sender<Result<HubMessage, Status>>,
    ) -> Result<Position, Status> {
        let position = self.positions.get(&agent.agent);
        let before = self.current.get(&agent.agent);
        let other_run = before
            .and_then(|number| self.sessions.get(number))
            .map_or(position.run, |session| session.run.max(position.run));
        if run < other_run {
            return Err(Status::already_exists(format!(
                "another process with the certificate of this agent ({}) began later: if this \
                 host was cloned, enroll it anew; if its clock was set back, remove its spool",
                agent.agent
            )));
        }
        if let Some(before) = before.and_then(|number| self.sessions.get(number)) {
            let gone = "another session of this agent has begun";
            drop(before.outbox.try_send(Err(Status::aborted(gone))));
        }
        self.current.insert(agent.agent.clone(), number);
        let session = Session {
            agent,
            run,
            outbox,
            ack: None,
        };
        self.sessions.insert(number, session);
        Ok(position)
    }

    /// Stores batches and tells of them. Fails where nobody takes them any more.
    fn take(
        &mut self,
        group: Vec<(u64, Box<Arrived>)>,
        stored: &SyncSender<Stored>,
    ) -> Result<(), ()> {
        if group.is_empty() {
            return Ok(());
        }
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall_ns = wall.map_or(0, |it: Duration| it.as_nanos() as u64);
        self.now = self.now.max(Monotonic(wall_ns));
        let mut moved = Vec::new();
        let mut entries = Vec::new();
        let mut taken = Vec::new();
        let mut acknowledged = Vec::new();
        for (number, arrived) in group {
            let Some(standing) = self.judge(number, &arrived.batch, &mut moved) else {
                continue;
            };
            acknowledged.push((
                number,
                Ack {
                    run: arrived.batch.run,
                    sequence: arrived.batch.sequence,
                    credit_bytes: arrived.batch.body.len() as u64,
                },
            ));
            let (Standing::Next { is_new_run }, Some(session)) =
                (standing, self.sessions.get(&number))
            else {
                continue;
            };
            entries.push(Entry {
                at_ns: self.now.0,
                agent: session.agent.agent.clone(),
                batch: arrived.batch.encode_to_vec().into(),
                positions: None,
            });
            let batch = Taken {
                at: self.now,
                agent: Arc::clone(&session.agent),
                position: self.positions.get(&session.agent.agent),
                is_new_run,
                boot: u128::from_be_bytes(arrived.opened.boot),
                contents: arrived.opened.contents,
            };
            taken.push((batch, arrived.place));
        }
        let before = Before {
            now: &self.positions,
            moved: &moved,
        };
        if !entries.is_empty()
            && let Err(error) = self.log.append(&entries, &before, self.now.0)
        {
            tracing::error!(%error, "the log takes nothing: agents keep what they have");
            self.positions.put_back(&moved);
            let numbers = acknowledged.iter().map(|(number, _)| *number);
            for number in numbers.collect::<Vec<_>>() {
                let text = format!("the hub cannot store anything now ({error})");
                self.refuse(number, Status::unavailable(text));
            }
            return Ok(());
        }
        for (number, ack) in acknowledged {
            self.acknowledge(number, ack);
        }
        let told = Stored {
            batches: taken,
            log_bytes: self.log.bytes(),
        };
        stored.send(told).map_err(|_| ())
    }

    /// What a batch is to its agent. None: its session has ended, or ends because of it.
    fn judge(
        &mut self,
        number: u64,
        batch: &Batch,
        moved: &mut Vec<(String, Option<Position>)>,
    ) -> Option<Standing> {
        let agent = Arc::clone(&self.sessions.get(&number)?.agent);
        if self.current.get(&agent.agent) != Some(&number) {
            return None;
        }
        let before = self.positions.0.get(&agent.agent).copied();
        match self.positions.take(&agent.agent, batch) {
            Ok(Standing::Repeated) => Some(Standing::Repeated),
            Ok(standing) => {
                moved.push((agent.agent.clone(), before));
                Some(standing)
            }
            Err(disorder) => {
                tracing::warn!(agent = agent.name, %disorder, "an agent tells out of order");
                self.refuse(number, Status::invalid_argument(disorder.to_string()));
                None
            }
        }
    }

    fn refuse(&mut self, number: u64, status: Status) {
        if let Some(session) = self.sessions.remove(&number) {
            if self.current.get(&session.agent.agent) == Some(&number) {
                self.current.remove(&session.agent.agent);
            }
            // Where it does not read, the end of its outbox tells it.
            drop(session.outbox.try_send(Err(status)));
        }
    }

    /// Tells an agent, or adds to what it is told next where it does not read: what is told later
    /// says all of it.
    fn acknowledge(&mut self, number: u64, ack: Ack) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let credit_bytes = session.ack.map_or(0, |before| before.credit_bytes);
        let ack = Ack {
            credit_bytes: credit_bytes + ack.credit_bytes,
            ..ack
        };
        let message = Some(FromHub::Ack(ack));
        let told = session.outbox.try_send(Ok(HubMessage { message }));
        session.ack = told.is_err().then_some(ack);
    }
}
