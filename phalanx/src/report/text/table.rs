//! The table of conversations. Where a line is too narrow, what is said in words goes below it.

use std::io::{self, Write};

use super::style::Style;
use crate::report::word;
use crate::report::{ConversationReport, Report};
use crate::view::protocol_name;

/// Words stand in the row where they fit, or have this much room: then they are cut.
const WORDS_WIDTH_MIN: usize = 48;

/// The columns before the words; the first ones stand left, numbers stand right.
const HEADINGS: [&str; COLUMN_COUNT] = [
    "ID", "HOP", "PROTO", "CLIENT", "", "SERVER", "STATE", "TIME", "SENT", "RECEIVED", "RTT",
    "RETR",
];
const COLUMN_COUNT: usize = 12;
const HOP_COLUMN: usize = 1;
const CLIENT_COLUMN: usize = 3;
const ARROW_COLUMN: usize = 4;
const LEFT_COLUMN_COUNT: usize = 7;

type Row = [String; COLUMN_COUNT];

pub(super) fn write(
    report: &Report,
    style: Style,
    width: usize,
    output: &mut impl Write,
) -> io::Result<()> {
    let has_hops = report.hops.len() > 1;
    let columns: Vec<usize> = (0..COLUMN_COUNT)
        .filter(|column| has_hops || *column != HOP_COLUMN)
        .collect();
    let rows: Vec<Row> = report.conversations.iter().map(row).collect();
    let widths = widths(&rows);
    let used: usize = columns
        .iter()
        .map(|column| widths[*column] + gap(*column).len())
        .sum();
    let lengths = report
        .conversations
        .iter()
        .map(|it| say(it).chars().count());
    let longest = lengths.max().unwrap_or(0);
    let is_wide = used + longest.min(WORDS_WIDTH_MIN) <= width;
    let heading = line(&HEADINGS.map(str::to_owned), &columns, &widths);
    let words = if is_wide {
        "WHERE THE TIME WENT, AND WHAT IS WRONG"
    } else {
        ""
    };
    let heading = format!("{heading}{words}");
    writeln!(output, "{}", style.strong(heading.trim_end()))?;
    for (row, conversation) in rows.iter().zip(&report.conversations) {
        let line = line(row, &columns, &widths);
        let words = say(conversation);
        let paint = |text: &str| match conversation.score {
            score if score > 0.0 => style.bad(text),
            _ => style.faint(text),
        };
        if is_wide {
            let words = cut(&words, width - used);
            writeln!(output, "{line}{}", paint(&words))?;
        } else {
            let words = cut(&words, width - 4);
            writeln!(output, "{}\n    {}", line.trim_end(), paint(&words))?;
        }
    }
    Ok(())
}

fn row(conversation: &ConversationReport) -> Row {
    let story = &conversation.story;
    let ends = story.endpoints.as_ref();
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let state = match story.state.name() {
        "none" => "-".to_owned(),
        name => name.replace('_', " "),
    };
    let retransmitted = word::retransmitted_most(story);
    [
        word::foreign(&conversation.id),
        word::foreign(&conversation.hop),
        protocol_name(story.protocol).into_owned(),
        word::endpoint(ends.map(|ends| &ends.client)),
        "→".to_owned(),
        word::endpoint(ends.map(|ends| &ends.server)),
        state,
        word::duration(story.duration_ns),
        word::size(client.bytes),
        word::size(server.bytes),
        round_trip(conversation).map_or_else(|| "-".to_owned(), word::duration),
        retransmitted.map_or_else(|| "-".to_owned(), word::percent),
    ]
}

/// The path's round trip: the smallest ones to both sides added, or the one that is known.
fn round_trip(conversation: &ConversationReport) -> Option<i64> {
    let sides = &conversation.story.sides;
    let parts = [sides.client.rtt.min_ns(), sides.server.rtt.min_ns()];
    parts.into_iter().flatten().reduce(i64::saturating_add)
}

/// Where most of the time went, and what is wrong.
fn say(conversation: &ConversationReport) -> String {
    let budget = conversation.story.budget.as_ref();
    let reason = word::foreign(&conversation.worst_because);
    match budget.and_then(word::largest) {
        None => reason,
        Some((bucket, share)) => {
            let share = word::percent(share);
            format!("{} {share}; {reason}", word::bucket(bucket))
        }
    }
}

fn widths(rows: &[Row]) -> [usize; COLUMN_COUNT] {
    let mut widths = HEADINGS.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn line(row: &Row, columns: &[usize], widths: &[usize; COLUMN_COUNT]) -> String {
    let mut line = String::new();
    for column in columns {
        let (cell, width) = (&row[*column], widths[*column]);
        let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
        if *column < LEFT_COLUMN_COUNT {
            line.push_str(cell);
            line.push_str(&padding);
        } else {
            line.push_str(&padding);
            line.push_str(cell);
        }
        line.push_str(gap(*column));
    }
    line
}

/// What stands behind a column.
const fn gap(column: usize) -> &'static str {
    match column {
        CLIENT_COLUMN | ARROW_COLUMN => " ",
        _ => "  ",
    }
}

fn cut(words: &str, width: usize) -> String {
    if words.chars().count() <= width {
        return words.to_owned();
    }
    let kept: String = words.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}
