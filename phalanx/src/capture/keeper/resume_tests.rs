//! What a process finds of captures that the one before it had begun for the hub.

use std::time::Instant;

use phalanx_engine::Input;

use super::*;
use crate::api::fixture::{Fixture, Scratch, hop, record, settings};
use crate::capture::CaptureRequest;
use crate::lookback::{Covered, CoveredHop};

const HUB_ID: &str = "agent/1";
const TIMEOUT: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

/// One process of the agent after the other.
fn process(scratch: &Scratch) -> Arc<Captures> {
    Fixture::with_traffic(settings(scratch)).captures()
}

async fn begin(captures: &Arc<Captures>, request: serde_json::Value) -> String {
    let request: CaptureRequest = serde_json::from_value(request).unwrap();
    let begun = captures.create_for(request, Some(HUB_ID.to_owned())).await;
    begun.unwrap().id
}

/// Records packets, and waits until they are in the file.
async fn take(captures: &Captures, id: &str, count: u64) {
    let after = captures.get(id).unwrap().packets + count;
    captures.dispatch((0..count).map(|_| record(1, 1, 0)).collect());
    let file = captures.store.file(id);
    await_that(|| Remains::read(&file).is_ok_and(|it| it.packets == after)).await;
}

async fn await_that(holds: impl Fn() -> bool) {
    let until = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < until, "it takes too long");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_had_ended_is_there_to_be_delivered_and_does_not_go_on() {
    let scratch = Scratch::new();
    let first = process(&scratch);
    let id = begin(
        &first,
        serde_json::json!({ "filter": "tcp", "max_packets": 3 }),
    )
    .await;
    first.dispatch((0..5).map(|_| record(1, 1, 0)).collect());
    await_that(|| first.get(&id).unwrap().end_reason.is_some()).await;
    let ended = first.get(&id).unwrap();
    assert_eq!(ended.end_reason, Some(EndReason::MaxPackets));
    let second = process(&scratch);
    let salvaged = second.salvage(HUB_ID).await.unwrap();
    assert!(salvaged.is_over());
    assert_eq!(salvaged.view, ended);
    assert_eq!(salvaged.bytes(), ended.bytes);
    assert!(
        second
            .resume(&salvaged, MINUTE, Missing::AwaitIt)
            .await
            .is_err()
    );
    assert_eq!(second.get(&id).unwrap(), ended);
    assert!(second.salvage("agent/2").await.is_none());
}

#[tokio::test]
async fn what_broke_off_goes_on() {
    let scratch = Scratch::new();
    let first = process(&scratch);
    let id = begin(&first, serde_json::json!({ "filter": "tcp" })).await;
    take(&first, &id, 3).await;
    // It is not asked: as where it is killed.
    let second = process(&scratch);
    let salvaged = second.salvage(HUB_ID).await.unwrap();
    assert!(!salvaged.is_over());
    assert_eq!(salvaged.view.packets, 3);
    second
        .resume(&salvaged, MINUTE, Missing::AwaitIt)
        .await
        .unwrap();
    assert!(second.salvage(HUB_ID).await.is_none(), "it runs");
    take(&second, &id, 2).await;
    let view = second.stop(&id).await.unwrap();
    let kinds: Vec<_> = view.losses.iter().map(|loss| loss.kind).collect();
    assert_eq!((view.packets, &kinds[..]), (5, &[LossKind::Restarted][..]));
}

#[tokio::test]
async fn what_a_process_told_of_the_past_stays_and_is_told_once() {
    let scratch = Scratch::new();
    let first = process(&scratch);
    let id = begin(&first, serde_json::json!({ "filter": "tcp" })).await;
    take(&first, &id, 3).await;
    first.end_all().await;
    let hop = |hop, packets| CoveredHop {
        hop,
        interface: format!("eth{}", hop - 1),
        from: String::new(),
        until: String::new(),
        packets,
        spans: Vec::new(),
    };
    let covered = Covered {
        feed: "all".to_owned(),
        filter: None,
        flows: String::new(),
        snaplen: 0,
        hops: vec![hop(1, 2), hop(2, 0)],
        packets: 2,
        lost: 7,
    };
    let lost = Loss {
        kind: LossKind::Lookback,
        packets: 7,
        detail: String::new(),
    };
    // As a process with lookback would have told it.
    let mut told = first.get(&id).unwrap();
    told.lookback = Some(covered.clone());
    told.losses.push(lost.clone());
    told.filtered_out = 4;
    first.store.describe(&told).unwrap();
    for restarts in 1..3 {
        let next = process(&scratch);
        let salvaged = next.salvage(HUB_ID).await.unwrap();
        let running = next
            .resume(&salvaged, MINUTE, Missing::AwaitIt)
            .await
            .unwrap();
        assert_eq!(running.lookback.as_ref(), Some(&covered));
        assert_eq!(running.filtered_out, 4);
        next.end_all().await;
        let ended = next.get(&id).unwrap();
        assert_eq!(ended.lookback.as_ref(), Some(&covered));
        assert_eq!(ended.filtered_out, 4);
        let of_past = |loss: &&Loss| loss.kind == LossKind::Lookback;
        let of_past: Vec<_> = ended.losses.iter().filter(of_past).collect();
        assert_eq!(of_past, [&lost]);
        assert_eq!(ended.gaps.len(), restarts);
    }
}

