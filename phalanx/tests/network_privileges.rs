//! What each thread of the running daemon may do, against the table in `docs/architecture.md`.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use daemon::{Daemon, await_that};
use phalanx_range::{Range, Topology};
use serde_json::json;

const ONE: &str = "
nodes: [{ name: host }, { name: other }]
links: [{ a: { node: host }, b: { node: other } }]
";

/// From `linux/capability.h`.
const CAPABILITIES: [(&str, u32); 3] = [
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
];

/// A row of the table: what is kept, and what is kept where there is only `clsact`.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    kept: u64,
    kept_with_clsact: u64,
}

/// The table of the document by the names of threads, as the kernel shows them.
fn table() -> BTreeMap<String, Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md");
    let text = std::fs::read_to_string(path).unwrap();
    let head = "| thread | owns | capabilities |\n|---|---|---|\n";
    let rows = &text[text.find(head).unwrap() + head.len()..];
    let rows = rows.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (thread_name(cells[1]), read_row(cells[3]))
    })
    .collect()
}

fn thread_name(cell: &str) -> String {
    match cell {
        "main" => "phalanx".to_owned(),
        "one a running capture" => "capture".to_owned(),
        _ => cell.split('`').nth(1).unwrap().to_owned(),
    }
}

/// `none …; CAP_X where there is only clsact`, or `CAP_X, CAP_Y`.
fn read_row(cell: &str) -> Row {
    let bits = |text: &str| -> u64 {
        let named = CAPABILITIES.iter().filter(|(name, _)| text.contains(name));
        named.fold(0, |bits, (_, bit)| bits | 1 << bit)
    };
    assert_eq!(
        cell.matches("CAP_").count(),
        bits(cell).count_ones() as usize,
        "{cell}"
    );
    match cell.split_once(';') {
        Some((first, rest)) => {
            assert!(
                first.starts_with("none") && rest.contains("clsact"),
                "{cell}"
            );
            Row {
                kept: 0,
                kept_with_clsact: bits(rest),
            }
        }
        None => {
            assert!(cell.starts_with("none") == (bits(cell) == 0), "{cell}");
            Row {
                kept: bits(cell),
                kept_with_clsact: bits(cell),
            }
        }
    }
}

/// The sets of capabilities of one thread.
#[derive(Debug)]
struct Thread {
    name: String,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    bounding: u64,
    ambient: u64,
    has_no_new_privileges: bool,
}

fn threads(process: u32) -> Vec<Thread> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(name));
                value.unwrap().trim().to_owned()
            };
            let set = |name| u64::from_str_radix(&field(name), 16).unwrap();
            Thread {
                name: field("Name:"),
                effective: set("CapEff:"),
                permitted: set("CapPrm:"),
                inheritable: set("CapInh:"),
                bounding: set("CapBnd:"),
                ambient: set("CapAmb:"),
                has_no_new_privileges: field("NoNewPrivs:") == "1",
            }
        })
        .collect()
}

/// Compares every thread with what it may have, by its name.
fn check(threads: &[Thread], allowed: impl Fn(&str) -> Option<u64>) {
    for thread in threads {
        let kept = allowed(&thread.name);
        let kept = kept.unwrap_or_else(|| panic!("{thread:?} is not in the table"));
        assert_eq!(thread.effective, kept, "{thread:?}");
        assert_eq!(thread.permitted, kept, "{thread:?}");
        assert_eq!((thread.inheritable, thread.ambient), (0, 0), "{thread:?}");
        assert_eq!(thread.bounding, kept, "{thread:?}");
        assert!(thread.has_no_new_privileges, "{thread:?}");
    }
}

fn count(threads: &[Thread], name: &str) -> usize {
    threads.iter().filter(|thread| thread.name == name).count()
}

fn range() -> Range {
    Range::build(&Topology::from_yaml_str(ONE).unwrap()).unwrap()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn each_thread_has_the_capabilities_of_the_table() {
    let range = range();
    let (host, other) = (range.host("host").unwrap(), range.host("other").unwrap());
    let table = table();
    println!("{table:#?}");
    let arguments = [
        "--all",
        "--reverse-dns",
        "--netns",
        other.namespace().name(),
    ];
    let daemon = Daemon::start(host, 7511, &arguments);
    let allowed = |name: &str| table.get(name).map(|row| row.kept);
    let running = threads(daemon.id());
    check(&running, allowed);
    for (name, wanted) in [
        ("phalanx", 1),
        ("watcher", 2),
        ("loop", 1),
        ("names", 1),
        ("conntrack", 1),
    ] {
        assert_eq!(count(&running, name), wanted, "{running:#?}");
    }
    assert_eq!((count(&running, "api"), count(&running, "capture")), (2, 0));

    await_that("the daemon is ready", || {
        daemon.get("/readyz")["status"] == "ok"
    });
    let capture = daemon.post("/api/v1/captures", &json!({"filter": "", "duration": 60}));
    assert_eq!(capture["state"], "running", "{capture}");
    // A download takes threads that may wait for the disk.
    let path = format!("/api/v1/captures/{}", capture["id"].as_str().unwrap());
    let file = daemon.curl(&[], &format!("{path}/file"));
    assert!(!file.is_empty());
    let running = threads(daemon.id());
    check(&running, allowed);
    assert_eq!(count(&running, "capture"), 1, "{running:#?}");
    let names: BTreeSet<&str> = running.iter().map(|it| it.name.as_str()).collect();
    let known: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    assert_eq!(names, known, "each row has a thread");
    println!("{} threads: {names:?}", running.len());
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn clsact_keeps_what_it_needs_and_nobody_looks_or_asks_in_vain() {
    let range = range();
    let table = table();
    let settings = [
        "tc_attachment=clsact",
        "socket_owners=false",
        "connection_tracking=false",
    ];
    let mut arguments = vec!["--all"];
    arguments.extend(settings.iter().flat_map(|it| ["--set", it]));
    let daemon = Daemon::start(range.host("host").unwrap(), 7512, &arguments);
    let running = threads(daemon.id());
    assert_eq!(count(&running, "watcher"), 1);
    assert_eq!(count(&running, "conntrack"), 0);
    assert!(table["watcher"].kept_with_clsact != 0);
    check(&running, |name| match name {
        "names" => Some(0),
        _ => table.get(name).map(|row| row.kept_with_clsact),
    });
}
