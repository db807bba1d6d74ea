//! Schemathesis asks the real daemon everything that its OpenAPI document allows, and much that it
//! does not: each answer must be one that the document describes.

#![expect(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const VERSION: &str = "schemathesis==4.32.5";

/// `token` and its SHA-256.
const TOKEN: (&str, &str) = (
    "token",
    "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0",
);

/// What these checks take for granted and this API has otherwise. `positive_data_acceptance`: a
/// filter or an address is a language of its own, a cursor is opaque. `ignored_auth`: the token
/// goes with all requests, also with those that should lack it; the roles have a test of their own.
const EXCLUDED: &str = "positive_data_acceptance,ignored_auth";

/// The daemon on the loopback of a namespace of its own; all of it goes with the value.
struct Daemon {
    namespace: String,
    folder: PathBuf,
    child: Child,
}

impl Daemon {
    fn start() -> Self {
        let id = std::process::id();
        let namespace = format!("phx-schema-{id}");
        let folder = std::env::temp_dir().join(&namespace);
        std::fs::create_dir_all(&folder).unwrap();
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        let captures = format!("capture_directory={}", folder.join("captures").display());
        let tokens = format!("tokens=admin:admin:{}", TOKEN.1);
        let child = Command::new("ip")
            .args(["netns", "exec", &namespace])
            .arg(env!("CARGO_BIN_EXE_phalanx"))
            .args(["up", "-i", "lo", "--set", &captures, "--set", &tokens])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self {
            namespace,
            folder,
            child,
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program)
            .current_dir(&self.folder);
        command
    }

    fn is_ready(&self) -> bool {
        let url = "http://127.0.0.1:7070/readyz";
        let curl = self.command(Path::new("curl")).args(["-sf", url]).output();
        curl.unwrap().status.success()
    }

    fn await_ready(&self) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !self.is_ready() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap();
            assert!(Instant::now() < limit, "the daemon is not ready: {log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
        let _ = std::fs::remove_dir_all(&self.folder);
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

/// Where schemathesis is installed: made and filled where it is missing.
fn schemathesis() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let program = root.join("bin/schemathesis");
    if program.exists() {
        return Some(program);
    }
    let mut made = Command::new("python3");
    made.args(["-m", "venv"]).arg(&root);
    let mut filled = Command::new(root.join("bin/pip"));
    filled.args(["install", "--quiet", VERSION]);
    let is_there = [made, filled]
        .iter_mut()
        .all(|command| command.status().is_ok_and(|status| status.success()));
    is_there.then_some(program)
}

/// What schemathesis takes for a rejection by itself, and 413: a filter that is too long may make a
/// body that is.
const REJECTIONS: &str = r#"
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"#;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn schemathesis_finds_nothing() {
    let Some(program) = schemathesis() else {
        println!("SKIPPED: schemathesis cannot be installed from PyPI");
        return;
    };
    let daemon = Daemon::start();
    daemon.await_ready();
    std::fs::write(daemon.folder.join("schemathesis.toml"), REJECTIONS).unwrap();
    let output = daemon
        .command(&program)
        .args(["run", "http://127.0.0.1:7070/api/openapi.json"])
        .args(["--header", &format!("authorization: Bearer {}", TOKEN.0)])
        .args(["--checks", "all", "--exclude-checks", EXCLUDED])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "50", "--seed", "1", "--no-color"])
        .args(["--exclude-path", "/api/v1/stream"])
        // Answers when the capture ends where it is to follow it.
        .args(["--exclude-path", "/api/v1/captures/{id}/file"])
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(daemon.is_ready(), "the daemon no longer answers");
}