#[tokio::test]
async fn a_remnant_of_no_use_hides_no_later_one() {
    let scratch = Scratch::new();
    let first = process(&scratch);
    let useless = begin(&first, serde_json::json!({ "filter": "tcp" })).await;
    take(&first, &useless, 1).await;
    // Its description got to the disk, its packets did not.
    std::fs::write(first.store.file(&useless), []).unwrap();
    let second = process(&scratch);
    assert!(second.salvage(HUB_ID).await.is_none());
    let id = begin(&second, serde_json::json!({ "filter": "tcp" })).await;
    take(&second, &id, 3).await;
    let third = process(&scratch);
    let salvaged = third.salvage(HUB_ID).await.unwrap();
    assert_eq!((salvaged.view.id, salvaged.view.packets), (id, 3));
}

#[tokio::test]
async fn interfaces_that_vanished_meanwhile_are_told_and_the_rest_goes_on() {
    let scratch = Scratch::new();
    let first = process(&scratch);
    let names = ["eth0", "eth1"];
    let request = serde_json::json!({ "filter": "tcp", "interfaces": names });
    let id = begin(&first, request).await;
    take(&first, &id, 3).await;
    let watching = |names: &[(u32, &str)]| {
        let mut fixture = Fixture::new(settings(&scratch));
        for (id, name) in names {
            let appeared = Input::HopAppeared(hop(*id, name));
            fixture.engine.handle(appeared, crate::clock::now());
        }
        fixture.publish();
        fixture.captures()
    };
    let none = watching(&[(1, "eth2")]);
    let salvaged = none.salvage(HUB_ID).await.unwrap();
    for missing in [Missing::AwaitIt, Missing::TellIt] {
        assert!(none.resume(&salvaged, MINUTE, missing).await.is_err());
    }
    let second = watching(&[(1, "eth0"), (2, "eth2")]);
    let salvaged = second.salvage(HUB_ID).await.unwrap();
    let refused = second.resume(&salvaged, MINUTE, Missing::AwaitIt).await;
    let unwatched = Failure::Unavailable("eth1 is not watched".to_owned());
    assert_eq!(refused.unwrap_err(), unwatched);
    let resumed = second.resume(&salvaged, MINUTE, Missing::TellIt).await;
    let vanished = |view: &CaptureView| -> Vec<String> {
        let losses = view.losses.iter();
        let vanished = losses.filter(|loss| loss.kind == LossKind::InterfaceVanished);
        vanished.map(|loss| loss.detail.clone()).collect()
    };
    assert_eq!(vanished(&resumed.unwrap()), ["eth1 vanished"]);
    take(&second, &id, 2).await;
    let view = second.stop(&id).await.unwrap();
    assert_eq!(
        (view.packets, view.end_reason),
        (5, Some(EndReason::Stopped))
    );
    assert_eq!(vanished(&view), ["eth1 vanished"], "once");
}

#[tokio::test]
async fn what_goes_on_keeps_to_the_bytes_of_all_and_is_not_deleted_for_itself() {
    let scratch = Scratch::new();
    let first = process(&scratch);
    let bytes_max = settings(&scratch).keeping.bytes_max;
    let request = serde_json::json!({ "filter": "tcp", "max_bytes": bytes_max });
    let id = begin(&first, request).await;
    take(&first, &id, 3).await;
    let second = process(&scratch);
    let other = serde_json::json!({ "filter": "udp", "max_bytes": 1_000_000 });
    let other: CaptureRequest = serde_json::from_value(other).unwrap();
    let other = second.create(other).await.unwrap().id;
    let salvaged = second.salvage(HUB_ID).await.unwrap();
    let resume = || second.resume(&salvaged, MINUTE, Missing::AwaitIt);
    let refused = resume().await.unwrap_err();
    assert!(matches!(refused, Failure::Limit(_)), "{refused}");
    second.stop(&other).await.unwrap();
    resume().await.unwrap();
    assert_eq!(second.get(&other).unwrap_err(), Failure::Unknown);
    take(&second, &id, 2).await;
}
