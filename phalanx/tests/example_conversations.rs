//! The engine as a library: the example is compiled and run on a capture that nobody took.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use phalanx_range::synthesis::Synthesis;

#[test]
fn the_example_prints_each_conversation() {
    let name = format!("phalanx-example-{}.pcap", std::process::id());
    let path = std::env::temp_dir().join(name);
    let synthesis = Synthesis {
        connections: 40,
        packets: 4_000,
        ..Synthesis::default()
    };
    let truth = synthesis
        .write(std::fs::File::create(&path).unwrap())
        .unwrap();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "run",
            "--quiet",
            "--package",
            "phalanx",
            "--example",
            "conversations",
            "--",
        ])
        .arg(&path)
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let connections = text.lines().filter(|line| !line.contains(" none ")).count();
    assert_eq!(connections as u64, truth.connections, "{text}");
    let lost: u64 = text
        .lines()
        .filter_map(|line| {
            line.rsplit(", ")
                .next()?
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert!(
        lost <= truth.retransmissions,
        "{lost} of {}",
        truth.retransmissions
    );
}
