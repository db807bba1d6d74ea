//! A ladder for a terminal: a line for each packet, a column for each hop.

use std::io::{self, Write};

use phalanx_engine::Side;
use phalanx_engine::stitch::{Rung, RungEnd};

use super::style::Style;
use super::{short, wrap};
use crate::report::HopReport;
use crate::report::ladder::{self, Kind, Told};
use crate::report::word;
use phalanx_engine::stitch::Ladder;

/// From one lifeline to the next, in characters: with two, an arrow still has a head and a stem.
const SPACING_MIN: usize = 2;
const SPACING_MAX: usize = 16;

/// Number and time before the lifelines.
const TIME_WIDTH: usize = 18;

/// Room for what is said of a packet, where there is any.
const WORDS_WIDTH_MIN: usize = 46;

/// Longest silence that needs no line of its own, in nanoseconds.
const SILENCE_NS: i64 = 1_000_000_000;

pub(super) fn write(
    ladder: &Ladder,
    hops: &[HopReport],
    style: Style,
    width: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    let told = Told::new(ladder, hops);
    if told.rungs().is_empty() {
        return writeln!(output, "  no packets");
    }
    let canvas = Canvas::new(told.names.len(), width);
    for line in wrap(&canvas.legend(&told), width.saturating_sub(2)) {
        writeln!(output, "  {}", style.faint(&line))?;
    }
    writeln!(output, "{}", style.strong(&canvas.heading(&told)))?;
    let mut before_ns = 0;
    for (index, rung) in told.rungs().iter().enumerate() {
        let begin_ns = told.begin_ns(rung);
        let silence = begin_ns.saturating_sub(before_ns);
        before_ns = begin_ns;
        if silence >= SILENCE_NS {
            let words = format!("{} of silence", word::duration(silence));
            let line = canvas.silence(&words);
            writeln!(output, "{}", style.faint(&line))?;
        }
        writeln!(output, "{}", canvas.line(index, rung, &told, style))?;
    }
    if told.left_out() > 0 {
        let more = word::count(told.left_out(), "more packet", "more packets");
        writeln!(output, "{:TIME_WIDTH$}{more}", "")?;
    }
    Ok(())
}

/// Where things stand in a line.
struct Canvas {
    count: usize,
    spacing: usize,
    /// Of what is said behind the lifelines.
    words_width: usize,
}

impl Canvas {
    fn new(count: usize, width: usize) -> Self {
        let gaps = count.saturating_sub(1).max(1);
        let room = width.saturating_sub(TIME_WIDTH + WORDS_WIDTH_MIN);
        let spacing = (room / gaps).clamp(SPACING_MIN, SPACING_MAX);
        let used = TIME_WIDTH + spacing * gaps + 3;
        Self {
            count,
            spacing,
            words_width: width.saturating_sub(used),
        }
    }

    /// Names of hops stand over their lifelines where they fit, their numbers otherwise.
    fn has_names(&self) -> bool {
        self.spacing >= 8
    }

    fn legend(&self, told: &Told<'_>) -> String {
        let mut text = "seconds by the clock of the reference; → or ← the way, ✗ lost, ┄ not \
                        captured, ═ sent again, + a copy; [frames]"
            .to_owned();
        if !self.has_names() {
            let hops = told.names.iter().enumerate();
            let hops = hops.map(|(column, name)| format!("{} {name}", column + 1));
            let hops: Vec<String> = hops.collect();
            text.push_str(&format!("; hops: {}", hops.join(", ")));
        }
        text
    }

    fn heading(&self, told: &Told<'_>) -> String {
        let mut line = format!("{:>5} {:>11} ", "#", "TIME");
        for (column, name) in told.names.iter().enumerate() {
            let label = match self.has_names() {
                true => short(name, self.spacing - 1),
                // Two digits would touch each other.
                false => ((column + 1) % 10).to_string(),
            };
            let is_last = column + 1 == self.count;
            let room = if is_last { 0 } else { self.spacing };
            line.push_str(&format!("{label:<room$}"));
        }
        line
    }

