//! The tables of the watch rule in plain memory, and segments to feed them with.
#![allow(dead_code, reason = "each test uses its own part")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use phalanx_common::abi::{COUNTER_COUNT, Counter, FlowKey, FlowUpdate, Sample, SampleKind};
use phalanx_common::limits::PENDING_COUNT;
use phalanx_common::packet::{Headers, LinkKind, Unparsed, parse};
use phalanx_common::watch::{
    self, AttemptState, FlowEntry, Pending, Sighting, Tables, write_key, write_update,
};
use zerocopy::FromZeros as _;

/// Tables as large as the kernel's. Entries are leaked: a test is short.
pub(crate) struct Ground {
    pub(crate) flows: RefCell<BTreeMap<FlowKey, &'static FlowEntry>>,
    pending: Vec<Pending>,
    pub(crate) counters: Vec<Cell<u64>>,
    pub(crate) updates: RefCell<Vec<FlowUpdate>>,
    /// Updates that were asked for: they took the samples along.
    asked: RefCell<Vec<FlowUpdate>>,
    pub(crate) attempts: RefCell<Vec<(FlowKey, AttemptState)>>,
    pub(crate) flow_count_max: usize,
    pub(crate) interval_ns: u64,
}

impl Ground {
    pub(crate) fn new() -> Self {
        Self {
            flows: RefCell::default(),
            pending: (0..PENDING_COUNT).map(|_| Pending::default()).collect(),
            counters: vec![Cell::new(0); COUNTER_COUNT],
            updates: RefCell::default(),
            asked: RefCell::default(),
            attempts: RefCell::default(),
            flow_count_max: 131_072,
            interval_ns: u64::MAX,
        }
    }

    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].get()
    }

    /// Runs a frame through the rule, as the programs do.
    pub(crate) fn see(&self, frame: &[u8], kind: LinkKind, ifindex: u32, now_ns: u64) {
        self.count(Counter::Seen, 1);
        match parse(frame, kind, frame.len() as u32) {
            Ok(headers) => self.see_headers(frame, &headers, ifindex, now_ns),
            Err(reason) => self.count_unparsed(reason),
        }
    }

    fn count_unparsed(&self, reason: Unparsed) {
        let cell = &self.counters[Counter::UnparsedFirst as usize + reason as usize];
        cell.set(cell.get() + 1);
    }

    fn see_headers(&self, frame: &[u8], headers: &Headers, ifindex: u32, now_ns: u64) {
        self.count(Counter::Parsed, 1);
        let mut key = FlowKey::default();
        let direction = write_key(headers, ifindex, &mut key);
        if phalanx_common::packet::is_error(headers) {
            self.count(Counter::IcmpErrors, 1);
            let Ok(quote) = phalanx_common::packet::parse_quote(frame, headers) else {
                return;
            };
            let mut quoted = FlowKey::default();
            if watch::watch_icmp_error(self, headers, &quote, ifindex, now_ns, &mut quoted) {
                self.count(Counter::IcmpErrorsMatched, 1);
            }
            return;
        }
        let sighting = Sighting {
            headers,
            key: &key,
            direction,
            now_ns,
            segments: 1,
            segment_size: 0,
            bytes: frame,
        };
        watch::watch(self, &sighting);
    }

    /// What the only flow has counted, and its samples so far.
    pub(crate) fn only_flow(&self) -> FlowUpdate {
        let flows = self.flows.borrow();
        assert_eq!(flows.len(), 1, "one flow is open");
        let (key, entry) = flows.iter().next().expect("one flow is open");
        let mut update = FlowUpdate::new_zeroed();
        write_update(&mut update, key, entry, 0, 0);
        self.asked.borrow_mut().push(update);
        update
    }

    /// All samples of updates sent and of the only flow, in their order.
    pub(crate) fn samples(&self) -> Vec<(SampleKind, u32)> {
        self.only_flow();
        let updates = self.updates.borrow();
        let asked = self.asked.borrow();
        updates
            .iter()
            .chain(asked.iter())
            .flat_map(|update| update.samples)
            .filter(|word| *word != 0)
            .map(|word| {
                (
                    Sample(word).kind().expect("a known kind"),
                    Sample(word).microseconds(),
                )
            })
            .collect()
    }
}

impl Tables for Ground {
    fn flow(&self, key: &FlowKey) -> Option<&FlowEntry> {
        self.flows.borrow().get(key).copied()
    }

    fn open(&self, key: &FlowKey, now_ns: u64) -> Option<&FlowEntry> {
        let mut flows = self.flows.borrow_mut();
        if let Some(entry) = flows.get(key) {
            return Some(entry);
        }
        if flows.len() == self.flow_count_max {
            return None;
        }
        let entry: &'static FlowEntry = Box::leak(Box::default());
        entry.begin(now_ns);
        flows.insert(*key, entry);
        self.count(Counter::FlowsOpened, 1);
        Some(entry)
    }

    fn remove(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn pending(&self, index: u32) -> Option<&Pending> {
        self.pending.get(index as usize)
    }

    fn seed(&self) -> u64 {
        0
    }

    fn count(&self, counter: Counter, amount: u32) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + u64::from(amount));
    }

    fn update_interval_ns(&self) -> u64 {
        self.interval_ns
    }

    fn send_update(&self, key: &FlowKey, entry: &FlowEntry, reason: u32, now_ns: u64) {
        let mut update = FlowUpdate::new_zeroed();
        write_update(&mut update, key, entry, reason, now_ns);
        self.updates.borrow_mut().push(update);
        self.count(Counter::EventsDelivered, 1);
    }

    fn send_attempt(&self, key: &FlowKey, attempt: &AttemptState) {
        self.attempts.borrow_mut().push((*key, *attempt));
        self.count(Counter::EventsDelivered, 1);
    }
}
