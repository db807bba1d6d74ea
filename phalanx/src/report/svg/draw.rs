//! The strokes of the picture.

use std::io::{self, Write};

use phalanx_engine::Side;
use phalanx_engine::stitch::{Rung, RungEnd};

use super::place::Places;
use super::word::{escape, length};
use crate::report::ladder::{self, Kind, Told};
use crate::report::word as spelled;

/// Number and time, left of the lifelines, and curves between packets.
const LEFT: f64 = 200.0;

/// Curves between packets, right of the lifelines.
const LINK_WIDTH: f64 = 60.0;

/// What is said of packets, right of these.
const WORDS_WIDTH: f64 = 620.0;

/// From one lifeline to the next: all of them, unless they are many.
const SPACING_MIN: f64 = 70.0;
const SPACING_MAX: f64 = 240.0;
const LIFELINES_WIDTH: f64 = 900.0;

/// Where the first packet stands, below title, legend and names.
const TOP: f64 = 120.0;

/// Room behind the last packet.
const BOTTOM: f64 = 44.0;

/// Width of a letter of the picture's words.
const LETTER_WIDTH: f64 = 7.3;

/// Least height of a band that is seen.
const SLACK_MIN: f64 = 1.5;

/// Longest height that a curve spans; packets further apart are linked by their numbers alone.
const LINK_HEIGHT_MAX: f64 = 900.0;

/// What is lost or unknown is drawn down to so much lower.
const FALL: f64 = 7.0;

/// The picture of a ladder.
pub(super) struct Drawing<'a> {
    told: &'a Told<'a>,
    places: Places,
    count: usize,
    spacing: f64,
}

impl<'a> Drawing<'a> {
    /// Of the first `most` packets.
    #[expect(clippy::cast_precision_loss, reason = "hops are few")]
    pub(super) fn new(told: &'a Told<'a>, most: usize) -> Self {
        let gaps = told.names.len().saturating_sub(1).max(1) as f64;
        let count = told.rungs().len().min(most);
        Self {
            told,
            places: Places::of(told, count, TOP),
            count,
            spacing: (LIFELINES_WIDTH / gaps).clamp(SPACING_MIN, SPACING_MAX),
        }
    }

    /// Width and height, in whole pixels.
    pub(super) fn size(&self) -> (u64, u64) {
        let width = self.words() + WORDS_WIDTH;
        let height = self.places.end + BOTTOM;
        (width.ceil() as u64, height.ceil() as u64)
    }

    #[expect(clippy::cast_precision_loss, reason = "hops are few")]
    fn x(&self, column: usize) -> f64 {
        LEFT + column as f64 * self.spacing
    }

    fn right(&self) -> f64 {
        self.x(self.told.names.len().saturating_sub(1))
    }

    /// Where what is said of packets begins.
    fn words(&self) -> f64 {
        self.right() + LINK_WIDTH
    }

    /// The picture in a sentence, for those who do not see it.
    pub(super) fn describe(&self) -> String {
        let shown = self.count as u64;
        let lost = |it: &&Rung| matches!(it.end, RungEnd::Lost(_));
        let lost = self.told.rungs().iter().take(self.count).filter(lost);
        format!(
            "Ladder of {} over the hops {}; {} lost. Time goes down, by the clock of the \
             reference.",
            spelled::count(shown, "packet", "packets"),
            self.told.names.join(", "),
            lost.count(),
        )
    }

    pub(super) fn write(&self, output: &mut impl Write) -> io::Result<()> {
        self.legend(output)?;
        self.lifelines(output)?;
        for (from, to, ns) in &self.places.silences {
            self.silence((*from, *to), *ns, output)?;
        }
        let rungs = || self.told.rungs().iter().take(self.count).enumerate();
        // As one, so that bands that lie over each other are no darker.
        let bands: String = rungs()
            .map(|(index, rung)| self.slack(index, rung).0)
            .collect();
        writeln!(output, "<g class=\"slack\">{bands}</g>")?;
        for (index, _) in rungs() {
            let y = length(self.places.height(index, 0));
            let (from, to) = (length(LEFT), length(self.words() - 6.0));
            writeln!(output, "<path class=\"guide\" d=\"M{from} {y}H{to}\"/>")?;
        }
        let whiskers: String = rungs()
            .map(|(index, rung)| self.slack(index, rung).1)
            .collect();
        writeln!(output, "<path class=\"whisker\" d=\"{whiskers}\"/>")?;
        for (index, rung) in rungs() {
            writeln!(output, "<g>")?;
            self.words_of(index, rung, output)?;
            self.way(index, rung, output)?;
            self.links(index, rung, output)?;
            writeln!(output, "</g>")?;
        }
        let left_out = (self.told.rungs().len() - self.count) as u64 + self.told.left_out();
        let more = match (self.count, left_out) {
            (0, 0) => "No packets.".to_owned(),
            (_, 0) => return Ok(()),
            (_, count) => spelled::count(count, "more packet", "more packets"),
        };
        let (x, y) = (length(LEFT), length(self.places.end + 32.0));
        writeln!(
            output,
            "<text class=\"faint\" x=\"{x}\" y=\"{y}\">{more}</text>"
        )
    }

