//! The report as one HTML page that needs neither a network nor a server.
//!
//! The page holds the JSON of the report and the packets to be drawn, as data; its own script, in
//! `html/`, draws them. A policy in its head lets nothing else run and nothing be fetched.

mod escape;
mod ladder;
mod plot;

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::limits::PAGE_CONVERSATION_COUNT_MAX;
use super::{Report, json};
use escape::Escape;

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/page.css");
const LIST_SCRIPT: &str = include_str!("html/page.js");
const PLOT_SCRIPT: &str = include_str!("html/plot.js");

const ACROSS_SCRIPT: &str = include_str!("html/across.js");
const LADDER_SCRIPT: &str = include_str!("html/ladder.js");

/// Where the parts of the script go.
const PARTS: [(&str, &str); 3] = [
    ("//{{plot}}", PLOT_SCRIPT),
    ("//{{across}}", ACROSS_SCRIPT),
    ("//{{ladder}}", LADDER_SCRIPT),
];

/// Writes a page.
///
/// # Errors
///
/// What the output cannot take.
pub fn write(report: &Report, mut output: impl Write) -> io::Result<()> {
    let script = PARTS
        .iter()
        .fold(LIST_SCRIPT.to_owned(), |script, (place, part)| {
            script.replace(place, part)
        });
    let mut rest = PAGE;
    while let Some((text, name, more)) = next_place(rest) {
        output.write_all(text.as_bytes())?;
        match name {
            "policy" => output.write_all(policy(&script).as_bytes())?,
            "style" => output.write_all(STYLE.as_bytes())?,
            "script" => output.write_all(script.as_bytes())?,
            "report" => write_report(report, Escape(&mut output))?,
            "ladders" => ladder::write(report, Escape(&mut output))?,
            _ => plot::write(report, Escape(&mut output))?,
        }
        rest = more;
    }
    output.write_all(rest.as_bytes())?;
    output.flush()
}

/// The text before the next `{{name}}`, the name, the text behind it.
fn next_place(text: &str) -> Option<(&str, &str, &str)> {
    let (before, behind) = text.split_once("{{")?;
    let (name, more) = behind.split_once("}}")?;
    Some((before, name, more))
}

/// Nothing may be fetched, and only the page's own style and script count, known by their hashes.
fn policy(script: &str) -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(STYLE),
        hash(script)
    )
}

fn write_report(report: &Report, output: impl Write) -> io::Result<()> {
    let mut writer = json::Writer::new(output, &report.hops)?;
    for conversation in shown(report) {
        writer.write_without_ladder(conversation)?;
    }
    let left_out = report.conversations.len() - shown(report).len();
    let mut totals = report.totals;
    totals.omitted = totals.omitted.saturating_add(left_out as u64);
    writer.finish(&totals)
}

/// The conversations that fit into the page.
fn shown(report: &Report) -> &[super::ConversationReport] {
    let count = report.conversations.len().min(PAGE_CONVERSATION_COUNT_MAX);
    &report.conversations[..count]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_place_for_each_part() {
        let mut names = Vec::new();
        let mut rest = PAGE;
        while let Some((_, name, more)) = next_place(rest) {
            names.push(name);
            rest = more;
        }
        assert_eq!(
            names,
            ["policy", "style", "report", "plots", "ladders", "script"]
        );
        for (place, _) in PARTS {
            assert_eq!(LIST_SCRIPT.matches(place).count(), 1);
        }
    }

    #[test]
    fn script_and_style_do_not_end_themselves() {
        for text in [
            LIST_SCRIPT,
            PLOT_SCRIPT,
            ACROSS_SCRIPT,
            LADDER_SCRIPT,
            STYLE,
        ] {
            let text = text.to_lowercase();
            assert!(!text.contains("</script") && !text.contains("</style"));
            assert!(!text.contains("://") && !text.contains("url("));
        }
    }
}
