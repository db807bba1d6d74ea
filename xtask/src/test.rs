//! Runs the test rings and adds them up.
//!
//! A ring is known by the names of the test files, `*/tests/NAME.rs` or `*/tests/NAME/main.rs`:
//! `program*`, `kernels*` and `network*` need root and are `#[ignore]`d, `fuzz*` and `ui*` are
//! rings of their own, every other file is of the scenario ring. What lies beside the code is the
//! unit ring. The programs of the kernels ring run on this machine's kernel too, in the program
//! ring.

mod count;
pub(crate) mod run;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::package::{self, Need};
use crate::{command, table};
pub(crate) use count::Counts;

/// A kind of test, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Ring {
    /// Beside the code, and the examples in the documentation
    Unit,
    /// Captures and scripts, compared with what they must give
    Scenario,
    /// Random input for a bounded time
    Fuzz,
    /// The kernel object loaded into this machine's kernel; needs root
    Program,
    /// Namespaces with real traffic; needs root
    Network,
    /// Other kernels in a virtual machine; needs root to fetch them
    Kernels,
    /// Pages in a browser
    Ui,
}

impl Ring {
    const ALL: [Self; 7] = [
        Self::Unit,
        Self::Scenario,
        Self::Fuzz,
        Self::Program,
        Self::Network,
        Self::Kernels,
        Self::Ui,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Scenario => "scenario",
            Self::Fuzz => "fuzz",
            Self::Program => "program",
            Self::Network => "network",
            Self::Kernels => "kernels",
            Self::Ui => "ui",
        }
    }

    fn need(self) -> Option<Need> {
        match self {
            Self::Unit | Self::Fuzz => None,
            Self::Scenario => Some(Need::Scenario),
            Self::Program => Some(Need::Program),
            Self::Network => Some(Need::Network),
            Self::Kernels => Some(Need::Kernels),
            Self::Ui => Some(Need::Ui),
        }
    }

    fn needs_root(self) -> bool {
        matches!(self, Self::Program | Self::Network | Self::Kernels)
    }
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only this ring; repeat for several
    #[arg(long = "ring", value_name = "RING")]
    rings: Vec<Ring>,
    /// Never install Debian packages; a missing one is an error
    #[arg(long)]
    no_install: bool,
    /// Time of each fuzz target, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    fuzz_seconds: u64,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// What one ring came to.
struct Outcome {
    ring: Ring,
    counts: Counts,
    elapsed: Duration,
    /// Why tests were skipped, or what broke.
    notes: Vec<String>,
}

/// What a whole run came to; `finish` prints it, so that the caller can print before it.
pub(crate) struct Summary {
    outcomes: Vec<Outcome>,
}

/// Runs the rings that were asked for, or all.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    Ok(run_rings(arguments)?.finish())
}

/// Runs every ring, installing what it needs.
pub(crate) fn run_all() -> Result<Summary> {
    run_rings(&Arguments {
        rings: vec![],
        no_install: false,
        fuzz_seconds: 120,
        filter: None,
    })
}

/// Runs the program ring alone: whether all of it passed.
pub(crate) fn is_program_ring_green() -> Result<bool> {
    let request = run::Request {
        ring: Ring::Program,
        fuzz_seconds: 0,
        filter: None,
    };
    let counts = run::cargo_ring(&request)?;
    Ok(counts.failed == 0 && counts.passed > 0)
}

fn run_rings(arguments: &Arguments) -> Result<Summary> {
    let is_asked = |ring: &Ring| arguments.rings.is_empty() || arguments.rings.contains(ring);
    let rings: Vec<Ring> = Ring::ALL.into_iter().filter(is_asked).collect();
    if command::is_root() {
        let needs: Vec<Need> = rings.iter().filter_map(|ring| ring.need()).collect();
        package::install(&needs, !arguments.no_install)?;
    }
    let mut outcomes = Vec::new();
    for ring in rings {
        println!("\n== ring {} ==", ring.name());
        outcomes.push(run_ring(ring, arguments));
    }
    Ok(Summary { outcomes })
}

/// Runs one ring; a ring that breaks is a failure of that ring, and the others still run.
fn run_ring(ring: Ring, arguments: &Arguments) -> Outcome {
    let start = Instant::now();
    let mut notes = Vec::new();
    let result = if ring.needs_root() && !command::is_root() {
        notes.push("skipped: needs root; run it as root".to_owned());
        run::skip(ring)
    } else if ring == Ring::Kernels {
        crate::kernels::run_all().map(|(counts, more)| {
            notes.extend(more);
            counts
        })
    } else {
        run::cargo_ring(&run::Request {
            ring,
            fuzz_seconds: arguments.fuzz_seconds,
            filter: arguments.filter.as_deref(),
        })
    };
    let counts = result
        .with_context(|| format!("ring {}", ring.name()))
        .unwrap_or_else(|error| {
            println!("error: {error:#}");
            notes.push(format!("broke: {error:#}"));
            Counts {
                failed: 1,
                ..Counts::default()
            }
        });
    Outcome {
        ring,
        counts,
        elapsed: start.elapsed(),
        notes,
    }
}

impl Summary {
    /// Whether nothing failed.
    pub(crate) fn is_green(&self) -> bool {
        self.outcomes
            .iter()
            .all(|outcome| outcome.counts.failed == 0)
    }

    /// Prints what failed tests said, the table and the closing line: whether nothing failed.
    pub(crate) fn finish(self) -> bool {
        for outcome in &self.outcomes {
            for failure in &outcome.counts.failures {
                println!(
                    "\n== failed in ring {}: {} ==",
                    outcome.ring.name(),
                    failure.name
                );
                failure.lines.iter().for_each(|line| println!("{line}"));
            }
        }
        let mut total = Counts::default();
        let mut rows = Vec::new();
        for outcome in &self.outcomes {
            total.add(outcome.counts.clone());
            rows.push(vec![
                outcome.ring.name().to_owned(),
                outcome.counts.passed.to_string(),
                outcome.counts.failed.to_string(),
                outcome.counts.skipped.to_string(),
                format!("{:.1}", outcome.elapsed.as_secs_f64()),
            ]);
        }
        println!();
        print!(
            "{}",
            table::format(&["ring", "passed", "failed", "skipped", "seconds"], &rows)
        );
        for outcome in &self.outcomes {
            for note in &outcome.notes {
                println!("{}: {note}", outcome.ring.name());
            }
        }
        println!(
            "\n{} passed, {} failed, {} skipped",
            total.passed, total.failed, total.skipped
        );
        total.failed == 0
    }
}
