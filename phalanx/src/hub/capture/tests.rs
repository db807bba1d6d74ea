//! What each host is asked for, and what is said of parts that were not as the others.

use tonic::Code;

use super::*;

const MB: u64 = 1_000_000;

fn request(more: serde_json::Value) -> CaptureRequest {
    let mut body = serde_json::json!({ "filter": "tcp" });
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    serde_json::from_value(body).unwrap()
}

fn shared(more: serde_json::Value, hosts: u64) -> Result<(u64, u64), BadField> {
    let wanted = share(request(more), hosts, 4_000 * MB)?;
    let request = wanted.request;
    Ok((request.max_bytes.unwrap(), request.max_total_bytes.unwrap()))
}

#[test]
fn hosts_share_the_bytes() {
    let none = serde_json::json!({});
    assert_eq!(shared(none.clone(), 3), Ok((100 * MB, 300 * MB)));
    // A quarter of all captures is the most where nothing is asked for.
    assert_eq!(shared(none, 20), Ok((50 * MB, 1_000 * MB)));
    let each = serde_json::json!({ "max_bytes": 5 * MB });
    assert_eq!(shared(each, 4), Ok((5 * MB, 20 * MB)));
    let together = serde_json::json!({ "max_total_bytes": 40 * MB });
    assert_eq!(shared(together, 4), Ok((10 * MB, 40 * MB)));
    let both = serde_json::json!({ "max_bytes": 50 * MB, "max_total_bytes": MB });
    assert_eq!(shared(both, 4), Ok((MB, MB)), "no host more than all");
    let little = serde_json::json!({ "max_total_bytes": 10_000 });
    assert_eq!(shared(little, 4).unwrap_err().field, "max_total_bytes");
}

fn host(name: &str, end_reason: Option<EndReason>, created: Option<&str>) -> HostPart {
    HostPart {
        host: name.to_owned(),
        agent: name.to_owned(),
        capture: None,
        boot_id: None,
        state: CaptureState::Complete,
        end_reason,
        away_since: None,
        interfaces: vec!["eth0".to_owned()],
        created: created.map(str::to_owned),
        clock_offset_s: 3_600.0,
        lookback: None,
        packets: 1,
        bytes: 1_000,
        filtered_out: 0,
        losses: Vec::new(),
        gaps: Vec::new(),
    }
}

fn capture(hosts: Vec<HostPart>) -> PathCapture {
    let parts = hosts.iter();
    let parts = parts.map(|_| Part::found("/nowhere".into(), MB, false));
    let parts = parts.collect();
    let view = CaptureView {
        id: "1".to_owned(),
        state: CaptureState::Running,
        end_reason: None,
        request: request(serde_json::json!({ "duration": 10 })),
        plan: PlanView::default(),
        interfaces: Vec::new(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        ended: None,
        lookback: None,
        packets: 0,
        bytes: 0,
        filtered_out: 0,
        losses: Vec::new(),
        gaps: Vec::new(),
        hub_id: None,
        hosts,
        file: String::new(),
    };
    PathCapture::new(view, parts)
}

fn losses(capture: &PathCapture) -> Vec<(LossKind, String)> {
    let view = capture.show();
    let losses = view.hosts.into_iter().flat_map(|host| host.losses);
    losses.map(|loss| (loss.kind, loss.detail)).collect()
}

#[test]
fn who_ended_before_the_others_is_told() {
    let limit = Some(EndReason::MaxPackets);
    let whole = Some(EndReason::Duration);
    let early = capture(vec![host("a", limit, None), host("b", whole, None)]);
    early.lock().note_early();
    assert_eq!(losses(&early).len(), 1);
    assert_eq!(losses(&early)[0].0, LossKind::EndedEarly);
    assert_eq!(early.show().hosts[0].state, CaptureState::Partial);
    let all = capture(vec![host("a", limit, None), host("b", limit, None)]);
    all.lock().note_early();
    assert_eq!(losses(&all), [], "that is what was asked for");
}

#[test]
fn who_began_late_by_its_own_clock_is_told() {
    // Its clock is an hour ahead.
    let in_time = host("a", None, Some("2026-01-01T01:00:00.9Z"));
    let late = host("b", None, Some("2026-01-01T01:00:04.5Z"));
    let capture = capture(vec![in_time, late]);
    capture.lock().note_late();
    let late = [(LossKind::HostAway, "it began 4.5 s late".to_owned())];
    assert_eq!(losses(&capture), late);
}

#[test]
fn who_comes_late_records_what_is_left() {
    let capture = capture(vec![host("a", None, None)]);
    let state = capture.lock();
    let order = |late_s: u64| {
        let now_ns = state.start_wall_ns + late_s * 1_000_000_000;
        let (agent, order) = state.order(0, now_ns).unwrap();
        assert_eq!(agent, "a");
        let request: CaptureRequest = serde_json::from_slice(&order.request).unwrap();
        assert_eq!(
            request.interfaces.as_deref(),
            Some(&["eth0".to_owned()][..])
        );
        (request.duration, order.start_wall_ns - state.start_wall_ns)
    };
    assert_eq!(order(0), (10, 3_600_000_000_000));
    assert_eq!(order(4).0, 6);
    assert_eq!(order(60).0, 1);
}

#[test]
fn another_file_takes_the_place_of_one_of_which_nothing_came() {
    let capture = capture(vec![host("a", None, None)]);
    let know = |file: &str, bytes| capture.lock().know(0, file, bytes);
    assert!(know("1", 0).unwrap());
    assert!(!know("1", 0).unwrap(), "it is known");
    assert!(!know("", 0).unwrap(), "it refuses");
    assert!(know("2", 0).unwrap());
    assert!(!know("2", 9).unwrap());
    // Its bytes are in the file, though not counted yet.
    capture.lock().view.hosts[0].bytes = 0;
    assert_eq!(know("3", 9).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(losses(&capture)[0].0, LossKind::HostAway);
    assert_eq!(know("2", 9).unwrap_err().code(), Code::NotFound);
}

#[test]
fn an_agent_cannot_begin_its_part_without_end() {
    let capture = capture(vec![host("a", None, None)]);
    let know = |number: usize| capture.lock().know(0, ["1", "2"][number % 2], 0);
    let taken = (0..100).take_while(|number| know(*number).is_ok());
    assert_eq!(taken.count(), 8);
    assert_eq!(losses(&capture).len(), 1);
}
