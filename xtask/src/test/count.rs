//! Reads the number of tests from what cargo's test programs print.

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// Adds another ring's.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Adds up the tests of all programs of one `cargo test`, line by line.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) counts: Counts,
    /// Tests of the program now running that said they skipped.
    notes: u64,
}

impl Reader {
    /// Takes one line of output into account. A test that prints `SKIPPED: why` passed as far as
    /// its program knows, and moves over at the program's closing line.
    pub(super) fn read_line(&mut self, line: &str) {
        if line.starts_with("SKIPPED:") {
            self.notes += 1;
        }
        if let Some(mut closing) = closing_counts(line) {
            let moved = self.notes.min(closing.passed);
            closing.passed -= moved;
            closing.skipped += moved;
            self.counts.add(closing);
            self.notes = 0;
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
                skipped: 2
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
                failed: 0,
                skipped: 1
            }
        );
    }
}
