//! Values in words: times, sizes, shares and ends, as all reports spell them.

use phalanx_common::packet::{TcpFlags, protocol};
use phalanx_engine::application::{Alert, QuicVersion, Rcode, RecordType, TlsVersion};
use phalanx_engine::budget::{Bucket, TimeBudget};
use phalanx_engine::stitch::Ladder;
use phalanx_engine::story::{FlowStory, SideCounts};
use phalanx_engine::{Endpoint, RoleBasis, Side};

use super::limits::WORDS_LENGTH_MAX;

/// Nanoseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
pub(super) fn milliseconds(ns: i64) -> f64 {
    ns as f64 / 1e6
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
pub(super) fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

/// One count as a share of another, absent where that is 0.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of packets lie below 2⁵³"
)]
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Nanoseconds since the epoch as RFC 3339 in UTC with all nine digits.
pub(crate) fn instant(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| ns.to_string(), |time| format!("{time:.9}"))
}

/// A time in which nothing was recorded.
pub(crate) fn gap((from_ns, until_ns): (i64, i64)) -> String {
    let (from, until) = (instant(from_ns), instant(until_ns));
    format!("nothing was recorded from {from} to {until}")
}

/// When the first packet of a ladder was seen, by the reference's clock.
pub(super) fn ladder_start_ns(ladder: &Ladder) -> i64 {
    let first = ladder.rungs.first().and_then(|it| it.crossings.first());
    first.map_or(0, |it| it.reference_ns)
}

/// A time with three digits that count and its unit.
pub(super) fn duration(ns: i64) -> String {
    let magnitude = ns.unsigned_abs();
    match magnitude {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => three_digits(milliseconds(ns) * 1e3, "µs"),
        1_000_000..1_000_000_000 => three_digits(milliseconds(ns), "ms"),
        1_000_000_000..120_000_000_000 => three_digits(seconds(ns), "s"),
        _ => clock(ns),
    }
}

/// Longer times, as hours, minutes and seconds.
fn clock(ns: i64) -> String {
    let total = ns.unsigned_abs() / 1_000_000_000;
    let (hours, minutes, rest) = (total / 3_600, total / 60 % 60, total % 60);
    match hours {
        0 => format!("{minutes} min {rest:02} s"),
        1..48 => format!("{hours} h {minutes:02} min"),
        _ => format!("{} d {:02} h", thousands(hours / 24), hours % 24),
    }
}

fn three_digits(value: f64, unit: &str) -> String {
    match value.abs() {
        magnitude if magnitude < 9.995 => format!("{value:.2} {unit}"),
        magnitude if magnitude < 99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// Bytes with a unit of powers of 1024.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = ratio(bytes, 1).unwrap_or_default();
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A count with its noun; `many` is the noun of all counts but 1.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{} {many}", thousands(number)),
    }
}

/// A number with its thousands set apart.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "0 %".to_owned(),
        _ if percent < 0.1 => "<0.1 %".to_owned(),
        _ if percent < 9.95 => format!("{percent:.1} %"),
        _ => format!("{percent:.0} %"),
    }
}

/// An end as URLs spell it; without a port where the protocol has none.
pub(super) fn endpoint(endpoint: Option<&Endpoint>) -> String {
    match endpoint {
        None => "?".to_owned(),
        Some(end) if end.port == 0 => end.address.to_string(),
        Some(end) if end.address.is_ipv6() => format!("[{}]:{}", end.address, end.port),
        Some(end) => format!("{}:{}", end.address, end.port),
    }
}

pub(super) const fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

/// The way of one side's packets.
pub(crate) const fn direction(side: Side) -> &'static str {
    match side {
        Side::Client => "client_to_server",
        Side::Server => "server_to_client",
    }
}

/// The flags that are set, by their names.
pub(crate) fn flags(flags: TcpFlags, separator: &str) -> String {
    let names = [
        (TcpFlags::SYN, "SYN"),
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::RST, "RST"),
        (TcpFlags::PSH, "PSH"),
        (TcpFlags::ACK, "ACK"),
        (TcpFlags::URG, "URG"),
        (TcpFlags::ECE, "ECE"),
        (TcpFlags::CWR, "CWR"),
    ];
    let set = names.iter().filter(|(bit, _)| flags.any(*bit));
    set.map(|(_, name)| *name)
        .collect::<Vec<_>>()
        .join(separator)
}

pub(super) const fn role_basis(basis: RoleBasis) -> &'static str {
    match basis {
        RoleBasis::Opener => "opener",
        RoleBasis::Listener => "listener",
        RoleBasis::Port => "port",
        RoleBasis::FirstPayload => "first_payload",
        RoleBasis::Order => "order",
    }
}

/// What an alert of TLS says.
pub(super) fn alert(alert: &Alert) -> String {
    let name = alert.name().map(|name| name.replace('_', " "));
    name.unwrap_or_else(|| format!("alert {}", alert.description))
}

