//! Agents and a hub in namespaces of a range.

use std::path::Path;
use std::process::Command;

use phalanx_range::Host;
use serde_json::Value;

use crate::daemon::{BINARY, Daemon, START_TIMEOUT, error_of};
use crate::folder::Folder;

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn phalanx(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a hub that is reached at all addresses of a host; gives the URL at the first one.
pub(crate) fn make_hub(folder: &Folder, host: &Host) -> String {
    let directory = folder.0.join("hub");
    let addresses: Vec<String> = host.addresses().map(|it| it.to_string()).collect();
    let mut arguments = vec!["hub", "init", "--dir", text(&directory)];
    arguments.extend(addresses.iter().flat_map(|it| ["--name", it]));
    phalanx(&arguments);
    format!("https://{}:7071", host.ipv4().unwrap())
}

pub(crate) fn start_hub<'range>(folder: &Folder, host: &'range Host, port: u16) -> Daemon<'range> {
    let mut command = host.command(BINARY).unwrap();
    command.args(["hub", "--dir", text(&folder.0.join("hub"))]);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--set", "local_role=admin"]);
    let hub = Daemon::spawn(host, port, command);
    hub.await_line("hub: agents at", START_TIMEOUT);
    hub
}

pub(crate) fn enroll(folder: &Folder, host: &Host, url: &str, name: &str) {
    let hub = folder.0.join("hub");
    let told = phalanx(&[
        "hub",
        "token",
        "--dir",
        text(&hub),
        "--host",
        name,
        "--url",
        url,
        "--format",
        "json",
    ]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let mut command = host.command(BINARY).unwrap();
    command.args(["agent", "enroll", "--dir", text(&folder.0.join(name))]);
    let token = told["token"].as_str().unwrap();
    let output = command.args(["--token", token]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let again = host
        .command(BINARY)
        .unwrap()
        .args(["agent", "enroll", "--token", token])
        .args(["--dir", text(&folder.0.join(format!("{name}-again")))])
        .output()
        .unwrap();
    assert!(error_of(&again).contains("the token was used already"));
}

pub(crate) fn start_agent<'range>(
    folder: &Folder,
    host: &'range Host,
    port: u16,
    name: &str,
    arguments: &[&str],
) -> Daemon<'range> {
    let mut command = host.command(BINARY).unwrap();
    command.args(["agent", "--dir", text(&folder.0.join(name))]);
    // It outlives the process: another one finds what the one before left.
    let captures = folder.0.join(format!("{name}-captures"));
    command.env("PHALANX_CAPTURE_DIRECTORY", captures);
    command.args(arguments);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let agent = Daemon::spawn(host, port, command);
    agent.await_line("watching;", START_TIMEOUT);
    agent
}

pub(crate) fn agent_of(hub: &Daemon<'_>, name: &str) -> Value {
    let list = hub.get("/api/v1/agents");
    let agents = list["agents"].as_array().unwrap();
    let found = agents.iter().find(|agent| agent["name"] == name);
    found.cloned().unwrap_or_default()
}
