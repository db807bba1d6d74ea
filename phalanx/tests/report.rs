//! Reports of made-up conversations: what JSON and text say of them, that the schema is true, and
//! how the commands that make them go about their files.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "report/across.rs"]
mod across;
#[path = "capture_file/builder.rs"]
mod builder;
#[path = "report/command.rs"]
mod command;
#[path = "report/fixture.rs"]
mod fixture;
#[path = "report/hops.rs"]
mod hops;
#[path = "report/picture.rs"]
mod picture;
#[path = "report/schema.rs"]
mod schema;
#[path = "report/transfer.rs"]
mod transfer;

use fixture::{HOSTILE, hostile, report};
use phalanx::report::text::TextOptions;
use phalanx::report::{Report, json, text};
use serde_json::Value;

fn as_json(report: &Report) -> String {
    let mut bytes = Vec::new();
    json::write(report, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn as_text(report: &Report, options: &TextOptions) -> String {
    let mut bytes = Vec::new();
    text::write(report, options, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn json_of_each_kind_of_conversation() {
    let text = as_json(&report());
    assert_eq!(text, as_json(&report()), "the same report, other bytes");
    let value: Value = serde_json::from_str(&text).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
}

#[test]
fn the_time_budget_sums_to_the_duration() {
    let value: Value = serde_json::from_str(&as_json(&report())).unwrap();
    let mut count = 0;
    for conversation in value["conversations"].as_array().unwrap() {
        let Some(budget) = conversation["time_budget_ms"].as_object() else {
            assert_ne!(conversation["protocol"], "tcp");
            continue;
        };
        let sum: f64 = budget.values().map(|ms| ms.as_f64().unwrap()).sum();
        let duration_ms = conversation["duration_s"].as_f64().unwrap() * 1e3;
        assert!((sum - duration_ms).abs() < 1e-6, "{conversation}");
        assert_eq!(budget.len(), 11);
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn text_of_each_kind_of_conversation() {
    let options = TextOptions {
        stories: 6,
        width: 140,
        ..TextOptions::default()
    };
    insta::assert_snapshot!(as_text(&report(), &options));
}

#[test]
fn narrow_text_keeps_within_its_width() {
    let options = TextOptions {
        stories: 6,
        width: 100,
        ..TextOptions::default()
    };
    let text = as_text(&report(), &options);
    // Rows of the table are as wide as their addresses.
    let told = text.lines().filter(|line| line.starts_with("  "));
    let longest = told.map(|line| line.chars().count()).max();
    insta::assert_snapshot!(text.lines().take(20).collect::<Vec<_>>().join("\n"));
    assert!(longest <= Some(100), "{longest:?}");
}

#[test]
fn colours_come_only_when_asked_for() {
    let plain = as_text(&report(), &TextOptions::default());
    assert!(!plain.contains('\x1b'));
    let options = TextOptions {
        colours: true,
        ..TextOptions::default()
    };
    let coloured = as_text(&report(), &options);
    assert!(coloured.contains("\x1b[31m"));
    let mut stripped = String::new();
    for (index, part) in coloured.split('\x1b').enumerate() {
        let text = if index == 0 {
            part
        } else {
            part.split_once('m').unwrap().1
        };
        stripped.push_str(text);
    }
    assert_eq!(stripped, plain, "colours change more than colours");
}

#[test]
fn names_of_an_enemy_do_not_reach_the_terminal_as_they_are() {
    let text = as_text(&hostile(), &TextOptions::default());
    let is_harmful = |letter: &char| {
        letter.is_control() && *letter != '\n' || ('\u{2028}'..='\u{202e}').contains(letter)
    };
    assert_eq!(text.chars().find(is_harmful), None, "{text}");
    let value: Value = serde_json::from_str(&as_json(&hostile())).unwrap();
    assert_eq!(value["hops"][0]["id"], HOSTILE);
}

#[test]
fn an_empty_report_is_one() {
    let empty = Report::default();
    assert_eq!(
        as_json(&empty),
        "{\"schema\":\"phalanx.report/1\",\n\"hops\":[],\n\"conversations\":[],\n\"totals\":\
         {\"conversations\":0,\"omitted\":0,\"packets\":0,\"bytes\":0,\"duration_s\":0.0}}\n"
    );
    let text = as_text(&empty, &TextOptions::default());
    assert_eq!(text, "0 packets, 0 B, 0 s: 0 conversations\n");
}
