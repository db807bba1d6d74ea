//! Runs the benches and gathers what they measured into one table.
//!
//! A bench is a bench target of a crate without cargo's harness, `*/benches/NAME.rs`. It prints
//! each measure on a line of its own, `bench: WHAT | MEASURED | BUDGET | ok`, the last word `over`
//! where the budget is broken, and `-` for both where there is none. Other lines are shown only.

use anyhow::{Result, bail};

use crate::package::{self, Need};
use crate::{command, table, test};

const HEADING: [&str; 4] = ["measure", "measured", "budget", "verdict"];
const TABLE: &str = "bench.md";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the benches of these names
    names: Vec<String>,
    /// Never install Debian packages; a missing one is an error
    #[arg(long)]
    no_install: bool,
}

/// Runs the benches one after the other: whether each kept its budgets.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    if command::is_root() {
        let needs = [Need::Program, Need::Network, Need::Bench];
        package::install(&needs, !arguments.no_install)?;
    }
    let mut names = test::run::target_names("benches")?;
    if let Some(unknown) = arguments.names.iter().find(|name| !names.contains(*name)) {
        let known: Vec<String> = names.into_iter().collect();
        bail!(
            "no bench is named {unknown}; there are: {}",
            known.join(", ")
        );
    }
    names.retain(|name| arguments.names.is_empty() || arguments.names.contains(name));
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        println!("\n== bench {name} ==");
        let mut bench = command::cargo(["bench", "--workspace", "--bench", &name]);
        let result = test::run::stream(&mut bench, |line| rows.extend(row(line)));
        if let Err(error) = result {
            failures.push(format!("bench {name}: {error:#}"));
        }
    }
    println!("\n{}", table::format(&HEADING, &rows));
    let path = command::target().join(TABLE);
    std::fs::write(&path, markdown(&rows))?;
    println!("the same as Markdown: {}", path.display());
    failures.iter().for_each(|failure| println!("{failure}"));
    Ok(failures.is_empty() && rows.iter().all(|row| row[3] != "over"))
}

/// The cells of a line that states a measure.
fn row(line: &str) -> Option<Vec<String>> {
    let cells: Vec<String> = line
        .strip_prefix("bench: ")?
        .split(" | ")
        .map(|cell| cell.trim().to_owned())
        .collect();
    (cells.len() == HEADING.len()).then_some(cells)
}

fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|---|---|---|---|\n", HEADING.join(" | "));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_measures_are_rows() {
        let line = "bench: data packet, 1 flow | 1.21 × | ≤ 1.35 × | ok";
        let cells = row(line).unwrap();
        assert_eq!(cells, ["data packet, 1 flow", "1.21 ×", "≤ 1.35 ×", "ok"]);
        assert_eq!(row("bench: data packet | 1.21"), None);
        assert_eq!(row("warming up"), None);
        let text = markdown(&[cells]);
        assert!(
            text.ends_with("| data packet, 1 flow | 1.21 × | ≤ 1.35 × | ok |\n"),
            "{text}"
        );
    }
}
