use axum::body::Body;
use axum::http::StatusCode;
use serde_json::Value;

use super::fixture::{Fixture, Scratch, record, request, settings, tokens};
use super::{document, problem};
use crate::auth::{Access, Role};
use crate::capture_file::CaptureFile;

/// Asserts that an answer is a problem, and gives its field.
fn problem_field(answer: &super::fixture::Answer, status: u16, what: &str) -> Value {
    assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text());
    assert_eq!(
        answer.headers["content-type"],
        problem::MEDIA_TYPE,
        "{what}"
    );
    let body = answer.json();
    assert_eq!(body["status"], status, "{what}");
    assert!(
        body["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty()),
        "{what}"
    );
    assert!(
        body["remedy"]
            .as_str()
            .is_some_and(|remedy| !remedy.is_empty()),
        "{what}"
    );
    body["field"].clone()
}

#[tokio::test]
async fn each_resource_answers() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    for uri in [
        "/healthz",
        "/readyz",
        "/api/v1/version",
        "/api/v1/hops",
        "/api/v1/flows",
        "/api/v1/conversations",
        "/api/v1/pairs",
        "/api/v1/status",
        "/api/v1/captures",
        "/api/openapi.json",
    ] {
        let answer = fixture.get(uri).await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}: {}", answer.text());
        assert!(answer.json().is_object(), "{uri}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    let page = fixture.get("/").await;
    assert!(page.text().contains("/api/v1/flows") && !page.text().contains("<script"));
}

#[tokio::test]
async fn a_daemon_that_has_not_attached_is_not_ready() {
    let scratch = Scratch::new();
    let fixture = Fixture::new(settings(&scratch));
    assert_eq!(fixture.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(
        problem_field(&fixture.get("/readyz").await, 503, "readyz"),
        Value::Null
    );
}

#[tokio::test]
async fn flows_show_what_was_measured() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let page = fixture
        .get("/api/v1/flows?client=10.0.0.1&sort=bytes")
        .await
        .json();
    let [flow] = page["flows"].as_array().unwrap().as_slice() else {
        panic!("{page}")
    };
    assert_eq!(flow["protocol"], "tcp");
    assert_eq!(flow["server"]["port"], 443);
    assert_eq!(flow["hop"]["interface"], "eth0");
    assert_eq!(flow["role_basis"], "opener");
    assert_eq!(flow["client_sent"]["packets"], 20);
    assert_eq!(flow["server_sent"]["bytes"], 4_000);
    assert_eq!(flow["rtt_server"]["last_ms"], 20.0);
    assert_eq!(flow["handshake_server_ms"], 20.0);
    let id = flow["id"].as_str().unwrap();
    let single = fixture.get(&format!("/api/v1/flows/{id}")).await.json();
    assert_eq!(single["id"], flow["id"]);
    assert_eq!(single["conversation"], flow["conversation"]);
    let page = fixture
        .get("/api/v1/conversations?client=10.0.0.2&state=closed")
        .await
        .json();
    let id = page["conversations"][0]["id"].as_str().unwrap();
    let conversation = fixture
        .get(&format!("/api/v1/conversations/{id}"))
        .await
        .json();
    assert_eq!(conversation["client"]["address"], "10.0.0.2");
    assert_eq!(conversation["close_reason"], "fin");
    assert_eq!(conversation["features"]["client_packets"], 20.0);
}

#[tokio::test]
async fn lists_are_narrowed_and_paged() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let count = async |query: &str| {
        let page = fixture.get(&format!("/api/v1/flows{query}")).await.json();
        page["flows"]
            .as_array()
            .unwrap_or_else(|| panic!("{query}: {page}"))
            .len()
    };
    assert_eq!(count("").await, 3);
    assert_eq!(count("?protocol=udp").await, 1);
    assert_eq!(count("?interface=eth1").await, 1);
    assert_eq!(count("?interface=eth7").await, 0);
    assert_eq!(count("?address=10.0.1.0/24").await, 3);
    assert_eq!(count("?port=443").await, 3);
    assert_eq!(count("?state=closed").await, 1);
    assert_eq!(count("?hop=2").await, 1);
    let first = fixture
        .get("/api/v1/flows?limit=2&sort=bytes&order=desc")
        .await
        .json();
    let next = first["next"].as_str().unwrap();
    let second = fixture
        .get(&format!(
            "/api/v1/flows?limit=2&sort=bytes&order=desc&cursor={next}"
        ))
        .await;
    let second = second.json();
    assert_eq!(first["flows"].as_array().unwrap().len(), 2);
    assert_eq!(second["flows"].as_array().unwrap().len(), 1);
    assert_eq!(second["next"], Value::Null);
    let bytes = |flow: &Value| flow["client_sent"]["bytes"].as_u64().unwrap();
    assert!(bytes(&first["flows"][0]) >= bytes(&first["flows"][1]));
    assert!(bytes(&first["flows"][1]) >= bytes(&second["flows"][0]));
}

