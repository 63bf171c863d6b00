//! The table at the end.

use std::time::Duration;

use super::kernel::Kernel;

/// What came of something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Good,
    Bad(String),
}

/// The results of one test program, from what it printed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    pub passed: usize,
    pub failed: Vec<String>,
    /// Tests, or parts of tests, that said why they did not run. They count as passed, too.
    pub skipped: usize,
}

impl Tally {
    /// Counts the lines of libtest's output, and of what our tests say when they are skipped.
    pub fn of(log: &str) -> Self {
        let mut tally = Self::default();
        for line in log.lines() {
            // What a test prints may stand between its name and its result.
            tally.skipped += usize::from(line.contains("SKIPPED ") || line.contains("skipped: "));
            let Some(rest) = line.strip_prefix("test ") else { continue };
            let Some((name, result)) = rest.split_once(" ... ") else { continue };
            match result {
                "FAILED" => tally.failed.push(name.to_owned()),
                "ignored" => {}
                _ => tally.passed += 1,
            }
        }
        tally.passed = tally.passed.saturating_sub(tally.failed_late(log));
        tally
    }

    /// Takes in the names of the summary that did not stand on a line with their result.
    fn failed_late(&mut self, log: &str) -> usize {
        let known = self.failed.len();
        for line in log.lines().skip_while(|line| *line != "failures:") {
            match line.strip_prefix("    ") {
                Some(name) if !name.contains(' ') && !self.failed.iter().any(|failed| failed == name) => {
                    self.failed.push(name.to_owned());
                }
                _ => {}
            }
        }
        self.failed.len() - known
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    kernel: String,
    what: String,
    outcome: Outcome,
    tally: Tally,
    took: Duration,
}

impl Row {
    pub fn new(kernel: &Kernel, what: &str, outcome: Outcome, took: Duration) -> Self {
        let (kernel, what) = (kernel.version.to_string(), what.to_owned());
        Self { kernel, what, outcome, tally: Tally::default(), took }
    }

    pub fn with(self, tally: Tally) -> Self {
        Self { tally, ..self }
    }
}

/// Prints the table; tells whether every row is good.
pub fn print(rows: &[Row]) -> bool {
    println!(
        "{:6}  {:32} {:>6} {:>6} {:>7} {:>7}",
        "KERNEL", "WHAT", "PASSED", "FAILED", "SKIPPED", "SECONDS"
    );
    for row in rows {
        let Tally { passed, failed, skipped } = &row.tally;
        let verdict = match &row.outcome {
            Outcome::Good => "ok",
            Outcome::Bad(why) => why,
        };
        println!(
            "{:6}  {:32} {passed:6} {:6} {skipped:7} {:7.1}  {verdict}",
            row.kernel,
            row.what,
            failed.len(),
            row.took.as_secs_f64(),
        );
    }
    rows.iter().all(|row| row.outcome == Outcome::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_whatever_the_tests_print_in_between() {
        let log = "running 4 tests\n\
                   test a ... ok\n\
                   test b ... SKIPPED b (fanotify): \"why\"\n\
                   ok\n\
                   test c ... FAILED\n\
                   test d ... the daemon's log:\n\
                   FAILED\n\
                   \n\
                   failures:\n\
                   \n\
                   ---- c stdout ----\n\
                   \n\
                   failures:\n    c\n    d\n";
        let expected = Tally { passed: 2, failed: vec!["c".into(), "d".into()], skipped: 1 };
        assert_eq!(Tally::of(log), expected);
    }
}