    fn legend(&self, output: &mut impl Write) -> io::Result<()> {
        let entries = [
            ("data", "data"),
            ("bare", "acknowledgement alone"),
            ("again", "sent again"),
            ("late", "overtaken (◆)"),
            ("copy", "copied"),
            ("lost", "lost (×)"),
            ("data unseen", "not captured"),
            ("data open", "unknown"),
        ];
        let mut x = 16.0;
        let y = 50.0;
        for (class, words) in entries {
            let (from, to) = (length(x), length(x + 26.0));
            let (middle, base) = (length(y - 4.0), length(y));
            writeln!(
                output,
                "<path class=\"way {class}\" d=\"M{from} {middle}H{to}\"/>\
                 <text class=\"faint\" x=\"{}\" y=\"{base}\">{words}</text>",
                length(x + 32.0)
            )?;
            x += 52.0 + LETTER_WIDTH * words.chars().count() as f64;
        }
        writeln!(
            output,
            "<rect class=\"slack\" x=\"16\" y=\"58\" width=\"26\" height=\"12\"/>\
             <text class=\"faint\" x=\"48\" y=\"68\">what the time may be off by, since clocks \
             differ; times are seconds by the clock of the reference; frames in brackets, in the \
             order of the way</text>"
        )
    }

    fn lifelines(&self, output: &mut impl Write) -> io::Result<()> {
        let letters = (self.spacing / LETTER_WIDTH) as usize;
        let (top, bottom) = (length(TOP - 16.0), length(self.places.end + 16.0));
        for (column, name) in self.told.names.iter().enumerate() {
            let x = length(self.x(column));
            let short = crate::report::text::short(name, letters.saturating_sub(1));
            writeln!(
                output,
                "<path class=\"life\" d=\"M{x} {top}V{bottom}\"/><text class=\"hop\" x=\"{x}\" \
                 y=\"{}\">{}<title>{}</title></text>",
                length(TOP - 24.0),
                escape(&short),
                escape(name)
            )?;
        }
        Ok(())
    }

    /// A mark across the lifelines where time is cut short.
    fn silence(&self, (from, to): (f64, f64), ns: i64, output: &mut impl Write) -> io::Result<()> {
        let middle = f64::midpoint(from, to);
        let mut path = String::new();
        for column in 0..self.told.names.len() {
            let (x, y) = (self.x(column), middle);
            let point = |dx: f64, dy: f64| format!("{} {}", length(x + dx), length(y + dy));
            path.push_str(&format!(
                "M{}L{}L{}L{}",
                point(-6.0, 3.0),
                point(-2.0, -3.0),
                point(2.0, 3.0),
                point(6.0, -3.0)
            ));
        }
        let (x, y) = (length(LEFT - 24.0), length(middle + 4.0));
        let words = spelled::duration(ns);
        writeln!(
            output,
            "<path class=\"break\" d=\"{path}\"/><text class=\"n\" x=\"{x}\" y=\"{y}\">{words} \
             later</text>"
        )
    }

    /// Where a packet crosses hops: the column, and the height there.
    fn points(&self, index: usize, rung: &Rung) -> Vec<(usize, f64)> {
        let crossings = rung.crossings.iter().enumerate();
        let point = crossings.map(|(crossing, it)| {
            let height = self.places.height(index, crossing);
            (self.told.column(it.hop), height)
        });
        point.collect()
    }