#[tokio::test]
async fn pairs_and_failed_attempts_are_shown() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let pairs = fixture.get("/api/v1/pairs?sort=failed").await.json();
    let failed: u64 = pairs["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair["attempts_failed"].as_u64().unwrap())
        .sum();
    assert_eq!(failed, 1, "{pairs}");
    let metrics = fixture.get("/metrics").await.text();
    let line = metrics
        .lines()
        .find(|line| {
            line.starts_with("phalanx_tcp_connect_failures_total")
                && line.contains("refused")
                && line.contains("port=\"444\"")
        })
        .unwrap();
    assert!(line.ends_with(" 1"), "{line}");
}

#[tokio::test]
async fn bad_queries_name_the_parameter() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let long = format!("/api/v1/flows?interface={}", "x".repeat(3_000));
    for (uri, status, field) in [
        ("/api/v1/flows?limit=0", 422, "limit"),
        ("/api/v1/flows?limit=1001", 422, "limit"),
        ("/api/v1/flows?limit=x", 400, "limit"),
        ("/api/v1/flows?limit=", 400, "limit"),
        ("/api/v1/flows?limit=1&limit=2", 400, "limit"),
        ("/api/v1/flows?cursor=zz", 422, "cursor"),
        ("/api/v1/flows?address=nowhere", 422, "address"),
        ("/api/v1/flows?client=10.0.0.0/33", 422, "client"),
        ("/api/v1/flows?port=65536", 400, "port"),
        ("/api/v1/flows?protocol=smoke", 422, "protocol"),
        ("/api/v1/flows?state=ajar", 400, "state"),
        ("/api/v1/flows?sort=colour", 400, "sort"),
        ("/api/v1/flows?order=up", 400, "order"),
        ("/api/v1/flows?nonsense=1", 400, "nonsense"),
        ("/api/v1/conversations?pair=-1", 422, "pair"),
        ("/api/v1/conversations?sort=bytes", 400, "sort"),
        ("/api/v1/pairs?port=x", 400, "port"),
        ("/api/v1/stream?kinds=flow_opened,gossip", 422, "kinds"),
        ("/api/v1/stream", 426, "upgrade"),
        ("/api/v1/flows/0", 404, "id"),
        ("/api/v1/flows/abc", 404, "id"),
        ("/api/v1/conversations/99999", 404, "id"),
        ("/api/v1/captures/none", 404, "id"),
        ("/api/v1/captures/..%2f..%2fetc%2fpasswd", 404, "id"),
        ("/api/v1/captures/none/file", 404, "id"),
        ("/api/v1/captures/none/file?follow=perhaps", 400, "follow"),
        ("/api/v1/captures/none/file?redact=names", 400, "redact"),
    ] {
        assert_eq!(
            problem_field(&fixture.get(uri).await, status, uri),
            field,
            "{uri}"
        );
    }
    problem_field(&fixture.get(&long).await, 414, "long query");
    problem_field(&fixture.get("/api/v2/flows").await, 404, "unknown path");
    problem_field(&fixture.get("/%ff%fe").await, 404, "bytes");
    problem_field(&fixture.get("/api/v1/flows/%ff").await, 400, "no UTF-8");
}

#[tokio::test]
async fn methods_that_are_not_there_are_told() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    for (method, uri) in [
        ("POST", "/api/v1/flows"),
        ("PUT", "/api/v1/captures"),
        ("PATCH", "/metrics"),
        ("DELETE", "/"),
    ] {
        let answer = fixture
            .send(request(method, uri).body(Body::empty()).unwrap())
            .await;
        problem_field(&answer, 405, uri);
        assert!(answer.headers.contains_key("allow"), "{method} {uri}");
    }
}

