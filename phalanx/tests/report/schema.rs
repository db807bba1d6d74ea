//! Holds the checked-in JSON Schema to what is written, by a validator that is not ours.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::fixture::{hostile, report};
use crate::{as_json, hops};

const SCHEMA: &str = include_str!("../../../docs/report.schema.json");

/// The parts of the schema that leave room for what is not measured yet.
const ROOM: [&str; 1] = ["verdict"];

/// Debian's Python: the validator is a Debian package.
const PYTHON: &str = "/usr/bin/python3";

/// Reads a schema and reports, one a line; prints what is wrong with each.
const VALIDATE: &str = "
import json, sys
import jsonschema
lines = sys.stdin.read().split('\\n')
schema = json.loads(lines[0])
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for line in lines[1:]:
    errors = [f'{e.json_path}: {e.message[:200]}' for e in validator.iter_errors(json.loads(line))]
    print('; '.join(errors[:3]))
";

/// What is wrong with each report; `None` where there is no validator.
fn validate(reports: &[Value]) -> Option<Vec<String>> {
    let has = Command::new(PYTHON)
        .args(["-c", "import jsonschema"])
        .output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: python3-jsonschema is not installed");
        return None;
    }
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let lines: Vec<String> = std::iter::once(&schema)
        .chain(reports)
        .map(Value::to_string)
        .collect();
    let mut python = Command::new(PYTHON)
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = python.stdin.take().unwrap();
    input.write_all(lines.join("\n").as_bytes()).unwrap();
    drop(input);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the schema itself is wrong");
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(said.len(), reports.len());
    Some(said)
}

#[test]
fn reports_are_what_the_schema_says() {
    let good: [Value; 4] = [report(), hostile(), hops::report(), hops::hostile()]
        .map(|report| serde_json::from_str(&as_json(&report)).unwrap());
    let mut bad: Vec<Value> = Vec::new();
    let breaks: [fn(&mut Value); 5] = [
        |report| report["conversations"][0]["features"]["client_windows"] = 1.into(),
        |report| report["conversations"][0]["duration_s"] = (-1).into(),
        |report| report["conversations"][0]["time_budget_ms"]["waiting"] = 1.into(),
        |report| report["conversations"][0]["state"] = "open".into(),
        |report| report["hops"][0]["packets"] = "12".into(),
    ];
    for break_it in breaks {
        let mut report = good[0].clone();
        break_it(&mut report);
        bad.push(report);
    }
    let breaks: [fn(&mut Value); 4] = [
        |report| report["conversations"][0]["legs"][0]["forward"]["loss"] = 1.into(),
        |report| report["conversations"][0]["ladder"]["rungs"][0]["end"] = "gone".into(),
        |report| {
            report["conversations"][0]["ladder"]["rungs"][0]["crossings"] =
                (vec![] as Vec<u8>).into()
        },
        |report| report["conversations"][0]["flows"][0]["client"] = "10.0.0.2".into(),
    ];
    for break_it in breaks {
        let mut report = good[2].clone();
        break_it(&mut report);
        bad.push(report);
    }
    let reports = [&good[..], &bad].concat();
    let Some(said) = validate(&reports) else {
        return;
    };
    assert_eq!(said[..4], ["", "", "", ""]);
    assert!(said[4..].iter().all(|said| !said.is_empty()), "{said:?}");
}

#[test]
fn the_schema_describes_nothing_that_is_not_written() {
    let mut written = BTreeSet::new();
    for report in [report(), hops::report()] {
        let report: Value = serde_json::from_str(&as_json(&report)).unwrap();
        collect_keys(&report, &mut written);
    }
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut missing = Vec::new();
    check_properties(&schema, &written, &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

fn collect_keys(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.insert(key.clone());
                collect_keys(value, keys);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

/// Names every property of the schema that was not written, or that has no description.
fn check_properties(schema: &Value, written: &BTreeSet<String>, missing: &mut Vec<String>) {
    let Value::Object(object) = schema else {
        return;
    };
    for kind in ["properties", "patternProperties"] {
        for (name, property) in object
            .get(kind)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let is_room = ROOM.contains(&name.as_str());
            let name = name.replace("^(client|server)_", "").replace('$', "");
            let names = [
                name.clone(),
                format!("client_{name}"),
                format!("server_{name}"),
            ];
            if !is_room && !names.iter().any(|name| written.contains(name)) {
                missing.push(format!("{name} is never written"));
            }
            let is_described = ["description", "$ref", "const"];
            if !is_described.iter().any(|key| property.get(key).is_some()) {
                missing.push(format!("{name} has no description"));
            }
        }
    }
    for (name, part) in object {
        if !ROOM.contains(&name.as_str()) {
            check_properties(part, written, missing);
            for part in part.as_array().into_iter().flatten() {
                check_properties(part, written, missing);
            }
        }
    }
}
