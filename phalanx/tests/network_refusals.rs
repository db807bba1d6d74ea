//! Bad input to a running daemon: filters, captures beyond the limits, configuration files, at the
//! start and at a reload. What keeps it from starting otherwise is in `network_daemon.rs`, a full
//! disk and an interface that vanishes in `network_capture.rs`, TLS and tokens in `network_tls.rs`.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::path::PathBuf;
use std::process::Output;

use daemon::{BINARY, Daemon, START_TIMEOUT, STEP_TIMEOUT, await_that, error_of, hop, up};
use nix::sys::signal::Signal;
use phalanx_range::{Host, Range, Topology};
use serde_json::{Value, json};

const TWO: &str = "
nodes: [{ name: host }, { name: other }]
links:
  - { name: one, a: { node: host, interface: one0 }, b: { node: other, interface: one0 } }
  - { name: two, a: { node: host, interface: two0 }, b: { node: other, interface: two0 } }
";

fn range() -> Range {
    Range::build(&Topology::from_yaml_str(TWO).unwrap()).unwrap()
}

/// A file; gone with the value.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("phx-{}-{name}", std::process::id()));
        let file = Self(path);
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn phalanx(host: &Host, arguments: &[&str]) -> Output {
    host.command(BINARY)
        .unwrap()
        .args(arguments)
        .output()
        .unwrap()
}