    /// The bands in which the way lies, as far as clocks are known, and the whiskers at their far
    /// ends.
    fn slack(&self, index: usize, rung: &Rung) -> (String, String) {
        let (mut bands, mut whiskers) = (String::new(), String::new());
        for crossing in 1..rung.crossings.len() {
            let edges = [crossing - 1, crossing].map(|it| self.edge(index, rung, it));
            let [Some((x0, low0, high0)), Some((x1, low1, high1))] = edges else {
                continue;
            };
            if (high0 - low0).max(high1 - low1) < SLACK_MIN {
                continue;
            }
            let is_seen = high1 - low1 >= SLACK_MIN;
            let (left, right) = (length(x1 - 3.0), length(x1 + 3.0));
            let [x0, low0, high0, x1, low1, high1] = [x0, low0, high0, x1, low1, high1].map(length);
            bands.push_str(&format!(
                "<path d=\"M{x0} {low0}L{x1} {low1}V{high1}L{x0} {high0}Z\"/>\n"
            ));
            if is_seen {
                whiskers.push_str(&format!(
                    "M{left} {low1}H{right}M{x1} {low1}V{high1}M{left} {high1}H{right}"
                ));
            }
        }
        (bands, whiskers)
    }

    /// A hop, and between which heights a packet crossed it.
    fn edge(&self, index: usize, rung: &Rung, crossing: usize) -> Option<(f64, f64, f64)> {
        let it = rung.crossings.get(crossing)?;
        let height = self.places.height(index, crossing);
        let (at_ns, error_ns) = (self.told.at_ns(it), it.error_ns?);
        let low = self.places.at(at_ns.saturating_sub(error_ns)).min(height);
        let high = self.places.at(at_ns.saturating_add(error_ns)).max(height);
        Some((self.x(self.told.column(it.hop)), low, high))
    }

    fn words_of(&self, index: usize, rung: &Rung, output: &mut impl Write) -> io::Result<()> {
        let y = self.places.height(index, 0);
        let base = length(y + 4.0);
        let words = self.told.words(rung);
        let letters = (WORDS_WIDTH / LETTER_WIDTH) as usize;
        let short = crate::report::text::short(&words, letters.saturating_sub(2));
        let seconds = spelled::seconds(self.told.begin_ns(rung));
        // What is cut is shown whole where one points at it.
        let whole = match short == words {
            true => String::new(),
            false => format!("<title>{}</title>", escape(&words)),
        };
        let time = length(LEFT - 44.0);
        writeln!(
            output,
            "<text class=\"n\" x=\"52\" y=\"{base}\">{}</text>\
             <text class=\"n\" x=\"{time}\" y=\"{base}\">{seconds:.6}</text>\
             <text class=\"word {}\" x=\"{}\" y=\"{base}\">{}{whole}</text>",
            index + 1,
            class(rung),
            length(self.words()),
            escape(&short),
        )
    }

    /// The arrow itself, and what becomes of it.
    fn way(&self, index: usize, rung: &Rung, output: &mut impl Write) -> io::Result<()> {
        let class = class(rung);
        let points = self.points(index, rung);
        let sign = if rung.side == Side::Client { 1.0 } else { -1.0 };
        if rung.copy_of.is_some()
            && let Some((column, y)) = points.first()
            && let Some(before) = self.told.column_before(*column, rung.side)
        {
            let from = length(f64::midpoint(self.x(before), self.x(*column)));
            let (x, y0, y1) = (length(self.x(*column)), length(y - FALL), length(*y));
            writeln!(
                output,
                "<path class=\"way {class}\" d=\"M{from} {y0}L{x} {y1}\"/>"
            )?;
        }
        for pair in points.windows(2) {
            let [(from, y0), (to, y1)] = [pair[0], pair[1]];
            let unseen = if from.abs_diff(to) > 1 { " unseen" } else { "" };
            let [x0, y0, x1, y1] = [self.x(from), y0, self.x(to), y1].map(length);
            writeln!(
                output,
                "<path class=\"way {class}{unseen}\" d=\"M{x0} {y0}L{x1} {y1}\"/>"
            )?;
        }
        let Some((last, y)) = points.last().copied() else {
            return Ok(());
        };
        let tip = (self.x(last), y);
        match points.len() {
            1 if rung.copy_of.is_none() => dot(class, tip, output)?,
            _ => head(class, tip, sign, output)?,
        }
        if let Some(hop) = rung.overtaken_before {
            let found = points.iter().find(|it| it.0 == self.told.column(hop));
            let (column, y) = found.copied().unwrap_or((last, y));
            let (x, y) = (self.x(column), y);
            let [left, x, right] = [x - 4.5, x, x + 4.5].map(length);
            let [top, y, bottom] = [y - 4.5, y, y + 4.5].map(length);
            let path = format!("M{left} {y}L{x} {top}L{right} {y}L{x} {bottom}Z");
            writeln!(output, "<path class=\"mark\" d=\"{path}\"/>")?;
        }
        self.finish(rung, (last, y), sign, output)
    }