#[tokio::test]
async fn bad_bodies_name_the_field() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let huge = format!(r#"{{"filter": "{}"}}"#, "x".repeat(40_000));
    let long = format!(r#"{{"filter": "{}"}}"#, "x ".repeat(2_500));
    for (body, status, field) in [
        ("", 400, Value::Null),
        ("{", 400, Value::Null),
        ("[]", 400, Value::Null),
        ("{}", 400, "filter".into()),
        (r#"{"filter": 1}"#, 400, "filter".into()),
        (
            r#"{"filter": "", "duration": "30s"}"#,
            400,
            "duration".into(),
        ),
        (r#"{"filter": "", "duration": -1}"#, 400, "duration".into()),
        (
            r#"{"filter": "", "interfaces": [1]}"#,
            400,
            "interfaces[0]".into(),
        ),
        (r#"{"filter": "", "colour": 1}"#, 400, "colour".into()),
        (r#"{"filter": ""} {"filter": ""}"#, 400, Value::Null),
        (r#"{"filter": "tcp prot 443"}"#, 422, "filter".into()),
        (r#"{"filter": "arp"}"#, 422, "filter".into()),
        (
            r#"{"filter": "", "duration": 3601}"#,
            422,
            "duration".into(),
        ),
        (r#"{"filter": "", "lookback": 0}"#, 422, "lookback".into()),
        (
            r#"{"filter": "", "lookback": "30s"}"#,
            400,
            "lookback".into(),
        ),
        (r#"{"filter": "", "snaplen": 9217}"#, 422, "snaplen".into()),
        (r#"{"filter": "", "max_bytes": 1}"#, 422, "max_bytes".into()),
        (
            r#"{"filter": "", "max_bytes": 50000001}"#,
            422,
            "max_bytes".into(),
        ),
        (
            r#"{"filter": "", "interfaces": ["nope0"]}"#,
            422,
            "interfaces[0]".into(),
        ),
        (&huge, 413, Value::Null),
        (&long, 422, "filter".into()),
    ] {
        let answer = fixture.post("/api/v1/captures", body).await;
        assert_eq!(
            problem_field(&answer, status, body),
            field,
            "{body}: {}",
            answer.text()
        );
    }
    let filter = fixture
        .post("/api/v1/captures", r#"{"filter": "tcp prot 443"}"#)
        .await;
    assert_eq!(filter.json()["position"], 4);
    let plain = request("POST", "/api/v1/captures").header("content-type", "text/plain");
    let answer = fixture
        .send(plain.body(Body::from(r#"{"filter": ""}"#)).unwrap())
        .await;
    assert_eq!(problem_field(&answer, 415, "text"), "content-type");
    assert!(
        fixture.get("/api/v1/captures").await.json()["captures"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn each_role_may_what_it_may() {
    let scratch = Scratch::new();
    let access = Access::new(tokens(), Role::Admin);
    let settings = super::service::Settings {
        access,
        ..settings(&scratch)
    };
    let fixture = Fixture::with_traffic(settings);
    let status = async |method: &str, uri: &str, token: &str, body: &str| {
        let mut request = request(method, uri).header("content-type", "application/json");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = fixture
            .send(request.body(Body::from(body.to_owned())).unwrap())
            .await;
        if answer.status.is_client_error() {
            problem_field(&answer, answer.status.as_u16(), uri);
        }
        answer.status.as_u16()
    };
    let headers = r#"{"filter": "tcp port 443"}"#;
    let payload = r#"{"filter": "tcp port 443", "snaplen": 512}"#;
    let captures = "/api/v1/captures";
    assert_eq!(status("GET", "/healthz", "", "").await, 200);
    for uri in ["/metrics", "/api/v1/flows", captures, "/api/v1/status"] {
        assert_eq!(status("GET", uri, "", "").await, 401, "{uri}");
        assert_eq!(status("GET", uri, "guess", "").await, 401, "{uri}");
        assert_eq!(status("GET", uri, "token-v", "").await, 200, "{uri}");
    }
    assert_eq!(status("POST", captures, "token-v", headers).await, 403);
    assert_eq!(status("POST", captures, "token-o", payload).await, 403);
    assert_eq!(status("POST", captures, "token-o", headers).await, 201);
    assert_eq!(status("POST", captures, "token-a", payload).await, 201);
    assert_eq!(
        status("DELETE", "/api/v1/captures/1", "token-v", "").await,
        403
    );
    // The file of a capture of payload is for an admin; its headers, redacted, for an operator too.
    let list = request("GET", captures).header("authorization", "Bearer token-v");
    let list = fixture.send(list.body(Body::empty()).unwrap()).await.json();
    for capture in list["captures"].as_array().unwrap() {
        let uri = format!("{captures}/{}", capture["id"].as_str().unwrap());
        let has_payload = capture["request"]["snaplen"] == 512;
        status("POST", &format!("{uri}/stop"), "token-o", "").await;
        let file = format!("{uri}/file");
        let expected = if has_payload { 403 } else { 200 };
        assert_eq!(status("GET", &file, "token-o", "").await, expected);
        assert_eq!(status("GET", &file, "token-a", "").await, 200);
        let redacted = format!("{file}?redact=addresses");
        assert_eq!(status("GET", &redacted, "token-v", "").await, 403);
        assert_eq!(status("GET", &redacted, "token-o", "").await, 200);
    }
    let packets = "/api/v1/flows/1/packets";
    assert_eq!(status("GET", packets, "token-v", "").await, 403);
    assert_eq!(status("GET", packets, "token-o", "").await, 200);
    assert_eq!(
        status("GET", "/api/v1/flows/99/packets", "token-o", "").await,
        404
    );
    assert_eq!(
        status("GET", "/api/v1/captures/1/file", "token-v", "").await,
        403
    );
}

#[tokio::test]
async fn foreign_pages_are_turned_away() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    for (name, value) in [
        ("host", "rebound.example:7070"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:8080"),
    ] {
        let mut request = request("GET", "/api/v1/flows").body(Body::empty()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        let answer = fixture.send(request).await;
        assert_eq!(problem_field(&answer, 403, value), name);
    }
    let own = request("GET", "/api/v1/flows").header("origin", "http://127.0.0.1:7070");
    assert_eq!(
        fixture.send(own.body(Body::empty()).unwrap()).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_capture_that_looks_back_says_what_it_covers() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let plain = fixture
        .post("/api/v1/captures", r#"{"filter": "tcp port 443"}"#)
        .await;
    assert_eq!(plain.json()["lookback"], Value::Null);
    let body = r#"{"filter": "tcp port 443", "lookback": 30}"#;
    let answer = fixture.post("/api/v1/captures", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    let covered = &answer.json()["lookback"];
    assert_eq!(covered["feed"], "promoted", "{covered}");
    assert_eq!(covered["packets"], 0);
    let hop = &covered["hops"][0];
    assert!(hop["interface"].is_string() && hop["from"].is_string());
    let status = fixture.get("/api/v1/status").await.json();
    assert_eq!(status["kernel"]["lookback"]["feed"], "promoted", "{status}");
}

#[tokio::test]
async fn a_capture_lives_from_request_to_file() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let body = r#"{"filter": "tcp port 443 and tcp[tcpflags] & tcp-push != 0", "interfaces":
        ["eth0"], "max_packets": 3}"#;
    let answer = fixture.post("/api/v1/captures", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    let capture = answer.json();
    let uri = answer.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(capture["state"], "running");
    assert!(
        capture["plan"]["kernel"][0]
            .as_str()
            .unwrap()
            .contains("443"),
        "{capture}"
    );
    assert!(
        capture["plan"]["user_space"]
            .as_str()
            .unwrap()
            .contains("tcp["),
        "{capture}"
    );
    assert_eq!(fixture.filters.lock().unwrap().len(), 1);
    let running = fixture
        .send(request("DELETE", &uri).body(Body::empty()).unwrap())
        .await;
    problem_field(&running, 409, "delete while it runs");

    let captures = fixture.captures();
    // A record for another capture, one from another interface, then four for this one.
    captures.dispatch(vec![record(1, 2, 10), record(2, 1, 10)]);
    captures.dispatch((0..4).map(|size| record(1, 1, size)).collect());
    let ended = settled(&fixture, &uri).await;
    assert_eq!(ended["state"], "complete", "{ended}");
    assert_eq!(ended["end_reason"], "max_packets");
    assert_eq!(ended["packets"], 3);
    assert!(fixture.filters.lock().unwrap().is_empty());

    let file = fixture.get(&format!("{uri}/file")).await;
    assert_eq!(file.headers["content-type"], "application/x-pcapng");
    assert_eq!(file.body.len() as u64, ended["bytes"].as_u64().unwrap());
    let body = std::io::Cursor::new(file.body.clone());
    let mut capture = CaptureFile::from_reader("capture", body).unwrap();
    assert_eq!(capture.frames().unwrap().len(), 3);
    assert_eq!(capture.interfaces()[0].name, "eth0");

    // Redacted it says neither who nor where, and has as many packets.
    let redacted = fixture.get(&format!("{uri}/file?redact=addresses")).await;
    assert_eq!(redacted.status, StatusCode::OK, "{}", redacted.text());
    let body = std::io::Cursor::new(redacted.body.clone());
    let mut capture = CaptureFile::from_reader("redacted", body).unwrap();
    assert_eq!(capture.frames().unwrap().len(), 3);
    assert!(capture.damage().is_none());
    assert_eq!(capture.interfaces()[0].name, "");
    let holds = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).any(|it| it == wanted);
    for told in [&[10, 0, 0, 1, 10, 0, 1, 1][..], b"tcp port 443", b"eth0"] {
        assert!(holds(&file.body, told));
        assert!(!holds(&redacted.body, told), "{told:?}");
    }
    let both = format!("{uri}/file?redact=addresses&follow=true");
    let field = problem_field(&fixture.get(&both).await, 422, &both);
    assert_eq!(field, "follow");

    // After a restart it is listed still; then it is deleted.
    let again = Fixture::with_traffic(fixture.settings.clone());
    assert_eq!(again.get(&uri).await.json()["packets"], 3);
    let deleted = again
        .send(request("DELETE", &uri).body(Body::empty()).unwrap())
        .await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    problem_field(&again.get(&uri).await, 404, "deleted");
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
}

/// Waits for the end of a capture.
async fn settled(fixture: &Fixture, uri: &str) -> Value {
    for _ in 0..200 {
        let capture = fixture.get(uri).await.json();
        if capture["state"] != "running" {
            return capture;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the capture did not end");
}

#[tokio::test]
async fn a_capture_whose_client_has_gone_ends_all_the_same() {
    use futures_util::FutureExt;
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let captures = fixture.captures();
    let request = serde_json::from_str(r#"{"filter": "tcp", "duration": 1}"#).unwrap();
    // Dropped while the kernel side is being asked.
    assert!(captures.create(request).now_or_never().is_none());
    while captures.list().is_empty() {
        tokio::task::yield_now().await;
    }
    let id = captures.list()[0].id.clone();
    let ended = settled(&fixture, &format!("/api/v1/captures/{id}")).await;
    assert_eq!(ended["end_reason"], "duration", "{ended}");
    assert!(fixture.filters.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stopped_capture_keeps_what_it_has() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let created = fixture
        .post("/api/v1/captures", r#"{"filter": "tcp"}"#)
        .await
        .json();
    let id = created["id"].as_str().unwrap();
    fixture.captures().dispatch(vec![record(1, 1, 7)]);
    let stopped = fixture
        .post(&format!("/api/v1/captures/{id}/stop"), "")
        .await
        .json();
    assert_eq!(stopped["end_reason"], "stopped", "{stopped}");
    assert_eq!(stopped["packets"], 1);
    let again = fixture
        .post(&format!("/api/v1/captures/{id}/stop"), "")
        .await
        .json();
    assert_eq!(again, stopped);
}

#[tokio::test]
async fn a_capture_of_payload_that_the_filter_needs_says_what_it_missed() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let body = r#"{"filter": "tcp[20] = 0x47"}"#;
    let created = fixture.post("/api/v1/captures", body).await.json();
    let id = created["id"].as_str().unwrap();
    fixture.captures().dispatch(vec![record(1, 1, 7)]);
    let stopped = fixture
        .post(&format!("/api/v1/captures/{id}/stop"), "")
        .await
        .json();
    assert_eq!(stopped["state"], "partial", "{stopped}");
    assert_eq!(stopped["losses"][0]["kind"], "undecided");
    assert_eq!(stopped["losses"][0]["packets"], 1);
}

#[tokio::test]
async fn captures_are_bounded() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let body = r#"{"filter": "tcp", "max_bytes": 100000}"#;
    for _ in 0..crate::capture::RUNNING_COUNT_MAX {
        assert_eq!(
            fixture.post("/api/v1/captures", body).await.status,
            StatusCode::CREATED
        );
    }
    problem_field(
        &fixture.post("/api/v1/captures", body).await,
        429,
        "too many",
    );
    let captures = fixture.captures();
    captures.end_all().await;
    assert!(
        captures
            .list()
            .iter()
            .all(|capture| capture.ended.is_some())
    );
    let large = r#"{"filter": "tcp", "max_bytes": 40000000}"#;
    assert_eq!(
        fixture.post("/api/v1/captures", large).await.status,
        StatusCode::CREATED
    );
    problem_field(
        &fixture.post("/api/v1/captures", large).await,
        429,
        "too many bytes",
    );
}

#[tokio::test]
async fn an_interface_that_vanishes_is_part_of_the_answer() {
    let scratch = Scratch::new();
    let mut fixture = Fixture::with_traffic(settings(&scratch));
    let body = r#"{"filter": "tcp", "interfaces": ["eth1"]}"#;
    let created = fixture.post("/api/v1/captures", body).await.json();
    let uri = format!("/api/v1/captures/{}", created["id"].as_str().unwrap());
    let vanished = phalanx_engine::Input::HopVanished(phalanx_engine::HopId(2));
    fixture.engine.handle(vanished, crate::clock::now());
    fixture.publish();
    let ended = settled(&fixture, &uri).await;
    assert_eq!(ended["end_reason"], "interfaces_vanished", "{ended}");
    assert_eq!(ended["state"], "partial");
    assert_eq!(ended["losses"][0]["kind"], "interface_vanished");
}

#[tokio::test]
async fn a_capture_that_broke_off_is_listed_as_partial() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let created = fixture
        .post("/api/v1/captures", r#"{"filter": "tcp"}"#)
        .await
        .json();
    // Another daemon finds the directory as a crash would have left it.
    let other = Fixture::with_traffic(fixture.settings.clone());
    let uri = format!("/api/v1/captures/{}", created["id"].as_str().unwrap());
    let found = other.get(&uri).await.json();
    assert_eq!(found["state"], "partial", "{found}");
    assert_eq!(found["end_reason"], "daemon_stopped");
    // A deletion that broke off is done at the next start.
    let id = created["id"].as_str().unwrap();
    std::fs::remove_file(scratch.0.join(format!("{id}.pcapng"))).unwrap();
    let third = Fixture::with_traffic(fixture.settings.clone());
    assert_eq!(third.get(&uri).await.status, StatusCode::NOT_FOUND);
    assert!(!scratch.0.join(format!("{id}.json")).exists());
}

#[tokio::test]
async fn the_document_describes_every_route() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let served = fixture.get("/api/openapi.json").await.json();
    let text = document_text(&fixture);
    assert_eq!(served, serde_json::from_str::<Value>(&text).unwrap());
    for path in [
        "/metrics",
        "/api/v1/flows/{id}",
        "/api/v1/flows/{id}/packets",
        "/api/v1/captures/{id}/file",
        "/api/v1/stream",
    ] {
        assert!(served["paths"][path].is_object(), "{path}");
    }
    keep_true("docs/openapi.json", &text);
}

fn document_text(fixture: &Fixture) -> String {
    let mut text = serde_json::to_string_pretty(&document(&fixture.api)).unwrap();
    text.push('\n');
    text
}

#[test]
fn the_metrics_reference_is_true() {
    keep_true("docs/metrics.md", &crate::metrics::document());
}

/// The names of metrics in a text of PromQL.
fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("phalanx_") || word.starts_with("process_"))
}

/// Whether the table has a metric, or a histogram that has this series.
fn is_metric(name: &str) -> bool {
    crate::metrics::table::TABLE.iter().any(|definition| {
        let is_histogram = matches!(definition.kind, crate::metrics::table::Kind::Histogram(_));
        let series = name.strip_prefix(definition.name);
        series == Some("") || is_histogram && matches!(series, Some("_bucket" | "_sum" | "_count"))
    })
}

fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_dashboard_and_the_rules_use_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("examples/grafana/phalanx.json")).unwrap();
    let mut expressions: Vec<String> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(expressions.len() > 20);
    let rules =
        ["recording", "alerts"].map(|name| read(&format!("examples/prometheus/{name}.rules.yml")));
    expressions.extend(rules);
    let mut count = 0;
    for expression in &expressions {
        // A recorded series has colons in its name; what is between them is no metric of ours.
        let text = expression
            .split_whitespace()
            .filter(|word| !word.contains("service_pair:"));
        let text: Vec<_> = text.collect();
        for name in metric_names(&text.join(" ")) {
            assert!(is_metric(name), "{name} in {expression}");
            count += 1;
        }
    }
    assert!(count > 30);
}

/// Compares a checked-in file with what it must say; with `PHALANX_WRITE_DOCS=1` writes it.
fn keep_true(path: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path);
    if std::env::var_os("PHALANX_WRITE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "{} is out of date: PHALANX_WRITE_DOCS=1 cargo test -p phalanx --lib",
        path.display()
    );
}
