//! The tables of the watch rule in plain memory, and segments to feed them with.
#![allow(dead_code, reason = "each test uses its own part")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use phalanx_common::abi::{COUNTER_COUNT, Counter, FlowKey, FlowUpdate, ReadSample, SampleKind};
use phalanx_common::limits::BUCKET_COUNT;
use phalanx_common::packet::{Headers, LinkKind, Unparsed, parse, read_options};
use phalanx_common::watch::{
    self, AttemptState, Bucket, FlowEntry, PromotionLimit, Sighting, Tables, write_key,
};
use phalanx_common::word::Word64;

/// Tables as large as the kernel's. Entries are leaked: a test is short.
pub(crate) struct Ground {
    pub(crate) flows: RefCell<BTreeMap<FlowKey, &'static FlowEntry>>,
    buckets: Vec<Bucket>,
    pub(crate) counters: Vec<Cell<u64>>,
    pub(crate) updates: RefCell<Vec<FlowUpdate>>,
    pub(crate) attempts: RefCell<Vec<(FlowKey, AttemptState)>>,
    pub(crate) flow_count_max: usize,
    pub(crate) interval_ns: u64,
    /// Reasons for an update that another CPU has while the next one is sent.
    pub(crate) meanwhile: Cell<u32>,
    pub(crate) promotion_limit: PromotionLimit,
    promotions: Word64,
}

impl Ground {
    pub(crate) fn new() -> Self {
        Self {
            flows: RefCell::default(),
            buckets: (0..BUCKET_COUNT).map(|_| Bucket::default()).collect(),
            counters: vec![Cell::new(0); COUNTER_COUNT],
            updates: RefCell::default(),
            attempts: RefCell::default(),
            flow_count_max: 131_072,
            interval_ns: u64::MAX,
            meanwhile: Cell::new(0),
            promotion_limit: PromotionLimit::default(),
            promotions: Word64::default(),
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
        let mut headers = *headers;
        read_options(frame, &mut headers);
        let sighting = Sighting {
            headers,
            key,
            direction: direction.into(),
            now_ns,
            segments: 1,
            segment_size: 0,
        };
        watch::watch(self, &sighting);
    }

    /// What the only flow has counted, and its samples so far.
    pub(crate) fn only_flow(&self) -> FlowUpdate {
        let flows = self.flows.borrow();
        assert_eq!(flows.len(), 1, "one flow is open");
        let entry = flows.values().next().expect("one flow is open");
        entry.update()
    }

    /// All samples of updates sent and of the only flow, in their order.
    pub(crate) fn samples(&self) -> Vec<(SampleKind, u32)> {
        let (mut samples, mut read_count) = (Vec::new(), 0);
        let last = self.only_flow();
        for update in self.updates.borrow().iter().chain([&last]) {
            update.read_samples(&mut read_count, |read| match read {
                ReadSample::Sample(sample) => samples.push((sample.kind, sample.microseconds)),
                ReadSample::Lost(count) => panic!("{count} samples were lost"),
            });
        }
        samples
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
        let entry: &'static mut FlowEntry = Box::leak(Box::default());
        entry.begin(key, now_ns);
        let entry: &'static FlowEntry = entry;
        flows.insert(*key, entry);
        self.count(Counter::FlowsOpened, 1);
        Some(entry)
    }

    fn remove(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.buckets.get(index as usize)
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

    fn send_update(&self, entry: &FlowEntry) {
        self.updates.borrow_mut().push(entry.update());
        entry.waiting.or(self.meanwhile.take());
        self.count(Counter::EventsDelivered, 1);
    }

    fn send_attempt(&self, key: &FlowKey, attempt: &AttemptState) {
        self.attempts.borrow_mut().push((*key, *attempt));
        self.count(Counter::EventsDelivered, 1);
    }

    fn promotion_limit(&self) -> PromotionLimit {
        self.promotion_limit
    }

    fn promotions(&self) -> Option<&Word64> {
        Some(&self.promotions)
    }
}
