//! The real Prometheus scrapes the real daemon: its checks pass, its rules load, and the queries of
//! the dashboard have data.

#![expect(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Two namespaces joined by a pair of interfaces; gone with the value.
struct Pair {
    names: [String; 2],
    folder: PathBuf,
}

impl Pair {
    fn new() -> Self {
        let id = std::process::id();
        let names = ["c", "s"].map(|end| format!("phx-prom-{end}{id}"));
        let folder = std::env::temp_dir().join(format!("phx-prom-{id}"));
        std::fs::create_dir_all(&folder).unwrap();
        for name in &names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        let [client, server] = &names;
        ip(&[
            "link", "add", "prom0", "netns", client, "type", "veth", "peer", "prom1", "netns",
            server,
        ]);
        for (name, link, address) in [
            (client, "prom0", "10.78.0.1/24"),
            (server, "prom1", "10.78.0.2/24"),
        ] {
            ip(&["-n", name, "addr", "add", address, "dev", link]);
            ip(&["-n", name, "link", "set", link, "up"]);
        }
        Self { names, folder }
    }

    fn command(&self, end: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.names[end], program])
            .current_dir(&self.folder);
        command
    }

    fn start(&self, end: usize, program: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(end, program);
        Running(
            command
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    fn fetch(&self, url: &str) -> Option<String> {
        let output = self
            .command(0, "curl")
            .args(["-sf", "--max-time", "5", url])
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn await_url(&self, url: &str) {
        let limit = Instant::now() + Duration::from_secs(60);
        while self.fetch(url).is_none() {
            assert!(Instant::now() < limit, "{url} does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn say(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The queries of the dashboard, with its variables filled in.
fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(examples().join("grafana/phalanx.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let filled = |expression: &str| {
        expression
            .replace("$client", ".*")
            .replace("$server", ".*")
            .replace("$__rate_interval", "30s")
    };
    targets
        .map(|target| filled(target["expr"].as_str().unwrap()))
        .collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn prometheus_scrapes_the_daemon_and_every_query_has_data() {
    let pair = Pair::new();
    let captures = format!(
        "capture_directory={}",
        pair.folder.join("captures").display()
    );
    let program = env!("CARGO_BIN_EXE_phalanx");
    let _daemon = pair.start(0, program, &["up", "-i", "prom0", "--set", &captures]);
    let _server = pair.start(
        1,
        "python3",
        &["-m", "http.server", "8000", "--bind", "10.78.0.2"],
    );
    pair.await_url("http://127.0.0.1:7070/readyz");
    pair.await_url("http://10.78.0.2:8000/");
    for name in ["recording.rules.yml", "alerts.rules.yml"] {
        std::fs::copy(
            examples().join("prometheus").join(name),
            pair.folder.join(name),
        )
        .unwrap();
    }
    let config = std::fs::read_to_string(examples().join("prometheus/prometheus.yml")).unwrap();
    std::fs::write(
        pair.folder.join("prometheus.yml"),
        config.replace("15s", "1s"),
    )
    .unwrap();
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "recording.rules.yml"],
        ["check", "rules", "alerts.rules.yml"],
    ] {
        let output = pair
            .command(0, "promtool")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", say(&output));
    }
    let metrics = pair.fetch("http://127.0.0.1:7070/metrics").unwrap();
    std::fs::write(pair.folder.join("metrics"), metrics).unwrap();
    let input = std::fs::File::open(pair.folder.join("metrics")).unwrap();
    let checked = pair
        .command(0, "promtool")
        .args(["check", "metrics"])
        .stdin(input)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", say(&checked));
    let _prometheus = pair.start(
        0,
        "prometheus",
        &[
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:9090",
        ],
    );
    pair.await_url("http://127.0.0.1:9090/-/ready");
    ask_until_answered(&pair);
}

/// Keeps traffic going until every query has had data.
fn ask_until_answered(pair: &Pair) {
    let mut left = queries();
    assert!(left.len() > 20);
    let limit = Instant::now() + Duration::from_secs(90);
    while !left.is_empty() {
        assert!(Instant::now() < limit, "no data for {left:#?}");
        for _ in 0..5 {
            pair.fetch("http://10.78.0.2:8000/");
        }
        pair.fetch("http://10.78.0.2:81/");
        left.retain(|query| !has_data(pair, query));
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn has_data(pair: &Pair, query: &str) -> bool {
    let output = pair
        .command(0, "curl")
        .args([
            "-sf",
            "--max-time",
            "5",
            "--data-urlencode",
            &format!("query={query}"),
        ])
        .arg("http://127.0.0.1:9090/api/v1/query")
        .output()
        .unwrap();
    assert!(output.status.success(), "{query}: {}", say(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let result = answer["data"]["result"].as_array().unwrap();
    // A quantile of nothing is no data.
    result.iter().any(|series| series["value"][1] != "NaN")
}
