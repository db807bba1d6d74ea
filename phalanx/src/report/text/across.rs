//! What several hops tell of one conversation, in words: its path, what was rewritten on it, its
//! legs, and the clocks of the hops.

use phalanx_engine::stitch::{ClockReading, LegStory, LegWay, ProxyBasis, Rewrite, RewriteField};
use phalanx_engine::{Endpoint, Side};

use super::short;
use crate::report::word;
use crate::report::{Across, ClockReport, HopReport, Proxied};

/// Longest name of a hop in a table or over a ladder, in characters.
const NAME_WIDTH_MAX: usize = 24;

/// The hops of a report by their names.
#[derive(Clone, Copy)]
pub(super) struct Names<'a>(pub(super) &'a [HopReport]);

impl Names<'_> {
    fn get(self, hop: u32) -> String {
        let found = self.0.get(hop as usize);
        found.map_or_else(|| "?".to_owned(), |it| word::foreign(&it.id))
    }

    fn path(self, hops: &[u32]) -> String {
        let names: Vec<String> = hops.iter().map(|hop| self.get(*hop)).collect();
        names.join(" → ")
    }
}

/// The way there and back.
pub(super) fn path(across: &Across, names: Names<'_>) -> Vec<String> {
    let (there, back) = (&across.joined.path, &across.joined.return_path);
    if there.len().max(back.len()) < 2 {
        return Vec::new();
    }
    let mut lines = match (there.is_empty(), back.is_empty()) {
        (false, false) if there.iter().eq(back.iter().rev()) => {
            vec![format!("{}, and back", names.path(there))]
        }
        (is_there_unseen, is_back_unseen) => {
            let told = |is_unseen: bool, hops: &[u32], what: &str| {
                (!is_unseen).then(|| format!("{what}: {}", names.path(hops)))
            };
            let there = told(is_there_unseen, there, "to the server");
            let back = told(is_back_unseen, back, "to the client");
            there.into_iter().chain(back).collect()
        }
    };
    for (side, what) in [
        (Side::Client, "to the server"),
        (Side::Server, "to the client"),
    ] {
        let of_side = || across.joined.paths.iter().filter(|it| it.side == side);
        let total: u64 = of_side().map(|it| it.packets).sum();
        if of_side().count() < 2 {
            continue;
        }
        for path in of_side() {
            let share = word::ratio(path.packets, total).map_or_else(String::new, word::percent);
            let packets = word::count(path.packets, "packet", "packets");
            let hops = names.path(&path.hops);
            lines.push(format!("{share} {what} ({packets}) over {hops}"));
        }
    }
    let alignment = across.joined.alignment;
    if alignment.aligned < alignment.packets {
        let untold = word::thousands(alignment.packets - alignment.aligned);
        let all = word::thousands(alignment.packets);
        lines.push(format!(
            "the way of {untold} of {all} packets is not wholly known"
        ));
    }
    lines
}

/// Where the same exchange goes on beyond a proxy.
pub(super) fn proxied(across: &Across) -> Vec<String> {
    let sides = [Side::Client, Side::Server].into_iter();
    let told = sides.filter_map(|side| across.proxied.get(side).as_ref().map(|it| (side, it)));
    told.map(|(side, it)| proxied_at(side, it)).collect()
}

fn proxied_at(side: Side, proxied: &Proxied) -> String {
    let way = word::side(side);
    let id = word::foreign(&proxied.id);
    match proxied.basis {
        ProxyBasis::Content { chunks: both } => {
            let chunks = |count: u32| word::count(u64::from(count), "chunk", "chunks");
            let [client, server] = both.map(chunks);
            format!(
                "towards the {way}, {id} carries the same content: {client} from the client, \
                 {server} from the server"
            )
        }
        ProxyBasis::Timing {
            exchanges,
            confidence,
        } => {
            let exchanges = word::count(u64::from(exchanges), "exchange", "exchanges");
            format!(
                "towards the {way}, {id} may be the same (hypothesis by times alone: {exchanges} \
                 within each other, confidence {confidence:.2})"
            )
        }
    }
}

/// What middleboxes rewrote.
pub(super) fn rewrites(across: &Across, names: Names<'_>) -> Vec<String> {
    let rewrites = across.joined.rewrites.iter();
    rewrites.map(|it| rewrite(it, across, names)).collect()
}

