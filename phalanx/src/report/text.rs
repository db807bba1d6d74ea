//! The report for people: what was read, a table of conversations, and the story of some.

mod across;
mod application;
mod bar;
mod ladder;
mod story;
mod style;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::limits::{TEXT_WIDTH_MAX, TEXT_WIDTH_MIN};
use super::word;
use super::{HopReport, Report, Totals};
use style::Style;

/// How the text is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Whether colours are asked for: on a terminal.
    pub colours: bool,
    /// Width of a line, in characters.
    pub width: usize,
    /// Of how many conversations, of the first ones, the story is told.
    pub stories: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            colours: false,
            width: 120,
            stories: 3,
        }
    }
}

/// Writes a report.
///
/// # Errors
///
/// What the output cannot take.
pub fn write(report: &Report, options: &TextOptions, mut output: impl Write) -> io::Result<()> {
    let style = Style::new(options.colours);
    let width = options.width.clamp(TEXT_WIDTH_MIN, TEXT_WIDTH_MAX);
    for hop in &report.hops {
        write_hop(hop, style, width, &mut output)?;
        if report.hops.len() > 1 {
            write_wrapped("clock: ", &across::clock(hop), width, &mut output)?;
        }
    }
    writeln!(output, "{}", describe_totals(&report.totals))?;
    if report.conversations.is_empty() {
        return output.flush();
    }
    writeln!(output)?;
    table::write(report, style, width, &mut output)?;
    for conversation in report.conversations.iter().take(options.stories) {
        writeln!(output)?;
        story::write(conversation, &report.hops, style, width, &mut output)?;
    }
    for conversation in &report.conversations {
        if let Some(packets) = &conversation.ladder {
            let id = word::foreign(&conversation.id);
            writeln!(output, "\n{}", style.strong(&format!("Packets of {id}")))?;
            ladder::write(packets, &report.hops, style, width, &mut output)?;
        }
    }
    output.flush()
}

fn write_hop(
    hop: &HopReport,
    style: Style,
    width: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    let name = style.strong(&word::foreign(&hop.source));
    let mut facts = vec![word::count(hop.packets, "packet", "packets")];
    if let Some((first, last)) = hop.first_ns.zip(hop.last_ns) {
        let duration = word::duration(last.saturating_sub(first));
        facts.push(format!("{duration} from {}", word::instant(first)));
    }
    if !hop.link_types.is_empty() {
        facts.push(counted(&hop.link_types, hop.packets));
    }
    let id = word::foreign(&hop.id);
    writeln!(output, "{name} (hop {id}): {}", facts.join(", "))?;
    if let Some(damage) = &hop.damage {
        let place = word::foreign(&damage.to_string());
        writeln!(output, "  {}", style.bad(&place))?;
    }
    for gap in &hop.gaps {
        writeln!(output, "  {}", style.bad(&word::gap(*gap)))?;
    }
    if !hop.unparsed.is_empty() {
        let reasons = counted(&hop.unparsed, u64::MAX);
        write_wrapped("not in any conversation: ", &reasons, width, output)?;
    }
    if !hop.notes.is_empty() {
        let notes = counted(&hop.notes, u64::MAX);
        write_wrapped("of the capture: ", &notes, width, output)?;
    }
    Ok(())
}

/// Names with their counts, the greatest first; the count is left out where it is `all`.
fn counted<K: AsRef<str>>(counts: &BTreeMap<K, u64>, all: u64) -> String {
    let mut list: Vec<(&str, u64)> = counts
        .iter()
        .map(|(name, count)| (name.as_ref(), *count))
        .collect();
    list.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let words = list.iter().map(|(name, count)| {
        let name = word::foreign(name).replace('_', " ");
        match count {
            count if *count == all => name,
            count => format!("{} {name}", word::thousands(*count)),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

fn describe_totals(totals: &Totals) -> String {
    let mut text = format!(
        "{}, {}, {}: {}",
        word::count(totals.packets, "packet", "packets"),
        word::size(totals.bytes),
        word::duration(totals.duration_ns),
        word::count(totals.conversations, "conversation", "conversations"),
    );
    if totals.omitted > 0 {
        let omitted = word::thousands(totals.omitted);
        text.push_str(&format!(" ({omitted} not shown)"));
    }
    if totals.evicted_flows > 0 {
        let flows = word::count(totals.evicted_flows, "flow", "flows");
        text.push_str(&format!(", {flows} ended early to make room"));
    }
    text
}

/// A label with words behind it, on as many lines as they need.
fn write_wrapped(
    label: &str,
    words: &str,
    width: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    for (index, line) in wrap(&format!("{label}{words}"), width - 4)
        .iter()
        .enumerate()
    {
        let indent = if index == 0 { "  " } else { "    " };
        writeln!(output, "{indent}{line}")?;
    }
    Ok(())
}

/// Breaks words into lines of a width, at spaces; a longer word has a line of its own.
pub(super) fn wrap(words: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut length = 0;
    for word in words.split(' ') {
        let count = word.chars().count();
        match lines.last_mut() {
            Some(line) if length + 1 + count <= width => {
                line.push(' ');
                line.push_str(word);
                length += 1 + count;
            }
            _ => {
                lines.push(word.to_owned());
                length = count;
            }
        }
    }
    lines
}

/// Words that are cut where they are long.
pub(super) fn short(words: &str, width: usize) -> String {
    if words.chars().count() <= width {
        return words.to_owned();
    }
    let kept: String = words.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrap("abcdefgh i", 3), ["abcdefgh", "i"]);
    }

    #[test]
    fn the_greatest_counts_stand_first() {
        let counts = BTreeMap::from([("arp", 2), ("non_first_fragment", 1_000), ("zero", 2)]);
        let words = counted(&counts, u64::MAX);
        assert_eq!(words, "1,000 non first fragment, 2 arp, 2 zero");
        assert_eq!(counted(&BTreeMap::from([("Ethernet", 5)]), 5), "Ethernet");
    }
}