    fn silence(&self, words: &str) -> String {
        let lines = (0..self.count).map(|column| {
            let is_last = column + 1 == self.count;
            let room = if is_last { 0 } else { self.spacing - 1 };
            format!("┊{:room$}", "")
        });
        let lines: String = lines.collect();
        format!(
            "{:TIME_WIDTH$}{lines}  {}",
            "",
            short(words, self.words_width)
        )
    }

    fn line(&self, index: usize, rung: &Rung, told: &Told<'_>, style: Style) -> String {
        let seconds = word::seconds(told.begin_ns(rung));
        let kind = ladder::kind(rung);
        let paint = |text: &str| match kind {
            Kind::Lost | Kind::Again => style.bad(text),
            Kind::Bare => style.faint(text),
            Kind::Copy | Kind::Overtaken | Kind::Data => text.to_owned(),
        };
        let words = told.words(rung);
        let arrow: String = self.arrow(rung, told).into_iter().collect();
        let words = short(&words, self.words_width);
        format!(
            "{:>5} {seconds:>11.6} {arrow}  {}",
            index + 1,
            paint(&words)
        )
        .trim_end()
        .to_owned()
    }

    /// The lifelines with the arrow across them.
    fn arrow(&self, rung: &Rung, told: &Told<'_>) -> Vec<char> {
        let mut cells = vec![' '; self.spacing * self.count.saturating_sub(1) + 1];
        for cell in cells.iter_mut().step_by(self.spacing) {
            *cell = '│';
        }
        let is_forward = rung.side == Side::Client;
        let columns: Vec<usize> = rung
            .crossings
            .iter()
            .map(|it| told.column(it.hop))
            .collect();
        let stroke = if ladder::is_again(rung) { '═' } else { '─' };
        let place = |column: usize| column * self.spacing;
        let head = if is_forward { '▶' } else { '◀' };
        for pair in columns.windows(2) {
            let is_next = pair[0].abs_diff(pair[1]) == 1;
            // Hops between them did not see it.
            let stroke = if is_next { stroke } else { '┄' };
            draw(&mut cells, place(pair[0]), place(pair[1]), stroke);
        }
        if let Some((first, rest)) = columns.split_first() {
            cells[place(*first)] = if is_forward { '├' } else { '┤' };
            for column in rest {
                cells[place(*column)] = '┼';
            }
            if let Some(last) = rest.last() {
                cells[place(*last)] = head;
            }
            if rung.copy_of.is_some() {
                let before = told.column_before(*first, rung.side).unwrap_or(*first);
                let made = usize::midpoint(place(before), place(*first));
                draw(&mut cells, made, place(*first), stroke);
                let is_alone = rest.is_empty();
                cells[place(*first)] = if is_alone { head } else { '┼' };
                if let Some(cell) = cells.get_mut(made).filter(|it| **it == ' ') {
                    *cell = '+';
                }
            }
        }
        self.finish(rung, told, stroke, &mut cells);
        cells
    }

    /// What is drawn after the last hop that saw a packet.
    fn finish(&self, rung: &Rung, told: &Told<'_>, stroke: char, cells: &mut [char]) {
        let (after, mark) = match rung.end {
            RungEnd::Arrived => return,
            RungEnd::Lost(after) => (after, Some('✗')),
            RungEnd::Unknown(after) => (after, Some('?')),
            RungEnd::Uncaptured(after) => (after, None),
        };
        let from = told.column(after) * self.spacing;
        let Some(mark) = mark else {
            let to = told.last_column(rung.side) * self.spacing;
            draw(cells, from, to, '┄');
            return;
        };
        let Some(next) = told.column_after(after, rung.side) else {
            return;
        };
        let to = usize::midpoint(from, next * self.spacing);
        // Rounding must not lay the mark on a lifeline.
        let to = if to == next * self.spacing { from } else { to };
        draw(cells, from, to, stroke);
        if let Some(cell) = cells.get_mut(to) {
            *cell = mark;
        }
    }
}

/// Fills what is free between two places.
fn draw(cells: &mut [char], from: usize, to: usize, stroke: char) {
    let (low, high) = (from.min(to), from.max(to));
    for cell in cells.iter_mut().take(high).skip(low + 1) {
        *cell = match *cell {
            ' ' => stroke,
            other => other,
        };
    }
}