fn rewrite(rewrite: &Rewrite, across: &Across, names: Names<'_>) -> String {
    let ends = |hop: u32, side: Side| {
        let flow = across.flows.iter().find(|it| it.hop == hop)?;
        Some(*flow.ends.get(side))
    };
    let mut parts = Vec::new();
    let of_ends = [
        (
            Side::Client,
            [RewriteField::ClientAddress, RewriteField::ClientPort],
        ),
        (
            Side::Server,
            [RewriteField::ServerAddress, RewriteField::ServerPort],
        ),
    ];
    for (side, fields) in of_ends {
        if rewrite.fields.iter().any(|it| fields.contains(it)) {
            let [from, to] = [rewrite.from, rewrite.to].map(|hop| ends(hop, side));
            let text = |end: Option<Endpoint>| word::endpoint(end.as_ref());
            let name = word::side(side);
            parts.push(format!("the {name} {} becomes {}", text(from), text(to)));
        }
    }
    if let Some(host) = across.confirming_host(rewrite) {
        let host = word::foreign(host);
        parts.push(format!("connection tracking of {host} confirms that"));
    }
    let others: Vec<String> = rewrite
        .fields
        .iter()
        .filter(|it| !of_ends.iter().any(|(_, fields)| fields.contains(it)))
        .map(|it| option_name(*it).to_owned())
        .collect();
    match others.len() {
        0 => {}
        1 => parts.push(format!("{} is rewritten", others[0])),
        _ => parts.push(format!("{} are rewritten", others.join(", "))),
    }
    let (from, to) = (names.get(rewrite.from), names.get(rewrite.to));
    format!("between {from} and {to}: {}", parts.join("; "))
}

const fn option_name(field: RewriteField) -> &'static str {
    match field {
        RewriteField::Mss => "the MSS",
        RewriteField::WindowScale => "the window scale",
        RewriteField::SackPermitted => "the SACK option",
        RewriteField::Timestamps => "the timestamps option",
        RewriteField::Sequence => "the numbers of the bytes",
        RewriteField::ClientAddress
        | RewriteField::ClientPort
        | RewriteField::ServerAddress
        | RewriteField::ServerPort => "an address",
    }
}

/// The columns of the legs; what is nowhere is left out but for the first ones.
const HEADINGS: [&str; COLUMN_COUNT] = [
    "LEG",
    "ROUND TRIP",
    "P95",
    "",
    "ONE WAY",
    "LOST",
    "HERE OR BESIDE",
    "OVERTAKEN",
    "COPIED",
    "NOT CAPTURED",
    "UNKNOWN",
];
const COLUMN_COUNT: usize = 11;
const OPTIONAL_COLUMN: usize = 6;

type Row = [String; COLUMN_COUNT];