/// Whether a text has all parts.
fn check_parts(text: &str, parts: &[&str]) {
    println!("{}", text.trim_end());
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn captures_that_cannot_be_are_refused_with_the_place_and_the_remedy() {
    let range = range();
    let host = range.host("host").unwrap();
    let bytes_max = "capture_bytes_max=2000000";
    let daemon = Daemon::start(host, 7561, &["--all", "--set", bytes_max]);
    let create = |body: Value| daemon.post("/api/v1/captures", &body);

    let refused = create(json!({"filter": "tcp prot 443"}));
    println!("{refused}");
    assert_eq!(
        (&refused["status"], &refused["field"]),
        (&json!(422), &json!("filter"))
    );
    assert_eq!(refused["position"], 4);
    let api = daemon.api();
    let capture = ["capture", "-w", "/dev/null", "--api", &api];
    let error = error_of(&phalanx(
        host,
        &[&capture[..], &["tcp", "prot", "443"]].concat(),
    ));
    check_parts(&error, &["filter: ", "`prot`", "(at byte 4)", "filter"]);
    let error = error_of(&phalanx(
        host,
        &[&capture[..], &["host", "10.0.0.256"]].concat(),
    ));
    check_parts(&error, &["filter: ", "10.0.0.256", "(at byte 5)"]);

    let refused = create(json!({"filter": "tcp", "max_bytes": 2_000_001}));
    println!("{refused}");
    assert_eq!(
        (&refused["status"], &refused["field"]),
        (&json!(422), &json!("max_bytes"))
    );
    check_parts(refused["detail"].as_str().unwrap(), &["2000001"]);
    check_parts(refused["remedy"].as_str().unwrap(), &["2000000"]);
    let first = create(json!({"filter": "tcp", "max_bytes": 1_500_000}));
    assert_eq!(first["state"], "running", "{first}");
    let refused = create(json!({"filter": "tcp", "max_bytes": 1_000_000}));
    println!("{refused}");
    assert_eq!(refused["status"], 429);
    check_parts(
        refused["remedy"].as_str().unwrap(),
        &["stop one", "ask for less"],
    );
    let second = create(json!({"filter": "tcp", "max_bytes": 500_000}));
    assert_eq!(second["state"], "running", "{second}");

    let refused = create(json!({"filter": "tcp", "interfaces": ["one0", "nosuch0"]}));
    println!("{refused}");
    assert_eq!(refused["field"], "interfaces[1]");
    check_parts(
        refused["detail"].as_str().unwrap(),
        &["nosuch0 is not watched"],
    );
}

/// Starts with a configuration that is refused, and checks it with the verb that is there for it.
fn refused(host: &Host, text: &str, parts: &[&str]) {
    let file = File::new("refused.toml", text);
    let checked = phalanx(host, &["config", "check", file.path()]);
    assert!(!checked.status.success(), "{checked:?}");
    let said = [checked.stdout, checked.stderr].concat();
    check_parts(&String::from_utf8(said).unwrap(), parts);
    let output = up(host).args(["--config", file.path()]).output().unwrap();
    check_parts(&error_of(&output), parts);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_configuration_with_errors_is_refused_with_their_lines() {
    let range = range();
    let host = range.host("host").unwrap();
    refused(
        host,
        "# ours\nhook = \"tc\"\nlisten = \"7070\"\n\nintefaces = []\n",
        &[
            "refused.toml:3: listen: \"7070\" is not an address and port",
            "refused.toml:5: unknown key \"intefaces\"; did you mean \"interfaces\"?",
        ],
    );
    refused(host, "hook = \"tc\"\nlisten = = 3\n", &["refused.toml:2: "]);
    refused(
        host,
        "hook = \"tc\"\ntokens = [\"me:boss:00\"]\n",
        &["refused.toml:2: tokens: me: the role must be viewer, operator or admin"],
    );
    refused(
        host,
        "\n\nlog = \"phalanx=loud\"\n",
        &["refused.toml:3: log: ", "such as info"],
    );
    let output = up(host)
        .args(["--config", "/nosuch.toml"])
        .output()
        .unwrap();
    check_parts(
        &error_of(&output),
        &["read configuration /nosuch.toml: No such file"],
    );
    let output = up(host).env("PHALANX_HOOK", "xpd").output().unwrap();
    check_parts(
        &error_of(&output),
        &["PHALANX_HOOK: hook: \"xpd\" is not one of auto"],
    );
}

/// The interfaces that are watched.
fn watched(daemon: &Daemon<'_>) -> Vec<String> {
    let status = daemon.status();
    let hops = status["hops"].as_array().unwrap().iter();
    hops.map(|hop| hop["interface"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_reload_of_something_broken_keeps_what_was_in_force_and_says_so() {
    let range = range();
    let host = range.host("host").unwrap();
    let (address, port) = ("127.0.0.1:7562", 7562);
    let names = File::new("names.toml", "");
    let head = format!(
        "listen = \"{address}\"\nnames_file = \"{}\"\n",
        names.path()
    );
    let with = |interfaces: &str| format!("{head}interfaces = {interfaces}\n");
    let file = File::new("reload.toml", &with("[\"one0\"]"));
    let mut command = up(host);
    command.args(["--config", file.path()]);
    let daemon = Daemon::spawn(host, port, command);
    daemon.await_line("watching;", START_TIMEOUT);
    await_that("one interface is watched", || watched(&daemon) == ["one0"]);

    let broken = [
        (with("[\"two0\""), "reload.toml:3: "),
        (
            with("\"two0\""),
            "reload.toml:3: interfaces: must be a list of texts",
        ),
        (
            with("[\"two0\"]") + "lsten = 1\n",
            "reload.toml:4: unknown key",
        ),
        (
            with("[\"two0\"]") + "tokens = [\"x\"]\n",
            "reload.toml:4: tokens: each token must be name:role:sha256",
        ),
    ];
    for (text, fault) in &broken {
        file.write(text);
        daemon.signal(Signal::SIGHUP);
        let line = daemon.await_line("nothing was reloaded", STEP_TIMEOUT);
        println!("{line}");
        assert!(line.contains("ERROR") && line.contains(fault), "{line}");
    }
    std::fs::remove_file(&file.0).unwrap();
    daemon.signal(Signal::SIGHUP);
    let line = daemon.await_line("nothing was reloaded", STEP_TIMEOUT);
    assert!(line.contains("No such file"), "{line}");
    assert_eq!(watched(&daemon), ["one0"]);

    // What is right holds again, though the file of names is not.
    names.write("[[name]]\nprefix = \"10.0.0.0/33\"\nservice = \"x\"\n");
    file.write(&(with("[\"one0\", \"two0\"]") + "hook = \"tc\"\n"));
    daemon.signal(Signal::SIGHUP);
    let line = daemon.await_line("take a restart", STEP_TIMEOUT);
    assert!(line.contains("WARN") && line.contains("hook"), "{line}");
    let line = daemon.await_line("names stay as they are", STEP_TIMEOUT);
    assert!(line.contains("names.toml: line 2: "), "{line}");
    let line = daemon.await_line("reloaded changed", STEP_TIMEOUT);
    assert!(line.contains("interfaces"), "{line}");
    await_that("both interfaces are watched", || {
        watched(&daemon) == ["one0", "two0"]
    });
    assert_ne!(hop(&daemon.status(), "two0")["state"], "failed");
}
