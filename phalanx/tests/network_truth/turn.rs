//! Think and idle times against what was slept.

use std::net::SocketAddr;
use std::time::Duration;

use phalanx_common::abi::FlowUpdate;
use phalanx_engine::measure::MeasureKind;
use phalanx_engine::{
    ChangeKind, Engine, EngineConfig, Hop, HopId, Input, Link, Monotonic, NamespaceId,
};
use phalanx_range::traffic::{Program, RequestResponse, Server, run};

use super::watch::Watch;
use super::{alone, build, compare, impair};

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn think_and_idle_times_are_what_was_slept() {
    const THINK_MS: f64 = 30.0;
    const PAUSE_MS: f64 = 70.0;
    let _alone = alone();
    let range = build();
    impair(&range, 20.0, [0.0, 0.0]);
    // The interval that is the daemon's default.
    let interval = Duration::from_secs(1);
    let watches = [("client", "to-edge"), ("server", "wan1")]
        .map(|(host, interface)| (host, Watch::start(&range, host, interface, interval)));
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let service = server.enter(|| Server::start(0)).unwrap().unwrap();
    let target = SocketAddr::new(server.ipv4().unwrap().into(), service.port());
    let program = Program::RequestResponse(RequestResponse {
        connections: 4,
        requests: 40,
        think_ms: THINK_MS,
        pause_ms: PAUSE_MS,
        ..RequestResponse::default()
    });
    let outcome = client.enter(|| run(&program, target)).unwrap().unwrap();
    assert_eq!((outcome.failed, &outcome.error), (0, &None));
    let slept = outcome.slept_us.quantile(0.5).unwrap() as f64;
    println!("p50 in ms          think: truth  measured  count     idle: truth  measured  count");
    for (host, watch) in watches {
        let (think, idle) = turns(&watch.take());
        let (thought, idled) = (
            compare::quantile(&think, 0.5),
            compare::quantile(&idle, 0.5),
        );
        println!(
            "at the {host}             {:>8.2}  {:>8.2}  {:>5}        \
             {PAUSE_MS:>8.2}  {:>8.2}  {:>5}",
            slept / 1e3,
            thought / 1e3,
            think.len(),
            idled / 1e3,
            idle.len(),
        );
        assert!(
            (thought - slept).abs() < 2_000.0,
            "{host}: think {thought} us, slept {slept}"
        );
        assert!(
            (idled - PAUSE_MS * 1e3).abs() < 2_000.0,
            "{host}: idle {idled} us"
        );
        assert!(
            think.len() >= 100 && idle.len() >= 100,
            "{host}: too few samples"
        );
    }
}

/// Think and idle times in microseconds, as the engine makes them of updates.
fn turns(updates: &[FlowUpdate]) -> (Vec<f64>, Vec<f64>) {
    let hop = HopId(1);
    let mut engine = Engine::new(EngineConfig::default());
    let appeared = Input::HopAppeared(Hop {
        id: hop,
        host: "host".into(),
        namespace: NamespaceId(1),
        namespace_name: None,
        interface: "interface".into(),
        ifindex: 1,
        link: Link::Ethernet,
        clock: phalanx_engine::ClockId::default(),
    });
    engine.handle(appeared, Monotonic(0));
    let (mut think, mut idle) = (Vec::new(), Vec::new());
    for update in updates {
        engine.handle(Input::Update { hop, update }, Monotonic(update.now_ns));
        for change in engine.changes() {
            let ChangeKind::FlowUpdated(updated) = change.kind else {
                continue;
            };
            for measure in updated.measures.iter() {
                match measure.kind {
                    MeasureKind::Think => think.push(f64::from(measure.microseconds)),
                    MeasureKind::Idle => idle.push(f64::from(measure.microseconds)),
                    _ => {}
                }
            }
        }
    }
    (think, idle)
}
