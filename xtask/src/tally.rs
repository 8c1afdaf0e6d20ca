//! What libtest said, line by line: how many tests passed, and why others did not.

use std::fmt;

use anyhow::{Result, ensure};

use crate::failures::Failures;

/// The sum of what test binaries said.
#[derive(Debug, Default)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
    pub ignored: u32,
    /// Binaries that ended with an error, or didn't start.
    pub broken: Vec<String>,
    /// Messages of tests that failed.
    failures: Failures,
    /// Within libtest's list of what succeeded, which repeats what was shown before.
    listing: bool,
}

impl Tally {
    /// Takes a line; what is worth showing of it.
    pub fn take<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        self.failures.take(line);
        if let Some(counts) = line.split("test result: ").nth(1) {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
        }
        self.listing = line == "successes:" || (self.listing && line.starts_with("    "));
        (!line.is_empty() && !self.listing).then_some(line)
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.broken.extend(other.broken);
        self.failures.add(other.failures);
    }

    /// Whether all is well. The error has the messages of what failed.
    pub fn verdict(&self) -> Result<()> {
        ensure!(
            self.broken.is_empty() && self.failed == 0,
            "{} tests failed, in {}\n{}",
            self.failed,
            self.broken.join(" "),
            self.failures
        );
        ensure!(self.ignored == 0, "{} tests were ignored", self.ignored);
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

/// The number in front of a word: `ok. 3 passed; 0 failed; ...`.
fn count(text: &str, word: &str) -> u32 {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == ';').filter(|w| !w.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn what_is_repeated_is_not_shown() {
        let mut tally = Tally::default();
        let shown = ["test a ... ok", "successes:", "---- a stdout ----", "    indented", "successes:", "    a", RESULT];
        let shown: Vec<&str> = shown.into_iter().filter_map(|line| tally.take(line)).collect();
        assert_eq!(shown, ["test a ... ok", "---- a stdout ----", "    indented", RESULT]);
    }

    #[test]
    fn sums_are_told_and_no_failure_is_lost() {
        let mut sum = Tally::default();
        let mut other = Tally::default();
        sum.take(RESULT);
        for line in ["failures:", "---- b stdout ----", "Error: no", "failures:", "    b"] {
            other.take(line);
        }
        other.take("test result: FAILED. 2 passed; 1 failed; 0 ignored");
        assert!(sum.verdict().is_ok());
        sum.add(other);
        assert_eq!(sum.to_string(), "5 passed, 1 failed");
        assert!(sum.verdict().unwrap_err().to_string().contains("Error: no"));
        let broken = Tally { broken: vec![String::from("c")], ..Tally::default() };
        assert!(broken.verdict().is_err(), "one that broke without a word");
        let ignored = Tally { ignored: 1, ..Tally::default() };
        assert!(ignored.verdict().is_err());
    }
}
