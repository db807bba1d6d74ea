//! What programs say of the frames of a capture, in the terms of the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::packet::Way;
use crate::truth::Labels;

/// Right, wrong and missed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    pub(crate) right: usize,
    pub(crate) wrong: usize,
    pub(crate) missed: usize,
}

impl Score {
    pub(crate) fn of(claimed: &BTreeSet<u64>, truth: &BTreeSet<u64>) -> Self {
        let right = claimed.intersection(truth).count();
        Self {
            right,
            wrong: claimed.len() - right,
            missed: truth.len() - right,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.missed += other.missed;
    }

    /// Share of the claims that are true.
    pub(crate) fn precision(&self) -> f64 {
        share(self.right, self.right + self.wrong)
    }

    /// Share of the truth that is claimed.
    pub(crate) fn recall(&self) -> f64 {
        share(self.right, self.right + self.missed)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

/// The three kinds that matter: retransmission, reordered, network duplicate.
pub(crate) type Scores = [Score; 3];

pub(crate) const KINDS: [&str; 3] = ["retransmission", "reordered", "duplicate"];

pub(crate) fn scores(claimed: &Labels, truth: &Labels) -> Scores {
    [
        Score::of(&claimed.retransmissions, &truth.retransmissions),
        Score::of(&claimed.reordered, &truth.reordered),
        Score::of(&claimed.duplicates, &truth.duplicates),
    ]
}

/// What `phalanx packets` says of the segments of one way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    pub(crate) labels: Labels,
    /// How many there are of each class.
    pub(crate) classes: BTreeMap<String, usize>,
}

/// What `phalanx packets` says, by way.
pub(crate) fn phalanx(capture: &Path) -> BTreeMap<Way, Claims> {
    let mut claims: BTreeMap<Way, Claims> = BTreeMap::new();
    for line in ask(&["packets", "--format", "json"], capture).lines() {
        let packet: Value = serde_json::from_str(line).unwrap();
        let Some(class) = packet["class"]
            .as_str()
            .filter(|_| packet["protocol"] == "tcp")
        else {
            continue;
        };
        let direction = packet["direction"].as_str().unwrap();
        let way = Way::BOTH.into_iter().find(|way| way.name() == direction);
        let Claims { labels, classes } = claims.entry(way.unwrap()).or_default();
        *classes.entry(class.to_owned()).or_default() += 1;
        let number = packet["number"].as_u64().unwrap();
        labels.segments.insert(number);
        let label = match class {
            "fast_retransmission"
            | "timeout_retransmission"
            | "tail_loss_probe"
            | "spurious_retransmission"
            | "retransmission"
            | "fills_hole" => &mut labels.retransmissions,
            "reordered" => &mut labels.reordered,
            "network_duplicate" => &mut labels.duplicates,
            // Nothing is captured twice here, so that is wrong wherever it stands for another.
            "new" | "keep_alive" | "zero_window_probe" | "capture_duplicate" => continue,
            other => panic!("frame {number}: {other}"),
        };
        label.insert(number);
    }
    claims
}

/// The time budget in milliseconds, and the wall time, as `phalanx analyze` says.
pub(crate) fn budget(capture: &Path) -> (BTreeMap<String, f64>, f64) {
    let text = ask(&["analyze", "--format", "json"], capture);
    let report: Value = serde_json::from_str(&text).unwrap();
    let conversations = report["conversations"].as_array().unwrap();
    let tcp = |it: &&Value| it["protocol"] == "tcp";
    let conversations: Vec<&Value> = conversations.iter().filter(tcp).collect();
    assert_eq!(conversations.len(), 1, "{text}");
    let buckets = conversations[0]["time_budget_ms"].as_object().unwrap();
    let buckets = buckets
        .iter()
        .map(|(name, value)| (name.clone(), value.as_f64().unwrap()));
    let wall_ms = conversations[0]["duration_s"].as_f64().unwrap() * 1e3;
    (buckets.collect(), wall_ms)
}

fn ask(arguments: &[&str], capture: &Path) -> String {
    let command = &mut Command::new(env!("CARGO_BIN_EXE_phalanx"));
    let output = command.args(arguments).arg(capture).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// What tshark says; it knows no network duplicates. Nothing where it is not installed.
pub(crate) fn tshark(capture: &Path) -> Option<Labels> {
    let fields = [
        "frame.number",
        "tcp.analysis.retransmission",
        "tcp.analysis.out_of_order",
    ];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).args(["-T", "fields"]);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let Ok(output) = command.output() else {
        println!("SKIPPED: tshark is not installed");
        return None;
    };
    let mut labels = Labels::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let number = cells[0].parse().unwrap();
        if !cells[1].is_empty() {
            labels.retransmissions.insert(number);
        }
        if !cells[2].is_empty() {
            labels.reordered.insert(number);
        }
    }
    Some(labels)
}

impl Labels {
    /// Only these frames.
    pub(crate) fn within(&self, frames: &BTreeSet<u64>) -> Self {
        let only = |set: &BTreeSet<u64>| set.intersection(frames).copied().collect();
        Self {
            segments: only(&self.segments),
            retransmissions: only(&self.retransmissions),
            reordered: only(&self.reordered),
            duplicates: only(&self.duplicates),
        }
    }
}
