//! Who is not let in, and what is said of it.

use std::net::SocketAddr;
use std::path::Path;

use phalanx::agent::UplinkState;
use phalanx::link::credential::Invitation;

use crate::stage::{Feeder, Folder, Hub, await_that, failure, options, phalanx};

/// Why an agent finds no session.
fn why_refused(directory: &Path, agents: SocketAddr) -> String {
    let feeder = Feeder::start(options(directory, agents), 1, 1);
    let mut why = String::new();
    await_that("it is refused", || match feeder.uplink.status.state() {
        UplinkState::Failed(told) => {
            why = told;
            true
        }
        UplinkState::Connecting => false,
        UplinkState::Connected => panic!("it was let in"),
    });
    feeder.end();
    why
}

#[test]
fn tokens_let_in_once_and_in_time() {
    let folder = Folder::new("tokens");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let enroll = |token: &str, name: &str| {
        let directory = folder.0.join(name);
        let directory = directory.to_str().unwrap().to_owned();
        ["agent", "enroll", "--token", token, "--dir", &directory].map(str::to_owned)
    };
    let token = hub.token("web-1");
    let words = enroll(&token, "first");
    phalanx(&words.each_ref().map(String::as_str));
    let words = enroll(&token, "second");
    let told = failure(&words.each_ref().map(String::as_str));
    assert!(told.contains("used already"), "{told}");
    // No secret of it is in the clear at the hub.
    let secret = Invitation::decode(&token).unwrap().secret;
    for entry in std::fs::read_dir(hub.directory.join("tokens")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&secret) && !path.to_str().unwrap().contains(&secret));
    }
    for path in ["hub/authority.key", "hub/hub.key", "first/agent.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.0.join(path))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{path}");
    }

    let old = hub.token("web-2");
    for entry in std::fs::read_dir(hub.directory.join("tokens")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none() {
            std::fs::write(path, r#"{"host":"web-2","expires_s":1}"#).unwrap();
        }
    }
    let words = enroll(&old, "old");
    let told = failure(&words.each_ref().map(String::as_str));
    assert!(told.contains("has expired"), "{told}");

    let mut other = Invitation::decode(&old).unwrap();
    other.secret = "wrong".to_owned();
    let words = enroll(&other.encode(), "wrong");
    let told = failure(&words.each_ref().map(String::as_str));
    assert!(told.contains("not known here"), "{told}");
    // Nothing is said to who is not the hub of the token.
    other.fingerprint = [1; 32];
    let words = enroll(&other.encode(), "wrong");
    let told = failure(&words.each_ref().map(String::as_str));
    assert!(told.contains("nothing was sent"), "{told}");
    assert!(hub.is_alive());
}

#[test]
fn certificates_of_others_and_of_removed_agents_are_refused_and_say_so() {
    let folder = Folder::new("certificates");
    let mut hub = Hub::make(&folder, "hub");
    let mut other = Hub::make(&folder, "other");
    hub.start();
    other.start();
    let directory = hub.enroll(&folder, "web-1");
    let foreign = other.enroll(&folder, "db-1");
    let told = why_refused(&directory, other.agents);
    assert!(
        told.contains("not the hub that this agent was enrolled at"),
        "{told}"
    );
    // It believes the hub, and the hub does not believe it.
    std::fs::copy(
        directory.join("authority.pem"),
        foreign.join("authority.pem"),
    )
    .unwrap();
    let told = why_refused(&foreign, hub.agents);
    assert!(told.contains("refused the certificate"), "{told}");

    let list = phalanx(&["hub", "agents", "--dir", hub.path()]);
    assert!(list.starts_with("web-1 "), "{list}");
    let mut feeder = Feeder::start(options(&directory, hub.agents), 1, 1);
    feeder.feed(1);
    feeder.await_acknowledged();
    phalanx(&["hub", "remove", "--dir", hub.path(), "web-1"]);
    await_that("it is shut out while it speaks", || {
        feeder.feed(1);
        let state = feeder.uplink.status.state();
        matches!(state, UplinkState::Failed(why) if why.contains("was removed from this hub"))
    });
    feeder.end();
    let told = why_refused(&directory, hub.agents);
    assert!(told.contains("was removed from this hub"), "{told}");
}

#[test]
fn hosts_of_one_name_are_told_apart() {
    let folder = Folder::new("namesakes");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let first = hub.enroll(&folder, "web");
    let moved = folder.0.join("first");
    std::fs::rename(first, &moved).unwrap();
    let second = hub.enroll(&folder, "web");
    let mut feeders = [
        Feeder::start(options(&moved, hub.agents), 1, 10),
        Feeder::start(options(&second, hub.agents), 2, 10),
    ];
    for feeder in &mut feeders {
        feeder.feed(10);
        feeder.await_acknowledged();
    }
    await_that("both are shown", || {
        ["web", "web~2"]
            .iter()
            .all(|name| hub.agent(name)["hop_count"] == 1)
    });
    for name in ["web", "web~2"] {
        let agent = hub.agent(name);
        assert_eq!(agent["has_namesake"], true, "{agent}");
        assert_eq!(agent["host"], "web");
    }
    let hops = hub.get("/api/v1/hops");
    let mut hosts: Vec<&str> = hops["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| hop["host"].as_str().unwrap())
        .collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["web", "web~2"]);
    for feeder in feeders {
        feeder.end();
    }
}

#[test]
fn a_certificate_that_two_processes_share_serves_the_later_one() {
    let folder = Folder::new("cloned");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    let mut earlier = Feeder::start(options(&directory, hub.agents), 1, 10);
    earlier.feed(10);
    earlier.await_acknowledged();
    let clone = folder.0.join("clone");
    std::fs::create_dir(&clone).unwrap();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, clone.join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut later = Feeder::start(options(&clone, hub.agents), 2, 10);
    later.feed(10);
    later.await_acknowledged();
    await_that("the earlier one is told", || {
        let state = earlier.uplink.status.state();
        matches!(state, UplinkState::Failed(why) if why.contains("if this host was cloned"))
    });
    earlier.end();
    later.end();
}
