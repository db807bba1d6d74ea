//! One exchange that is not TCP's: UDP, ICMP and all others. Sizes, gaps and turns.

use super::copy::Recent;
use super::grown::Grown;
use super::sides::SideFacts;
use super::tcp::{application, blank};
use crate::application::Application;
use crate::distribution::Distribution;
use crate::record::PacketRecord;
use crate::segment::Segment;
use crate::side::{Side, Sides};
use crate::story::{FlowStory, TurnStory};

pub(crate) struct DatagramTrace {
    application: Application,
    facts: Sides<SideFacts>,
    recent: Sides<Recent>,
    segment_max: Sides<u32>,
    gaps: Distribution,
    last_ns: i64,
    last: Option<(Side, i64)>,
    turns: TurnStory,
    grown: Grown,
}

impl DatagramTrace {
    /// `side` is the first packet's sender.
    pub(crate) fn new(record: &PacketRecord<'_>, side: Side) -> Self {
        Self {
            application: application(record, side),
            facts: Sides::default(),
            recent: Sides::default(),
            segment_max: Sides::default(),
            gaps: Distribution::default(),
            last_ns: record.time_ns,
            last: None,
            turns: TurnStory::default(),
            grown: Grown::default(),
        }
    }

    /// What it has grown to, as last counted.
    pub(crate) const fn grown(&mut self) -> &mut Grown {
        &mut self.grown
    }

    /// Counts what it has grown to.
    pub(crate) fn grown_bytes(&self) -> usize {
        let times = [&self.gaps, &self.turns.think, &self.turns.idle];
        let times: usize = times.into_iter().map(Distribution::capacity).sum();
        times + self.application.held_bytes()
    }

    /// Gives back what it can, where memory is scarce; gives how much was not kept of its payload.
    pub(crate) fn spare(&mut self) -> u32 {
        self.application.spare();
        self.application.take_unkept_count()
    }

    /// Bytes that it takes, tables counted.
    pub(crate) fn size(&self) -> usize {
        let of = |side| self.recent.get(side).capacity();
        let times = [&self.gaps, &self.turns.think, &self.turns.idle];
        let times: usize = times.into_iter().map(Distribution::capacity).sum();
        let boxed = self.application.size() - size_of::<Application>();
        size_of::<Self>() + of(Side::Client) + of(Side::Server) + times + boxed
    }

    pub(crate) fn icmp_error(&mut self, side: Side, mtu: u32) {
        self.facts.get_mut(side).icmp_error(mtu);
    }

    /// Takes a packet in. `is_scarce` asks for less memory.
    pub(crate) fn take(
        &mut self,
        record: &PacketRecord<'_>,
        side: Side,
        is_scarce: bool,
    ) -> Segment {
        let mut segment = blank(record, side);
        if let Some(class) = self.recent.get(side).find(record, false, i64::MAX) {
            self.facts.get_mut(side).count_copy(class);
            segment.class = Some(class);
            segment.why = "same IP id and content as a packet just before";
            return segment;
        }
        self.recent.get_mut(side).add(record);
        let is_first = self.facts.client.counts.packets + self.facts.server.counts.packets == 0;
        if !is_first {
            let gap_ns = record.time_ns.saturating_sub(self.last_ns).max(0);
            self.gaps.add(gap_ns);
        }
        self.last_ns = self.last_ns.max(record.time_ns);
        let facts = self.facts.get_mut(side);
        facts.pass(record);
        facts.counts.unique_bytes += u64::from(record.headers.payload_length);
        let largest = self.segment_max.get_mut(side);
        *largest = (*largest).max(record.headers.payload_length);
        if record.headers.payload_length > 0 {
            self.turn(side, record.time_ns);
            let length = record.headers.payload_length;
            let (payload, time_ns) = (record.payload(), record.time_ns);
            self.application.keep_least(is_scarce);
            self.application
                .datagram(side, payload, length, time_ns, record.number);
        }
        segment
    }

    /// Without acknowledgements the path cannot be told from the answerer's own time.
    fn turn(&mut self, side: Side, time_ns: i64) {
        if let Some((last, last_ns)) = self.last
            && last != side
        {
            let since_ns = time_ns.saturating_sub(last_ns).max(0);
            match side {
                Side::Server => {
                    self.turns.count += 1;
                    self.turns.think.add(since_ns);
                }
                Side::Client => self.turns.idle.add(since_ns),
            }
        }
        self.last = Some((side, time_ns));
    }

    pub(crate) fn finish(mut self, story: &mut FlowStory) {
        self.turns.is_last_unanswered = matches!(self.last, Some((Side::Client, _)));
        story.turns = self.turns;
        story.application = self.application.finish();
        story.gaps = Some(self.gaps);
        for side in [Side::Client, Side::Server] {
            let told = story.sides.get_mut(side);
            self.facts.get(side).tell(told);
            told.segment_max = *self.segment_max.get(side);
        }
    }
}
