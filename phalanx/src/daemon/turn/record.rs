//! The part of the loop that takes records: to the captures and the engine what a capture asked
//! for, to the memory of sick flows and to looking back what is theirs.

use phalanx_common::abi::Counter;
use phalanx_engine::{Input, Monotonic};

use super::super::core::FeedClosed;
use super::super::feed::{Record, Request};
use super::super::process::thread_cpu_ns;
use super::Turn;
use crate::capture::PromotedPacket;
use crate::clock;
use crate::kernel::await_programs;
use crate::link::Told;
use crate::lookback::{Governor, Seam};

/// Records taken from one ring in one turn, and handed on together.
const RECORD_BATCH: usize = 1_024;

/// What the governor goes by, and what was lost up to the last status.
#[derive(Debug)]
pub(super) struct Governing {
    governor: Governor,
    /// CPU time that taking records for looking back has cost.
    spent_ns: u64,
    /// What taking them has cost in this turn.
    records_ns: u64,
}

impl Governing {
    pub(super) fn new(governor: Governor) -> Self {
        Self {
            governor,
            spent_ns: 0,
            records_ns: 0,
        }
    }
}

impl Turn {
    /// Puts the filters of looking back in force.
    pub(super) fn begin_lookback(&mut self) -> anyhow::Result<()> {
        let (mask, filters) = (self.lookback.mask(), self.lookback.filters());
        if mask == 0 {
            return Ok(());
        }
        for instance in &mut self.instances {
            instance.tables.set_lookback(mask)?;
            instance.tables.set_filters(filters)?;
        }
        Ok(())
    }

    /// Takes a part of the records that wait; how many.
    pub(super) fn take_records(&mut self, number: usize) -> Result<usize, FeedClosed> {
        let before_ns = self.governing.as_ref().map(|_| thread_cpu_ns());
        let (taken, spare) = self.take_record_batch(number)?;
        if let (Some(governing), Some(before_ns)) = (&mut self.governing, before_ns)
            && spare > 0
        {
            let cost_ns = thread_cpu_ns().saturating_sub(before_ns);
            governing.records_ns += cost_ns / taken as u64 * spare as u64;
        }
        Ok(taken)
    }

    /// One turn and the sleep after it. Where the turn had nothing to do but to take records for no
    /// capture, all of it is their cost; where it also had events, the taking and the sleep, which
    /// they made short.
    pub(super) fn turn_and_sleep(&mut self) -> anyhow::Result<()> {
        if self.governing.is_none() {
            let taken = self.turn()?;
            return self.sleep(taken);
        }
        let (begun_ns, events_read) = (thread_cpu_ns(), self.tallies.events_read);
        let taken = self.turn()?;
        let turned_ns = thread_cpu_ns();
        self.sleep(taken)?;
        let slept_ns = thread_cpu_ns();
        if let Some(governing) = &mut self.governing {
            let records_ns = std::mem::take(&mut governing.records_ns);
            governing.spent_ns += match records_ns {
                0 => 0,
                _ if self.tallies.events_read == events_read => slept_ns.saturating_sub(begun_ns),
                _ => records_ns + slept_ns.saturating_sub(turned_ns),
            };
        }
        Ok(())
    }

    /// How many records were taken, and how many of them for no capture.
    fn take_record_batch(&mut self, number: usize) -> Result<(usize, usize), FeedClosed> {
        let (mut batch, mut promoted) = (Vec::new(), Vec::new());
        let instance = &mut self.instances[number];
        let mut keeping = self.lookback.open();
        let standing = self.lookback.mask();
        let (mut taken, mut unknown) = (0, 0);
        while taken < RECORD_BATCH {
            // The ring is taken out of the instance for the closure, which looks for the hop.
            let (records, hops) = (&mut instance.records, &mut instance.hops);
            let has_one = records.take_record(|record| match record {
                Some((header, bytes)) => {
                    let Some(hop) = super::find_hop(hops, &header.key) else {
                        return;
                    };
                    keeping.keep(hop, &header, bytes);
                    if header.is_promoted != 0 {
                        promoted.push(PromotedPacket::new(hop, &header, bytes));
                    }
                    // What no capture asked for goes to none, and takes no place from one.
                    if header.matched & !standing != 0 {
                        let bytes = bytes.to_vec();
                        batch.push(Record { hop, header, bytes });
                    }
                }
                None => unknown += 1,
            });
            if !has_one {
                break;
            }
            taken += 1;
        }
        drop(keeping);
        self.tallies.records_read += taken as u64;
        self.tallies.events_unknown += unknown;
        self.promoted.keep(promoted);
        let spare = taken - batch.len();
        self.hand_on_records(batch)?;
        Ok((taken, spare))
    }

    fn hand_on_records(&mut self, batch: Vec<Record>) -> Result<(), FeedClosed> {
        let now = clock::now();
        for Record { hop, header, bytes } in &batch {
            let record = Input::Record {
                hop: *hop,
                header,
                bytes,
            };
            self.link.tell(Told::Input(record), now)?;
        }
        let count = batch.len() as u64;
        if !batch.is_empty() && self.records.try_send(batch).is_err() {
            self.tallies.records_dropped += count;
        }
        Ok(())
    }

    /// Lets the governor look, and obeys it.
    pub(super) fn govern(&mut self, now: Monotonic) -> anyhow::Result<()> {
        let Some(governing) = &mut self.governing else {
            return Ok(());
        };
        let moved = governing.governor.look(governing.spent_ns, now);
        let governance = governing.governor.state();
        let Some(threshold) = moved else {
            self.lookback.govern(governance, None);
            return Ok(());
        };
        let before = clock::now();
        for instance in &mut self.instances {
            instance.tables.set_sample_threshold(threshold)?;
        }
        let moved_ns = (before.0, clock::now().0);
        self.lookback.govern(governance, Some(moved_ns));
        tracing::debug!(threshold, "looking back samples other flows");
        Ok(())
    }

    /// Notes what makes looking back cover less: records that found the ring full, or half full.
    pub(super) fn mind_lost_records(&mut self) -> anyhow::Result<()> {
        let mut lost = 0;
        for instance in &self.instances {
            let counters = instance.tables.counters()?;
            lost += counters[Counter::DroppedRingFull as usize];
            lost += counters[Counter::RecordsWithheld as usize];
        }
        let now = clock::now();
        let before = std::mem::replace(&mut self.records_lost, (lost, now));
        if lost > before.0 {
            self.lookback.lose(lost - before.0, before.1, now);
        }
        Ok(())
    }

    /// Does what is asked of the loop.
    pub(super) fn answer(&mut self, request: Request) -> anyhow::Result<()> {
        let Request::SetRecording { mut filters, reply } = request;
        filters.extend_from_slice(self.lookback.filters());
        let before = self.lookback.next();
        let mut result = Ok(());
        for instance in &mut self.instances {
            if let Err(error) = instance.tables.set_filters(&filters) {
                result = Err(format!("namespace {}: {error:#}", instance.namespace));
                break;
            }
        }
        // All of them at once: a grace period takes some milliseconds.
        await_programs();
        let at = clock::now();
        for instance in &mut self.instances {
            instance.tables.forget_filters()?;
        }
        // What filters that are gone recorded is on its way before the asker knows that they are;
        // and so is what came before those that have come.
        for number in 0..self.instances.len() {
            self.drain(number)?;
        }
        self.mind_lost_records()?;
        let seam = Seam {
            before,
            after: self.lookback.next(),
            at_ns: at.0,
        };
        // Fails only where the asker has gone.
        let _ = reply.send(result.map(|()| seam));
        Ok(())
    }
}
