//! Prints the conversations of a capture: `cargo run --example conversations FILE`.

use std::sync::atomic::AtomicBool;

use phalanx::analysis::{Request, analyze};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("want the name of a capture")?;
    let outcome = analyze(&Request::new(path), &AtomicBool::new(false), &|_, _| {})?;
    for story in &outcome.stories {
        let ends = story.endpoints.as_ref().ok_or("a flow has ends")?;
        let lost = story.sides.client.counts.retransmitted_packets
            + story.sides.server.counts.retransmitted_packets;
        println!(
            "{}:{} > {}:{} {} {:.3} s, {lost} segments sent again",
            ends.client.address,
            ends.client.port,
            ends.server.address,
            ends.server.port,
            story.state.name(),
            story.duration_ns as f64 / 1e9,
        );
    }
    Ok(())
}
