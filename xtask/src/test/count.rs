//! Reads the number of tests, and what the failed ones said, from what cargo's test programs print.

use std::collections::VecDeque;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// What failed tests printed: to be shown again at the end, where it is found.
    pub(crate) failures: Vec<Failure>,
}

/// A test that failed.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) name: String,
    /// The last lines that it printed.
    pub(crate) lines: VecDeque<String>,
}

/// Enough for a panic, and for what led to it.
const LINES_MAX: usize = 120;

impl Counts {
    /// Adds another ring's.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
    }
}

/// Adds up the tests of all programs of one `cargo test`, line by line.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) counts: Counts,
    /// Tests of the program now running that said they skipped.
    notes: u64,
    /// Inside the part of a program's output that shows what its failed tests printed.
    is_in_failures: bool,
}

impl Reader {
    /// Takes one line of output into account. A test that prints `SKIPPED: why` passed as far as
    /// its program knows, and moves over at the program's closing line.
    pub(super) fn read_line(&mut self, line: &str) {
        if line.starts_with("SKIPPED:") {
            self.notes += 1;
        }
        self.read_failure(line);
        if let Some(mut closing) = closing_counts(line) {
            let moved = self.notes.min(closing.passed);
            closing.passed -= moved;
            closing.skipped += moved;
            self.counts.add(closing);
            self.notes = 0;
            self.is_in_failures = false;
        }
    }

    /// A program shows `failures:`, a part headed `---- NAME stdout ----` for each of them, and
    /// `failures:` once more with their names.
    fn read_failure(&mut self, line: &str) {
        let failures = &mut self.counts.failures;
        let name = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"));
        match (name, self.is_in_failures) {
            (_, is_in_failures) if line == "failures:" => self.is_in_failures = !is_in_failures,
            (Some(name), true) => failures.push(Failure {
                name: name.to_owned(),
                lines: VecDeque::new(),
            }),
            (None, true) => {
                if let Some(failure) = failures.last_mut() {
                    if failure.lines.len() == LINES_MAX {
                        failure.lines.pop_front();
                    }
                    failure.lines.push_back(line.to_owned());
                }
            }
            (_, false) => {}
        }
    }
}

/// The counts of a line such as
/// `test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; …`.
fn closing_counts(line: &str) -> Option<Counts> {
    let (_, rest) = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?;
    let number = |name: &str| {
        let part = rest.split("; ").find_map(|part| part.strip_suffix(name))?;
        part.trim().parse().ok()
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
        failures: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Counts {
        let mut reader = Reader::default();
        for line in lines {
            reader.read_line(line);
        }
        reader.counts
    }

    #[test]
    fn closing_lines_add_up() {
        let counts = read(&[
            "running 8 tests",
            "test a ... ok",
            "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; finished",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; f",
        ]);
        assert_eq!(
            counts,
            Counts {
                passed: 8,
                failed: 1,
                skipped: 2,
                failures: Vec::new()
            }
        );
    }

    #[test]
    fn a_test_that_says_it_skipped_did_not_pass() {
        let counts = read(&[
            "SKIPPED: no captures beside the checkout",
            "this line only talks about SKIPPED: things",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; f",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; f",
        ]);
        assert_eq!(
            counts,
            Counts {
                passed: 4,
                skipped: 1,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn what_failed_tests_said_is_kept() {
        let counts = read(&[
            "successes:",
            "",
            "---- a stdout ----",
            "fine",
            "",
            "failures:",
            "",
            "---- b::c stdout ----",
            "thread 'b::c' panicked at it:",
            "no",
            "",
            "failures:",
            "    b::c",
            "",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; f",
            "---- d stdout ----",
        ]);
        let failure = Failure {
            name: "b::c".to_owned(),
            lines: ["thread 'b::c' panicked at it:", "no", ""]
                .map(str::to_owned)
                .into(),
        };
        assert_eq!(counts.failures, [failure]);
    }

    #[test]
    fn of_a_failure_that_said_much_the_end_is_kept() {
        let said: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
        let mut lines = vec!["failures:", "---- a stdout ----"];
        lines.extend(said.iter().map(String::as_str));
        assert_eq!(read(&lines).failures[0].lines, &said[1_000 - LINES_MAX..]);
    }
}
