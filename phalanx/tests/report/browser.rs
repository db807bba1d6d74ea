//! Debian's Chromium without a window, spoken to through a pipe by its debugging protocol.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PROGRAM: &str = "/usr/bin/chromium";

/// A busy machine starts a browser slowly.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The protocol speaks at the descriptors 3 and 4; the shell lays the pipes there. The sandbox
/// does not work for root, and the pages are our own.
const START: &str = "exec \"$0\" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
     --no-first-run --disable-background-networking --disable-component-update \
     --force-device-scale-factor=1 --user-data-dir=\"$1\" --remote-debugging-pipe about:blank \
     3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";

/// A browser with one tab.
pub(crate) struct Browser {
    process: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
    session: Option<String>,
    number: u64,
    folder: PathBuf,
    /// What went wrong in the page.
    pub(crate) errors: Vec<String>,
    /// What the page asked for.
    pub(crate) requests: Vec<String>,
    is_loaded: bool,
}

impl Browser {
    /// Starts one; `None` where it is not installed.
    pub(crate) fn start(tag: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            println!("SKIPPED: {PROGRAM} is not installed");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("phx-ui-{tag}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut process = Command::new("sh")
            .args(["-c", START, PROGRAM])
            .arg(folder.join("profile"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let (sender, messages) = sync_channel(4_096);
        std::thread::spawn(move || {
            for message in BufReader::new(output).split(0) {
                let Ok(message) = message else { break };
                let value = serde_json::from_slice(&message).unwrap_or(Value::Null);
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let mut browser = Self {
            input: process.stdin.take(),
            process,
            messages,
            session: None,
            number: 0,
            folder,
            errors: Vec::new(),
            requests: Vec::new(),
            is_loaded: false,
        };
        browser.open_tab();
        Some(browser)
    }

    fn open_tab(&mut self) {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", attach);
        self.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
    }

    /// A place for files that goes with the browser.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Opens a file and waits until it is loaded.
    pub(crate) fn open(&mut self, path: &Path) {
        self.is_loaded = false;
        let url = format!("file://{}", path.display());
        self.call("Page.navigate", json!({ "url": url }));
        let until = Instant::now() + TIMEOUT;
        while !self.is_loaded {
            let message = self.receive(until);
            self.note(&message);
        }
        // What the page draws in its next frame is drawn, then.
        self.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))");
    }

    /// The value of an expression in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let answer = self.call("Runtime.evaluate", asked);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Presses the mouse at one place and lets it go at another.
    pub(crate) fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        let steps = [
            ("mousePressed", from),
            ("mouseMoved", to),
            ("mouseReleased", to),
        ];
        for (kind, (x, y)) in steps {
            let event = json!({
                "type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// One command of the protocol, and its answer.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.as_mut().unwrap().write_all(&bytes).unwrap();
        let until = Instant::now() + TIMEOUT;
        loop {
            let message = self.receive(until);
            if message["id"] == self.number {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn receive(&mut self, until: Instant) -> Value {
        let left = until.saturating_duration_since(Instant::now());
        let message = self.messages.recv_timeout(left);
        message.expect("the browser ended, or says nothing any more")
    }

    /// Keeps what a message tells of the page.
    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Page.loadEventFired" => self.is_loaded = true,
            "Runtime.exceptionThrown" => self.errors.push(parameters.to_string()),
            "Runtime.consoleAPICalled" => self.errors.push(parameters["args"].to_string()),
            "Log.entryAdded" => self.errors.push(parameters["entry"].to_string()),
            "Network.requestWillBeSent" => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                self.requests.push(url.to_owned());
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when nobody speaks to it any more; what does not is ended.
        self.input = None;
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