/// The legs as a table, or in sentences where it would be too wide.
pub(super) fn legs(across: &Across, names: Names<'_>, width: usize) -> Vec<String> {
    if across.joined.legs.is_empty() {
        return Vec::new();
    }
    let mut rows: Vec<Row> = vec![HEADINGS.map(str::to_owned)];
    for leg in &across.joined.legs {
        rows.extend(leg_rows(leg, names));
    }
    let is_told = |column: &usize| {
        let mut cells = rows.iter().skip(1).map(|row| row[*column].as_str());
        *column < OPTIONAL_COLUMN || cells.any(|it| !matches!(it, "0" | "-"))
    };
    let columns: Vec<usize> = (0..COLUMN_COUNT).filter(is_told).collect();
    let width_of = |column: &usize| {
        let lengths = rows.iter().map(|row| row[*column].chars().count());
        lengths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.iter().map(width_of).collect();
    let total = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    if total > width {
        return across
            .joined
            .legs
            .iter()
            .map(|leg| sentence(leg, names))
            .collect();
    }
    let line = |row: &Row| {
        let cells = columns.iter().zip(&widths).map(|(column, width)| {
            let cell = &row[*column];
            let padding = " ".repeat(width - cell.chars().count());
            match column {
                0 => format!("{cell}{padding}"),
                _ => format!("{padding}{cell}"),
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A row for each direction; the second has nothing of the leg itself.
fn leg_rows(leg: &LegStory, names: Names<'_>) -> Vec<Row> {
    let [from, to] = [leg.from, leg.to].map(|it| short(&names.get(it), NAME_WIDTH_MAX));
    let quantile = |percent| leg.rtt.quantile_ns(percent);
    let time = |ns: Option<i64>| ns.map_or_else(|| "-".to_owned(), word::duration);
    let mut head = [
        format!("{from} – {to}"),
        time(quantile(50)),
        time(quantile(95)),
    ];
    let mut rows = Vec::new();
    for (arrow, way) in [("→", &leg.forward), ("←", &leg.reverse)] {
        let Some(way) = way else { continue };
        let [name, median, most] = std::mem::take(&mut head);
        rows.push([
            name,
            median,
            most,
            arrow.to_owned(),
            one_way(way).unwrap_or_else(|| "-".to_owned()),
            lost(way),
            word::thousands(way.lost_here_or_beside),
            word::thousands(way.reordered),
            word::thousands(way.duplicated),
            word::thousands(way.not_captured),
            word::thousands(unknown(way)),
        ]);
    }
    rows
}

fn lost(way: &LegWay) -> String {
    let (lost, all) = (word::thousands(way.lost), word::thousands(way.packets));
    format!("{lost} of {all}")
}

/// Packets of which nothing tells what became of them.
fn unknown(way: &LegWay) -> u64 {
    way.unresolved.saturating_add(way.unresolved_here_or_beside)
}

/// Half of the packets took as long at most, and what that may be off by.
fn one_way(way: &LegWay) -> Option<String> {
    let median = word::duration(way.delay.quantile_ns(50)?);
    Some(match way.delay_error_ns {
        Some(error) => format!("{median} ± {}", word::duration(error)),
        None => median,
    })
}

fn sentence(leg: &LegStory, names: Names<'_>) -> String {
    let mut text = format!("{} – {}:", names.get(leg.from), names.get(leg.to));
    if let Some((median, most)) = leg.rtt.quantile_ns(50).zip(leg.rtt.quantile_ns(95)) {
        let (median, most) = (word::duration(median), word::duration(most));
        text.push_str(&format!(" round trip {median}, 95 % within {most};"));
    }
    for (arrow, way) in [("→", &leg.forward), ("←", &leg.reverse)] {
        let Some(way) = way else { continue };
        let mut parts: Vec<String> = one_way(way).into_iter().collect();
        parts.push(format!("{} lost", lost(way)));
        let counts = [
            (way.lost_here_or_beside, "lost here or beside"),
            (way.reordered, "overtaken"),
            (way.duplicated, "copied"),
            (way.not_captured, "not captured"),
            (unknown(way), "unknown"),
        ];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        parts.extend(told.map(|(count, what)| format!("{} {what}", word::thousands(*count))));
        text.push_str(&format!(" {arrow} {};", parts.join(", ")));
    }
    text.pop();
    text
}

/// How the clock of a hop reads against that of the reference.
pub(super) fn clock(hop: &HopReport) -> String {
    let Some(clock) = &hop.clock else {
        return "cannot be compared with the others".to_owned();
    };
    let ClockReport {
        reference,
        is_shared,
        readings,
    } = clock;
    if *reference == hop.id {
        return "the reference".to_owned();
    }
    let name = word::foreign(reference);
    if *is_shared {
        return format!("the same as that of {name}");
    }
    let Some((first, later)) = readings.split_first() else {
        return format!("not known against that of {name}");
    };
    let mut text = format!("{} that of {name}{}", apart(first), doubt(first));
    for reading in later {
        let at = word::instant(reading.from_ns);
        let (apart, doubt) = (apart(reading), doubt(reading));
        text.push_str(&format!("; set at {at}: then {apart} it{doubt}"));
    }
    text
}

fn apart(reading: &ClockReading) -> String {
    let ns = i64::try_from(reading.offset_ns.unsigned_abs()).unwrap_or(i64::MAX);
    match reading.offset_ns {
        0 => "equal to".to_owned(),
        1.. => format!("{} ahead of", word::duration(ns)),
        _ => format!("{} behind", word::duration(ns)),
    }
}

fn doubt(reading: &ClockReading) -> String {
    let error = match reading.error_ns {
        Some(error_ns) => format!("within {}", word::duration(error_ns)),
        None => "with no bound".to_owned(),
    };
    let skew = reading.skew_ppm;
    // Below that it is not more than the rounding of its digits.
    const SKEW_MIN_PPM: f64 = 0.05;
    match skew {
        _ if skew.abs() < SKEW_MIN_PPM => format!(", {error}"),
        _ if skew > 0.0 => format!(", gaining {skew:.1} ppm, {error}"),
        _ => format!(", losing {:.1} ppm, {error}", -skew),
    }
}
