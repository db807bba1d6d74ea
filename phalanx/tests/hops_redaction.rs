//! Captures of several hops that were redacted together are still one path: the same conversations,
//! legs and clocks, with other addresses.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "network/folder.rs"]
mod folder;
#[path = "hops/made.rs"]
mod made;
#[path = "hops/told.rs"]
mod told;

use std::collections::BTreeMap;
use std::process::Command;

use made::Made;
use phalanx_range::synthesis::{HopSynthesis, LegCourse, Shares};
use serde_json::Value;
use told::Report;

/// What does not depend on addresses, of each TCP conversation that several hops saw: legs by the
/// flow's name at the first hop that saw it.
fn facts(report: &Report) -> BTreeMap<String, Value> {
    let all = report.all["conversations"].as_array().unwrap();
    let joined = all
        .iter()
        .filter(|it| it["protocol"] == "tcp" && it["path"].as_array().unwrap().len() > 1);
    let fact = |it: &Value| {
        let flows = it["flows"].as_array().unwrap().iter();
        let names: Vec<Value> = flows
            .map(|flow| serde_json::json!([flow["hop"], flow["id"], flow["packets"]]))
            .collect();
        let told = serde_json::json!({
            "path": it["path"],
            "return_path": it["return_path"],
            "legs": it["legs"],
            "alignment": it["alignment"],
            "flows": names,
        });
        (names[0].to_string(), told)
    };
    joined.map(fact).collect()
}

#[test]
fn redacted_captures_are_joined_as_their_originals() {
    let leg = LegCourse {
        forward_ms: 2.0,
        reverse_ms: 3.0,
        jitter_ms: 0.2,
        loss: 0.01,
        ..LegCourse::default()
    };
    let synthesis = HopSynthesis {
        conversations: 150,
        legs: vec![leg; 3],
        shares: Shares {
            lookup: 0.0,
            datagrams: 0.0,
            echo: 0.0,
            // What a randomiser and equal numbers leave of a connection is told by payload too.
            shifted: 0.0,
            ..Shares::default()
        },
        ..HopSynthesis::default()
    };
    let made = Made::new("redaction", &synthesis);
    let redacted = made.folder.0.join("redacted");
    std::fs::create_dir(&redacted).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_phalanx"))
        .current_dir(&made.folder.0)
        .args(["redact", "-o", "redacted"])
        .args(made.names())
        .status();
    assert!(done.unwrap().success());
    let names: Vec<String> = std::fs::read_dir(&redacted)
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    let before = facts(&told::report(&made.folder.0, &made.names()));
    let after = facts(&told::report(&redacted, &names));
    assert!(before.len() > 100, "{}", before.len());
    assert_eq!(before.len(), after.len());
    for (name, told) in &before {
        assert_eq!(Some(told), after.get(name), "{name}");
    }
}
