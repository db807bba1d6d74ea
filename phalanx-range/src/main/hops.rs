//! Verbs about captures of several hops: making them, and giving them other clocks.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use phalanx_range::retiming::{Retiming, Step};
use phalanx_range::synthesis::{HopSynthesis, LegCourse, Shares};
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct SynthesizeHops {
    /// Conversations altogether.
    #[arg(long, default_value_t = 100)]
    conversations: u32,
    /// Hops, the first one at the clients, the last one at the servers.
    #[arg(long, default_value_t = 3)]
    hops: usize,
    /// Of all random decisions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Probability that a leg loses a packet.
    #[arg(long, default_value_t = 0.005)]
    loss: f64,
    /// Probability that a packet is overtaken on a leg.
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// Probability that a packet is copied on a leg.
    #[arg(long, default_value_t = 0.0)]
    duplicate: f64,
    /// Share of the connections that go over a relay at the middle hop.
    #[arg(long, default_value_t = 0.0)]
    relayed: f64,
    /// In which the conversations begin, in seconds.
    #[arg(long, default_value_t = 20.0)]
    duration: f64,
    /// Bytes kept of each packet; 0 for all.
    #[arg(long, default_value_t = 128)]
    snap: u32,
    /// A folder for the truth: flows.csv, legs.csv.
    #[arg(long)]
    truth: PathBuf,
    /// A folder for the captures: hop0.pcap and so on.
    folder: PathBuf,
}

pub(crate) fn synthesize(arguments: &SynthesizeHops) -> Result<Value> {
    let leg = LegCourse {
        forward_ms: 4.0,
        reverse_ms: 6.0,
        jitter_ms: 0.3,
        loss: arguments.loss,
        reorder: arguments.reorder,
        duplicate: arguments.duplicate,
    };
    let synthesis = HopSynthesis {
        conversations: arguments.conversations,
        seed: arguments.seed,
        legs: vec![leg; arguments.hops.saturating_sub(1)],
        snap_bytes: arguments.snap,
        duration_ms: arguments.duration * 1e3,
        shares: Shares {
            relayed: arguments.relayed,
            ..Shares::default()
        },
        ..HopSynthesis::default()
    };
    for folder in [&arguments.folder, &arguments.truth] {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let files: Result<Vec<_>> = (0..arguments.hops)
        .map(|hop| create(&arguments.folder.join(format!("hop{hop}.pcap"))))
        .collect();
    let truth = synthesis.write(files?).context("write the captures")?;
    truth.write_flows(create(&arguments.truth.join("flows.csv"))?)?;
    truth.write_legs(create(&arguments.truth.join("legs.csv"))?)?;
    Ok(json!({
        "conversations": truth.conversations.len(),
        "flows": truth.flows.len(),
        "packets": truth.packets,
    }))
}

#[derive(clap::Args)]
pub(crate) struct Retime {
    /// How far the clock is ahead, in milliseconds.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    offset_ms: f64,
    /// How much too fast it runs, in parts per million.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    skew_ppm: f64,
    /// How far it is set forward in the middle, in milliseconds.
    #[arg(long, allow_negative_numbers = true, requires = "step_after")]
    step_ms: Option<f64>,
    /// When that is, in seconds after the first packet.
    #[arg(long)]
    step_after: Option<f64>,
    /// The capture (pcap).
    from: PathBuf,
    /// The file to write.
    to: PathBuf,
}

pub(crate) fn retime(arguments: &Retime) -> Result<Value> {
    let step = arguments.step_ms.zip(arguments.step_after);
    let retiming = Retiming {
        offset_ns: (arguments.offset_ms * 1e6).round() as i64,
        skew_ppm: arguments.skew_ppm,
        step: step.map(|(step_ms, after_s)| Step {
            after_ns: (after_s * 1e9).round() as u64,
            by_ns: (step_ms * 1e6).round() as i64,
        }),
    };
    let from = &arguments.from;
    let file = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let to = create(&arguments.to)?;
    let packets = retiming
        .rewrite(BufReader::new(file), to)
        .with_context(|| format!("retime {}", from.display()))?;
    Ok(json!({ "packets": packets, "retiming": retiming }))
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}
