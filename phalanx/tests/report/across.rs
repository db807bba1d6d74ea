//! What is told of conversations that several hops saw, in each form.

use phalanx::report::html;
use phalanx::report::limits::PAGE_CROSSING_COUNT_MAX;
use phalanx::report::text::TextOptions;
use phalanx_engine::stitch::Ladder;
use serde_json::Value;

use crate::hops::{hostile, long, report, with_ladder};
use crate::{as_json, as_text};

/// Whether a letter would move the cursor or turn text around.
pub(crate) fn is_harmful(letter: char) -> bool {
    let is_moving = letter.is_control() && letter != '\n';
    let is_turning = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    is_moving || is_turning
}

fn options(width: usize) -> TextOptions {
    TextOptions {
        width,
        ..TextOptions::default()
    }
}

/// What stands under the heading of a ladder.
fn ladder_of(text: &str) -> Vec<&str> {
    let lines = text.lines().skip_while(|it| !it.starts_with("Packets of"));
    lines.collect()
}

#[test]
fn json_of_what_several_hops_saw() {
    let value: Value = serde_json::from_str(&as_json(&report())).unwrap();
    let conversation = &value["conversations"][0];
    let told = serde_json::json!({
        "clocks": value["hops"].as_array().unwrap().iter().map(|it| &it["clock"])
            .collect::<Vec<_>>(),
        "path": conversation["path"], "return_path": conversation["return_path"],
        "legs": conversation["legs"], "flows": conversation["flows"],
        "rewrites": conversation["rewrites"], "alignment": conversation["alignment"],
        "ladder": conversation["ladder"],
        "paths": value["conversations"][1]["paths"],
        "proxied": value["conversations"][1]["proxied"],
        "proxies": value["conversations"][1]["proxies"],
    });
    insta::assert_snapshot!(serde_json::to_string_pretty(&told).unwrap());
    assert!(value["conversations"][2].get("ladder").is_none());
}

#[test]
fn text_of_what_several_hops_saw() {
    insta::assert_snapshot!(as_text(&report(), &options(160)));
}

#[test]
fn narrow_text_has_sentences_for_legs_and_keeps_its_width() {
    let text = as_text(&report(), &options(70));
    let told: Vec<&str> = text.lines().filter(|it| it.starts_with("  ")).collect();
    assert!(text.contains("client – edge: round trip"), "{text}");
    let longest = told.iter().map(|it| it.chars().count()).max();
    assert!(longest <= Some(70), "{longest:?}\n{text}");
    let ladder = ladder_of(&text).join("\n");
    insta::assert_snapshot!(ladder);
}

#[test]
fn ladders_keep_within_every_width() {
    for hops in [2, 3, 5, 16] {
        let report = with_ladder(long(hops, 40));
        for width in [60, 80, 120, 200] {
            let text = as_text(&report, &options(width));
            let ladder = ladder_of(&text);
            assert!(ladder.len() > 41, "{text}");
            let longest = ladder.iter().map(|it| it.chars().count()).max();
            assert!(longest <= Some(width), "{hops} {width} {longest:?}\n{text}");
        }
    }
    insta::assert_snapshot!(
        ladder_of(&as_text(&with_ladder(long(16, 12)), &options(120))).join("\n")
    );
}

#[test]
fn an_empty_ladder_says_so() {
    let report = with_ladder(Ladder::default());
    let text = as_text(&report, &options(100));
    assert!(ladder_of(&text)[1].contains("no packets"), "{text}");
    let value: Value = serde_json::from_str(&as_json(&report)).unwrap();
    let ladder = &value["conversations"][0]["ladder"];
    assert_eq!(
        *ladder,
        serde_json::json!({"hops": [], "rungs": [], "left_out": 0})
    );
}

#[test]
fn long_ladders_are_told_whole() {
    let report = with_ladder(long(16, 5_000));
    let text = as_text(&report, &options(160));
    let lines = ladder_of(&text);
    let told = lines.iter().filter(|it| it.contains(" seq ")).count();
    assert_eq!(told, 5_000);
    let value: Value = serde_json::from_str(&as_json(&report)).unwrap();
    let rungs = value["conversations"][0]["ladder"]["rungs"]
        .as_array()
        .unwrap();
    assert_eq!(rungs.len(), 5_000);
    for rung in rungs {
        if let Some(of) = rung["repeats"].as_u64() {
            assert_eq!(rungs[of as usize]["sequence"], rung["sequence"]);
        }
    }
}

#[test]
fn names_of_enemies_reach_no_terminal() {
    let text = as_text(&hostile(), &options(120));
    assert_eq!(text.chars().find(|it| is_harmful(*it)), None, "{text}");
    let value: Value = serde_json::from_str(&as_json(&hostile())).unwrap();
    let hops = &value["conversations"][0]["ladder"]["hops"];
    assert_eq!(hops[0], format!("{}client", crate::fixture::HOSTILE));
}

#[test]
fn a_page_holds_so_many_crossings_and_tells_the_rest() {
    let mut report = with_ladder(long(16, 5_000));
    let one = report.conversations[0].clone();
    report.conversations = vec![one; 3];
    let all = report.conversations.iter().flat_map(|it| &it.ladder);
    let all: usize = all
        .flat_map(|it| &it.rungs)
        .map(|it| it.crossings.len())
        .sum();
    assert!(all > PAGE_CROSSING_COUNT_MAX, "{all}");
    let mut page = Vec::new();
    html::write(&report, &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    let part = |id: &str| -> Value {
        let rest = page.split_once(&format!("id=\"{id}\">")).unwrap().1;
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    };
    // Packets are in the page once.
    assert!(part("report")["conversations"][0].get("ladder").is_none());
    let ladders = part("ladders");
    let mut crossings = 0;
    for index in ["0", "1", "2"] {
        let rungs = ladders[index]["rungs"].as_array().unwrap();
        let left_out = ladders[index]["left_out"].as_u64().unwrap();
        assert_eq!(rungs.len() as u64 + left_out, 5_000);
        let length = |rung: &Value| rung[11].as_array().unwrap().len() / 5;
        crossings += rungs.iter().map(length).sum::<usize>();
        // No rung points at one that is not there.
        let places = rungs.iter().flat_map(|it| [it[8].as_i64(), it[9].as_i64()]);
        assert!(places.flatten().all(|it| it < rungs.len() as i64));
    }
    assert_eq!(ladders["0"]["left_out"], 0);
    assert!(ladders["2"]["left_out"].as_u64() > Some(0));
    let room = PAGE_CROSSING_COUNT_MAX - crossings;
    assert!(room < 16, "{room} would have taken one more");
}

#[test]
fn datagrams_have_no_flags_and_no_numbers() {
    let mut ladder = long(3, 4);
    for rung in &mut ladder.rungs {
        (rung.sequence, rung.acknowledgement, rung.flags) = (None, None, 0);
        rung.class = None;
        rung.length = 512;
    }
    let report = with_ladder(ladder);
    let text = as_text(&report, &options(120));
    let line = ladder_of(&text)[3];
    assert!(line.ends_with("512 bytes [21, 11, 1]"), "{line}");
    let value: Value = serde_json::from_str(&as_json(&report)).unwrap();
    let rung = value["conversations"][0]["ladder"]["rungs"][0]
        .as_object()
        .unwrap();
    let names: Vec<&str> = rung.keys().map(String::as_str).collect();
    assert_eq!(names, ["crossings", "direction", "end", "length"]);
}
