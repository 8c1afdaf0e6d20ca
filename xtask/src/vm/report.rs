//! What a guest reported, line by line: /init's own lines begin with `vm: `, the others are libtest's.

use anyhow::{Result, ensure};

use crate::failures::Failures;

/// The sum of a guest's lines.
#[derive(Debug, Default)]
pub struct Report {
    started: bool,
    done: bool,
    /// Within libtest's list of what succeeded, which repeats what was shown before.
    listing: bool,
    /// Binaries that ended with an error, or didn't start.
    broken: Vec<String>,
    passed: u32,
    failed: u32,
    ignored: u32,
    /// Messages of tests that failed.
    failures: Failures,
    /// `verifier PROGRAM insns N`.
    verifier: Vec<String>,
    /// What follows `figure `.
    figures: Vec<String>,
}

impl Report {
    /// Takes a line; what is worth showing of it.
    pub fn take<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        if let Some(own) = line.strip_prefix("vm: ") {
            return self.take_own(own);
        }
        if let Some(figure) = line.strip_prefix("figure ") {
            self.figures.push(figure.to_owned());
            return None;
        }
        self.failures.take(line);
        if let Some(counts) = line.split("test result: ").nth(1) {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
        }
        if line.starts_with("verifier ") && line.contains(" insns ") && !self.verifier.iter().any(|l| l == line) {
            self.verifier.push(line.to_owned());
        }
        self.listing = line == "successes:" || (self.listing && line.starts_with("    "));
        (!line.is_empty() && !self.listing).then_some(line)
    }

    fn take_own<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["init", ..] => self.started = true,
            ["done"] => self.done = true,
            ["exit", _, "0", ..] => return None,
            ["exit", name, ..] => self.broken.push((*name).to_owned()),
            _ => {}
        }
        Some(line)
    }

    /// What a bench inside has measured, one line each.
    pub fn figures(&self) -> &[String] {
        &self.figures
    }

    /// The binary that was to run did, to a good end.
    pub fn ran(&self) -> Result<()> {
        ensure!(self.broken.is_empty(), "these ended badly: {}", self.broken.join(", "));
        Ok(())
    }

    pub fn started(&self) -> bool {
        self.started
    }

    pub fn done(&self) -> bool {
        self.done
    }

    pub fn verifier(&self) -> &[String] {
        &self.verifier
    }

    /// Whether all is well; nothing run is not well.
    pub fn verdict(&self) -> Result<()> {
        ensure!(self.done, "the guest ended before its work was done");
        ensure!(
            self.broken.is_empty() && self.failed == 0,
            "{} tests failed, in {}\n{}",
            self.failed,
            self.broken.join(" "),
            self.failures
        );
        ensure!(self.ignored == 0, "{} tests were ignored", self.ignored);
        ensure!(self.passed > 0, "no test ran");
        Ok(())
    }

    pub fn summary(&self) -> String {
        format!("{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
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

    fn report(lines: &[&str]) -> Report {
        let mut report = Report::default();
        for line in lines {
            report.take(line);
        }
        report
    }

    #[test]
    fn what_is_repeated_is_not_shown() {
        let mut report = Report::default();
        let shown =
            ["test a ... ok", "successes:", "---- a stdout ----", "    indented", "successes:", "    a", RESULT].map(|l| report.take(l));
        assert_eq!(shown.into_iter().flatten().collect::<Vec<_>>(), ["test a ... ok", "---- a stdout ----", "    indented", RESULT]);
    }

    const RESULT: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn a_good_run_is_good() {
        let report = report(&[
            "vm: init 6.1.0",
            RESULT,
            "verifier mesh_xdp insns 900",
            "verifier mesh_xdp insns 900",
            "vm: exit a 0 12",
            "vm: done",
        ]);
        assert!(report.verdict().is_ok());
        assert_eq!((report.summary().as_str(), report.verifier().len()), ("3 passed, 0 failed, 0 ignored", 1));
    }

    #[test]
    fn each_way_to_fail_fails() {
        let bad = [
            vec!["vm: init 6.1.0", RESULT],
            vec!["vm: init 6.1.0", "vm: done"],
            vec!["vm: init 6.1.0", RESULT, "vm: exit a 101 12", "vm: done"],
            vec!["vm: init 6.1.0", RESULT, "test result: FAILED. 2 passed; 1 failed; 0 ignored", "vm: done"],
            vec!["vm: init 6.1.0", "test result: ok. 2 passed; 0 failed; 1 ignored", "vm: done"],
        ];
        for lines in bad {
            assert!(report(&lines).verdict().is_err(), "{lines:?}");
        }
    }
}