/// A response code of DNS.
pub(super) fn rcode(rcode: Rcode) -> String {
    let name = rcode.name().map(str::to_owned);
    name.unwrap_or_else(|| format!("RCODE{}", rcode.0))
}

/// A record type of DNS, as RFC 3597 spells unknown ones.
pub(super) fn record_type(record_type: RecordType) -> String {
    let name = record_type.name().map(str::to_owned);
    name.unwrap_or_else(|| format!("TYPE{}", record_type.0))
}

/// A version of TLS.
pub(super) fn tls_version(version: TlsVersion) -> String {
    let name = version.name().map(str::to_owned);
    name.unwrap_or_else(|| format!("{:#06x}", version.0))
}

/// A version of QUIC.
pub(super) fn quic_version(version: QuicVersion) -> String {
    match (version.name(), version.draft()) {
        (Some(name), _) => name.to_owned(),
        (None, Some(draft)) => format!("QUIC draft {draft}"),
        (None, None) => format!("{:#010x}", version.0),
    }
}

/// A bucket in words.
pub(super) const fn bucket(bucket: Bucket) -> &'static str {
    match bucket {
        Bucket::Handshake => "handshake",
        Bucket::ClientIdle => "client idle",
        Bucket::ServerThink => "server think",
        Bucket::ReceiverWindow => "receiver window",
        Bucket::ZeroWindow => "zero window",
        Bucket::FastRecovery => "fast recovery",
        Bucket::TimeoutRecovery => "timeout recovery",
        Bucket::SenderLimited => "sender limited",
        Bucket::Path => "path",
        Bucket::Close => "close",
        Bucket::Unknown => "unknown",
    }
}

/// The bucket that holds most of the time, with its share; absent where no time passed.
pub(super) fn largest(budget: &TimeBudget) -> Option<(Bucket, f64)> {
    let total = budget.total_ns();
    let (bucket, spent) = budget.iter().max_by_key(|(bucket, spent)| {
        // Of equals the first one.
        (*spent, std::cmp::Reverse(*bucket))
    })?;
    (total > 0).then(|| (bucket, seconds(spent) / seconds(total)))
}

/// Segments of one side that were sent more than once, seen before or not, as a share of those
/// that can be: data, SYN, FIN. Only TCP's.
pub(super) fn retransmitted(story: &FlowStory, side: Side) -> Option<f64> {
    let (again, sent) = retransmissions(&story.sides.get(side).counts);
    ratio(again, sent).filter(|_| story.protocol == protocol::TCP)
}

/// How many segments were sent again, of how many.
pub(super) fn retransmissions(counts: &SideCounts) -> (u64, u64) {
    let again = counts.retransmitted_packets + counts.holes_filled;
    let sent = counts.data_packets + counts.syns + counts.fins;
    (again, sent.max(again))
}

/// The worse side's.
pub(super) fn retransmitted_most(story: &FlowStory) -> Option<f64> {
    let shares = [Side::Client, Side::Server].map(|side| retransmitted(story, side));
    shares.into_iter().flatten().reduce(f64::max)
}

/// Words of others in one short line, without what would move the cursor or turn the text around.
pub(super) fn foreign(text: &str) -> String {
    let separator = |letter| matches!(letter, '\u{2028}' | '\u{2029}' | '\u{61c}');
    let mut words = crate::plain::plain(text).replace(separator, "\u{fffd}");
    if let Some((end, _)) = words.char_indices().nth(WORDS_LENGTH_MAX) {
        words.truncate(end);
        words.push('…');
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_that_count() {
        let cases = [
            (0, "0 s"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (12_345_678, "12.3 ms"),
            (999_960_000, "1000 ms"),
            (1_500_000_000, "1.50 s"),
            (125_000_000_000, "2 min 05 s"),
            (7_260_000_000_000, "2 h 01 min"),
            (i64::MAX, "106,751 d 23 h"),
        ];
        for (ns, words) in cases {
            assert_eq!(duration(ns), words);
        }
    }

    #[test]
    fn sizes_numbers_and_shares_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!(percent(0.0004), "<0.1 %");
        assert_eq!(percent(0.0123), "1.2 %");
        assert_eq!(count(1, "packet", "packets"), "1 packet");
    }

    #[test]
    fn instants_before_the_epoch_and_far_away_are_told() {
        assert_eq!(instant(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(instant(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(instant(i64::MAX), "2262-04-11T23:47:16.854775807Z");
    }

    #[test]
    fn words_of_others_are_short_and_in_one_line() {
        let words = foreign(&format!("a\u{1b}[2J\u{202e}\n{}", "x".repeat(500)));
        assert!(words.starts_with("a\u{fffd}[2J\u{fffd}\u{fffd}x"));
        assert_eq!(words.chars().count(), WORDS_LENGTH_MAX + 1);
    }
}