    /// What lies behind the last hop that saw it.
    fn finish(
        &self,
        rung: &Rung,
        (last, y): (usize, f64),
        sign: f64,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let class = class(rung);
        let x = self.x(last);
        let half = x + sign * self.spacing / 2.0;
        let [x0, y0, x1, y1] = [x, y, half, y + FALL].map(length);
        match rung.end {
            RungEnd::Arrived => Ok(()),
            RungEnd::Lost(_) => {
                let (left, right) = (length(half - 5.0), length(half + 5.0));
                let (top, bottom) = (length(y + FALL - 5.0), length(y + FALL + 5.0));
                writeln!(
                    output,
                    "<path class=\"way {class}\" d=\"M{x0} {y0}L{x1} {y1}\"/><path class=\"cross\" \
                     d=\"M{left} {top}L{right} {bottom}M{right} {top}L{left} {bottom}\"/>"
                )
            }
            RungEnd::Unknown(_) => {
                let path = format!("M{x0} {y0}L{x1} {y1}");
                let base = length(y + FALL + 4.0);
                writeln!(
                    output,
                    "<path class=\"way {class} open\" d=\"{path}\"/>\
                     <text class=\"faint\" x=\"{x1}\" y=\"{base}\">?</text>"
                )
            }
            RungEnd::Uncaptured(_) => {
                let end = length(self.x(self.told.last_column(rung.side)));
                let path = format!("M{x0} {y0}L{end} {y1}");
                writeln!(output, "<path class=\"way {class} unseen\" d=\"{path}\"/>")
            }
        }
    }

    /// Thin curves to the packet that was sent first, or that was copied.
    fn links(&self, index: usize, rung: &Rung, output: &mut impl Write) -> io::Result<()> {
        let links = [(rung.repeats, ""), (rung.copy_of, " copy")];
        for (of, kind) in links {
            let Some(of) = of.filter(|it| *it < self.count) else {
                continue;
            };
            let points = self.points(index, rung);
            let Some((column, from)) = points.first().copied() else {
                continue;
            };
            // Where both were seen, or else where the other one began.
            let others = self.points(of, &self.told.rungs()[of]);
            let same = others.iter().find(|it| it.0 == column).or(others.first());
            let (other, to) = same.copied().unwrap_or((column, from));
            if (from - to).abs() > LINK_HEIGHT_MAX {
                continue;
            }
            let sign = if rung.side == Side::Client { -1.0 } else { 1.0 };
            let bulge = (12.0 + (from - to).abs() / 16.0).min(LINK_WIDTH - 24.0) * sign;
            let (x0, x1) = (self.x(column), self.x(other));
            let [a, b, c, d] = [x0, x0 + bulge, x1 + bulge, x1].map(length);
            let (from, to) = (length(from), length(to));
            let path = format!("M{a} {from}C{b} {from} {c} {to} {d} {to}");
            writeln!(output, "<path class=\"link{kind}\" d=\"{path}\"/>")?;
        }
        Ok(())
    }
}

/// What was seen at one hop alone.
fn dot(class: &str, (x, y): (f64, f64), output: &mut impl Write) -> io::Result<()> {
    let (x, y) = (length(x), length(y));
    writeln!(
        output,
        "<circle class=\"tip {class}\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>"
    )
}

/// The head of an arrow to the right, or to the left where the sign is negative.
fn head(class: &str, (x, y): (f64, f64), sign: f64, output: &mut impl Write) -> io::Result<()> {
    let [x0, x1] = [x, x - 9.0 * sign].map(length);
    let [low, y, high] = [y - 4.0, y, y + 4.0].map(length);
    writeln!(
        output,
        "<path class=\"tip {class}\" d=\"M{x0} {y}L{x1} {low}L{x1} {high}Z\"/>"
    )
}

fn class(rung: &Rung) -> &'static str {
    match ladder::kind(rung) {
        Kind::Lost => "lost",
        Kind::Again => "again",
        Kind::Copy => "copy",
        Kind::Overtaken => "late",
        Kind::Data => "data",
        Kind::Bare => "bare",
    }
}
