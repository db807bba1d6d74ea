//! What is noted of one side's packets, whatever they mean: counts, options, TTL, silence.

use phalanx_common::packet::TcpFlags;

use crate::record::PacketRecord;
use crate::segment::{Class, Sent};
use crate::story::{SideCounts, SideStory};

#[derive(Clone, Debug, Default)]
pub(crate) struct SideFacts {
    pub(crate) counts: SideCounts,
    pub(crate) has_syn: bool,
    pub(crate) mss: u16,
    pub(crate) window_scale: Option<u8>,
    sack_permitted: bool,
    has_timestamps: bool,
    pub(crate) window_min: Option<u32>,
    pub(crate) window_max: u32,
    pub(crate) ttl_min: u8,
    pub(crate) ttl_max: u8,
    /// TTL of the latest packet.
    pub(crate) ttl_last: u8,
    /// `TSval` of the latest packet that has one, RSTs aside.
    pub(crate) timestamp_last: Option<u32>,
    pub(crate) icmp_mtu: u32,
    silence_max_ns: i64,
    last_ns: Option<i64>,
    data_first_ns: Option<i64>,
    data_last_ns: Option<i64>,
}

impl SideFacts {
    /// Notes a packet that is no copy.
    pub(crate) fn take(&mut self, record: &PacketRecord<'_>, sent: &Sent) {
        self.pass(record);
        let flags = record.flags();
        let headers = record.headers;
        let counts = &mut self.counts;
        counts.syns += u64::from(flags.any(TcpFlags::SYN));
        counts.fins += u64::from(flags.any(TcpFlags::FIN));
        counts.resets += u64::from(flags.any(TcpFlags::RST));
        counts.unique_bytes += sent.new.min(u64::from(headers.payload_length));
        let options = record.options;
        self.has_timestamps |= options.has_timestamps;
        if options.has_timestamps && !flags.any(TcpFlags::RST) {
            self.timestamp_last = Some(options.timestamp_value);
        }
        if flags.any(TcpFlags::SYN) {
            self.has_syn = true;
            self.mss = options.mss;
            self.window_scale = options.window_scale_plus_one.checked_sub(1);
            self.sack_permitted = options.sack_permitted;
        }
    }

    /// Notes a packet of any protocol.
    pub(crate) fn pass(&mut self, record: &PacketRecord<'_>) {
        let headers = record.headers;
        let counts = &mut self.counts;
        counts.packets += 1;
        counts.bytes += u64::from(headers.ip_length);
        counts.ecn_marked_packets += u64::from(headers.traffic_class & 3 == 3);
        counts.fragmented_packets += u64::from(record.came_in_fragments());
        if headers.payload_length > 0 {
            counts.data_packets += 1;
            counts.payload_bytes += u64::from(headers.payload_length);
            let captured = record.payload().len() as u64;
            counts.cut_packets += u64::from(captured < u64::from(headers.payload_length));
            self.data_first_ns.get_or_insert(record.time_ns);
            self.data_last_ns = Some(record.time_ns);
        }
        if counts.packets == 1 {
            self.ttl_min = headers.ttl;
        }
        self.ttl_min = self.ttl_min.min(headers.ttl);
        self.ttl_max = self.ttl_max.max(headers.ttl);
        self.ttl_last = headers.ttl;
        if let Some(last_ns) = self.last_ns {
            let silence_ns = record.time_ns.saturating_sub(last_ns);
            self.silence_max_ns = self.silence_max_ns.max(silence_ns);
        }
        self.last_ns = Some(record.time_ns);
    }

    /// Notes a copy of a packet.
    pub(crate) fn count_copy(&mut self, class: Class) {
        match class {
            Class::CaptureDuplicate => self.counts.capture_duplicates += 1,
            _ => self.counts.network_duplicates += 1,
        }
    }

    /// Notes an ICMP error that quotes this side; `mtu` is 0 where it tells none.
    pub(crate) fn icmp_error(&mut self, mtu: u32) {
        self.counts.icmp_errors += 1;
        if mtu != 0 && (self.icmp_mtu == 0 || mtu < self.icmp_mtu) {
            self.icmp_mtu = mtu;
        }
    }

    /// Whether the other side has sent data since this one's latest packet.
    pub(crate) fn is_answered_by(&self, other: &Self) -> bool {
        other
            .data_last_ns
            .is_some_and(|data_ns| self.last_ns.is_none_or(|own_ns| data_ns >= own_ns))
    }

    /// Writes what was noted.
    pub(crate) fn tell(&self, story: &mut SideStory) {
        story.counts = self.counts;
        story.mss = self.mss;
        story.window_scale = self.window_scale;
        story.sack_permitted = self.sack_permitted;
        story.has_timestamps = self.has_timestamps;
        story.window_min = self.window_min;
        story.window_max = self.window_max;
        story.ttl_min = self.ttl_min;
        story.ttl_max = self.ttl_max;
        story.icmp_mtu = self.icmp_mtu;
        story.silence_max_ns = self.silence_max_ns;
        story.data_first_ns = self.data_first_ns;
        story.data_last_ns = self.data_last_ns;
    }
}
