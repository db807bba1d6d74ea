//! The API beyond the loopback: TLS, tokens and roles, asked by curl from another host; and what
//! keeps it from being served there. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::{BINARY, Daemon, START_TIMEOUT, await_that, error_of, up};
use phalanx::auth::TokenDigest;
use phalanx_range::{Host, Range, Topology};
use serde_json::{Value, json};

const PAIR: &str = "
nodes: [{ name: user }, { name: host }]
links:
  - a: { node: user, addresses: [10.90.0.1/24] }
    b: { node: host, addresses: [10.90.0.2/24] }
";
const LISTEN: &str = "10.90.0.2:7521";
const ROLES: [&str; 3] = ["viewer", "operator", "admin"];

/// Certificates, keys and a configuration; gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(tag: &str) -> Self {
        let path = std::env::temp_dir().join(format!("phx-{tag}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A certificate for an address, signed by its own key: `NAME.pem` and `NAME.key`.
    fn certify(&self, name: &str, address: &str) {
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=phalanx-test", "-addext"])
            .arg(format!("subjectAltName=IP:{address}"))
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(self.path(&format!("{name}.key")))
            .arg("-out")
            .arg(self.path(&format!("{name}.pem")))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A configuration with these lines beside the address.
    fn configure(&self, lines: &[String]) -> PathBuf {
        let path = self.path("phalanx.toml");
        let text = format!("listen = \"{LISTEN}\"\n{}\n", lines.join("\n"));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn tls(&self, certificate: &str, key: &str) -> [String; 2] {
        [
            line("tls_certificate_file", &self.path(certificate)),
            line("tls_key_file", &self.path(key)),
        ]
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn line(key: &str, path: &Path) -> String {
    format!("{key} = \"{}\"", path.display())
}

/// The token of a role.
fn token(role: &str) -> String {
    format!("{role}-{}", "0123456789abcdef".repeat(4))
}

fn tokens() -> String {
    let tokens =
        ROLES.map(|role| format!("\"the-{role}:{role}:{}\"", TokenDigest::of(&token(role))));
    format!("tokens = [{}]", tokens.join(", "))
}

/// An answer of the API.
#[derive(Debug)]
struct Answer {
    status: u32,
    body: Value,
}

/// Who asks from the other host.
struct User<'range> {
    host: &'range Host,
    authority: PathBuf,
}

impl User<'_> {
    /// The exit status of curl, and what it printed.
    fn curl(&self, arguments: &[&str]) -> (i32, String) {
        let output = self
            .host
            .command("curl")
            .unwrap()
            .args(["-s", "--max-time", "20", "-w", "\n%{http_code}"])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), text)
    }

    fn ask(&self, token: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let url = format!("https://{LISTEN}{path}");
        let authority = self.authority.to_str().unwrap();
        let mut arguments = vec!["--cacert", authority, "-X", method, &url];
        let header = format!("authorization: Bearer {}", token.unwrap_or_default());
        if token.is_some() {
            arguments.extend(["-H", &header]);
        }
        let body = body.map(Value::to_string);
        if let Some(body) = &body {
            arguments.extend(["-H", "content-type: application/json", "-d", body]);
        }
        let (status, text) = self.curl(&arguments);
        assert_eq!(status, 0, "{method} {path}: {text}");
        answer(&text)
    }
}

fn answer(text: &str) -> Answer {
    let (body, status) = text.rsplit_once('\n').unwrap();
    Answer {
        status: status.parse().unwrap(),
        body: serde_json::from_str(body).unwrap_or_default(),
    }
}

fn range() -> Range {
    Range::build(&Topology::from_yaml_str(PAIR).unwrap()).unwrap()
}

fn start<'range>(range: &'range Range, folder: &Folder) -> (Daemon<'range>, User<'range>) {
    folder.certify("good", "10.90.0.2");
    let [certificate, key] = folder.tls("good.pem", "good.key");
    let file = folder.configure(&[certificate, key, tokens()]);
    let host = range.host("host").unwrap();
    let mut command = up(host);
    command.arg("--all").arg("--config").arg(file);
    let daemon = Daemon::spawn(host, 7521, command);
    let watching = daemon.await_line("watching;", START_TIMEOUT);
    assert!(watching.contains(LISTEN), "{watching}");
    let user = User {
        host: range.host("user").unwrap(),
        authority: folder.path("good.pem"),
    };
    await_that("the daemon is ready", || {
        user.ask(None, "GET", "/readyz", None).status == 200
    });
    (daemon, user)
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn each_role_may_what_it_may_over_tls() {
    let range = range();
    let folder = Folder::new("tls-roles");
    let (mut daemon, user) = start(&range, &folder);

    assert_eq!(user.ask(None, "GET", "/healthz", None).status, 200);
    for wrong in [None, Some("wrong"), Some("viewer")] {
        for path in [
            "/metrics",
            "/api/v1/status",
            "/api/v1/flows",
            "/api/v1/captures",
        ] {
            let answer = user.ask(wrong, "GET", path, None);
            assert_eq!(answer.status, 401, "{wrong:?} {path}");
        }
    }
    let headers = json!({"filter": "tcp", "duration": 60});
    let payload = json!({"filter": "tcp", "duration": 60, "snaplen": 512});
    let create =
        |role: &str, body| user.ask(Some(&token(role)), "POST", "/api/v1/captures", Some(body));
    for (role, with_headers, with_payload) in [
        ("viewer", 403, 403),
        ("operator", 201, 403),
        ("admin", 201, 201),
    ] {
        for path in [
            "/metrics",
            "/api/v1/status",
            "/api/v1/flows",
            "/api/v1/captures",
        ] {
            assert_eq!(user.ask(Some(&token(role)), "GET", path, None).status, 200);
        }
        let answer = create(role, &headers);
        assert_eq!(answer.status, with_headers, "{role}: {answer:?}");
        let refused = create(role, &payload);
        assert_eq!(refused.status, with_payload, "{role}: {refused:?}");
        if with_payload == 403 {
            let remedy = refused.body["remedy"].as_str().unwrap();
            assert!(remedy.contains("use a token with the role"), "{remedy}");
        }
    }
    let list = user.ask(Some(&token("viewer")), "GET", "/api/v1/captures", None);
    let captures = list.body["captures"].as_array().unwrap();
    assert_eq!(captures.len(), 3, "{list:?}");
    let of = |has_payload: bool| {
        let mut all = captures.iter();
        let one =
            all.find(|it| (it["request"]["snaplen"].as_u64().unwrap_or(0) > 0) == has_payload);
        format!("/api/v1/captures/{}", one.unwrap()["id"].as_str().unwrap())
    };
    // Payload is for the admin alone; without it the same capture is for the operator too.
    let file = format!("{}/file", of(true));
    let redacted = format!("{file}?redact=addresses");
    for (role, path, wanted) in [
        ("operator", &file, 403),
        ("operator", &redacted, 200),
        ("admin", &file, 200),
    ] {
        let answer = user.ask(Some(&token(role)), "GET", path, None);
        assert_eq!(answer.status, wanted, "{role} {path}: {answer:?}");
    }
    let one = of(false);
    for (method, path) in [
        ("POST", format!("{one}/stop")),
        ("GET", format!("{one}/file")),
        ("DELETE", one.clone()),
    ] {
        for (role, wanted) in [("viewer", 403..404), ("operator", 200..205)] {
            let answer = user.ask(Some(&token(role)), method, &path, None);
            assert!(
                wanted.contains(&answer.status),
                "{role} {method} {path}: {answer:?}"
            );
        }
    }
    assert_eq!(
        user.ask(Some(&token("viewer")), "GET", &one, None).status,
        404
    );
    let log = daemon.lines().join("\n");
    for role in ROLES {
        assert!(!log.contains(&token(role)), "a token is in the log: {log}");
    }
    assert!(daemon.is_alive());
}

/// `phalanx status` from the other host.
fn show_status(user: &User<'_>, scheme: &str, token: &str) -> std::process::Output {
    let url = format!("{scheme}://{LISTEN}");
    let mut command = user.host.command(BINARY).unwrap();
    command.args(["status", "--api", &url, "--ca"]);
    command.arg(&user.authority).env("PHALANX_TOKEN", token);
    command.output().unwrap()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn who_does_not_speak_tls_or_trust_the_certificate_is_told() {
    let range = range();
    let folder = Folder::new("tls-plain");
    let (mut daemon, mut user) = start(&range, &folder);

    let header = format!("authorization: Bearer {}", token("admin"));
    let url = format!("http://{LISTEN}/api/v1/status");
    let (status, text) = user.curl(&["-H", &header, &url]);
    assert_eq!(status, 0, "{text}");
    let refused = answer(&text);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("TLS"));
    assert!(
        refused.body["remedy"]
            .as_str()
            .unwrap()
            .contains("https://")
    );
    let body = "x".repeat(20_000);
    let (_, text) = user.curl(&["-d", &body, &format!("http://{LISTEN}/api/v1/captures")]);
    assert_eq!(answer(&text).status, 400, "{text}");

    // 60: the certificate is signed by nobody who is known. 35: no common version of TLS.
    let url = format!("https://{LISTEN}/healthz");
    assert_eq!(user.curl(&[&url]).0, 60);
    let old = ["-k", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"];
    assert_eq!(user.curl(&[&old[..], &[&url]].concat()).0, 35);

    let shown = show_status(&user, "https", &token("viewer"));
    assert!(shown.status.success(), "{shown:?}");
    let error = error_of(&show_status(&user, "https", "wrong"));
    assert!(error.contains("tokens"), "{error}");
    let error = error_of(&show_status(&user, "http", &token("viewer")));
    assert!(error.contains("https://"), "{error}");
    folder.certify("stranger", "10.90.0.2");
    user.authority = folder.path("stranger.pem");
    let error = error_of(&show_status(&user, "https", &token("viewer")));
    assert!(error.contains("signed by what --ca names"), "{error}");
    assert!(daemon.is_alive());
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn it_refuses_to_start_where_it_would_be_open() {
    let range = range();
    let folder = Folder::new("tls-refused");
    folder.certify("good", "10.90.0.2");
    folder.certify("other", "10.90.0.2");
    for (from, to, mode) in [
        ("good.key", "open.key", 0o644),
        ("good.pem", "no.key", 0o600),
    ] {
        std::fs::copy(folder.path(from), folder.path(to)).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.path(to), mode).unwrap();
    }
    std::fs::write(folder.path("empty.pem"), "").unwrap();
    let host = range.host("host").unwrap();
    let tls = |certificate, key| folder.tls(certificate, key).to_vec();
    let with_tokens = |lines: Vec<String>| [lines, vec![tokens()]].concat();
    let cases: Vec<(Vec<String>, &[&str])> = vec![
        (vec![], &["10.90.0.2", "set tokens", "127.0.0.1"]),
        (tls("good.pem", "good.key"), &["set tokens"]),
        (
            with_tokens(vec![]),
            &["unencrypted", "tls_certificate_file", "tls_key_file"],
        ),
        (
            with_tokens(vec![tls("good.pem", "good.key").remove(0)]),
            &["tls_certificate_file and tls_key_file", "both"],
        ),
        (
            with_tokens(tls("none.pem", "good.key")),
            &["certificate", "none.pem", "No such file"],
        ),
        (
            with_tokens(tls("good.pem", "none.key")),
            &["private key", "none.key", "No such file"],
        ),
        (
            with_tokens(tls("empty.pem", "good.key")),
            &["certificate", "empty.pem", "there is none"],
        ),
        (
            with_tokens(tls("good.key", "good.key")),
            &["certificate", "good.key", "there is none"],
        ),
        (
            with_tokens(tls("good.pem", "no.key")),
            &["private key", "no.key", "PEM"],
        ),
        (
            with_tokens(tls("good.pem", "other.key")),
            &[
                "good.pem",
                "other.key",
                "the key must belong to the first certificate",
            ],
        ),
        (
            with_tokens(tls("good.pem", "open.key")),
            &["open.key", "everybody", "chmod o="],
        ),
    ];
    for (lines, wanted) in cases {
        let file = folder.configure(&lines);
        let output = up(host).arg("--config").arg(file).output().unwrap();
        let error = error_of(&output);
        println!("{}", error.trim_end());
        for part in wanted {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        for role in ROLES {
            let digest = TokenDigest::of(&token(role)).to_string();
            assert!(!error.contains(&digest), "{error}");
        }
    }
}
