//! What the kernel programs log for debugging: nothing, and at no cost, unless it is asked for.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use daemon::{Daemon, STEP_TIMEOUT, await_that};
use phalanx_common::abi::Counter;
use phalanx_range::{Range, Topology};

const PLAIN: &str = "
nodes: [{ name: client }, { name: server }]
links: [{ a: { node: client }, b: { node: server } }]
";
/// Nobody listens there.
const PORT: u16 = 9;

fn connect(range: &Range) {
    let target: SocketAddr = (range.host("server").unwrap().ipv4().unwrap(), PORT).into();
    let client = range.host("client").unwrap();
    let refused = client.enter(|| TcpStream::connect(target).unwrap_err());
    let refused = refused.unwrap().kind();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_programs_log_what_they_are_asked_for_and_nothing_else() {
    let range = Range::build(&Topology::from_yaml_str(PLAIN).unwrap()).unwrap();
    let client = range.host("client").unwrap();
    let arguments = ["-i", "to-server", "--set", "kernel_log=debug"];
    let daemon = Daemon::start(client, 7431, &arguments);
    connect(&range);
    let line = daemon.await_line("program: refused", STEP_TIMEOUT);
    println!("{line}");
    assert!(line.contains(&format!("ports {PORT} ")) || line.ends_with(&format!(" {PORT}")));
    drop(daemon);

    let daemon = Daemon::start(client, 7432, &["-i", "to-server"]);
    connect(&range);
    await_that("the attempt is counted", || {
        daemon.counters().of(Counter::Refused) == 1
    });
    let lines = daemon.lines();
    assert!(
        !lines.iter().any(|line| line.contains("program:")),
        "{lines:?}"
    );
}

/// How many instructions the verifier follows with a level in force.
fn verified(level: u8) -> u32 {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let object = std::fs::read(workspace.join("phalanx-ebpf/prebuilt/phalanx.bpf.o")).unwrap();
    let mut ebpf: Ebpf = EbpfLoader::new()
        .override_global(aya_log::LEVEL, &level, true)
        .load(&object)
        .unwrap();
    let program: &mut Xdp = ebpf.program_mut("phalanx_xdp").unwrap().try_into().unwrap();
    program.load().unwrap();
    let info = program.info().unwrap();
    info.verified_instruction_count().unwrap()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_is_not_logged_is_taken_out_of_the_programs() {
    let (off, on) = (verified(0), verified(aya_log::Level::Debug as u8));
    println!("the verifier follows {off} instructions without the log, {on} with it");
    assert!(off < on);
}
