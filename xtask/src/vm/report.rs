//! What a guest reported, line by line: /init's own lines begin with `vm: `, the others are libtest's.

use anyhow::{Result, ensure};

use crate::tally::Tally;

/// The sum of a guest's lines.
#[derive(Debug, Default)]
pub struct Report {
    started: bool,
    done: bool,
    tally: Tally,
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
        if line.starts_with("verifier ") && line.contains(" insns ") && !self.verifier.iter().any(|l| l == line) {
            self.verifier.push(line.to_owned());
        }
        self.tally.take(line)
    }

    fn take_own<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["init", ..] => self.started = true,
            ["done"] => self.done = true,
            ["exit", _, "0", ..] => return None,
            ["exit", name, ..] => self.tally.broken.push((*name).to_owned()),
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
        ensure!(self.tally.broken.is_empty(), "these ended badly: {}", self.tally.broken.join(", "));
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
        self.tally.verdict()?;
        ensure!(self.tally.passed > 0, "no test ran");
        Ok(())
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub fn into_tally(self) -> Tally {
        self.tally
    }
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
        assert_eq!((report.tally().to_string().as_str(), report.verifier().len()), ("3 passed, 0 failed", 1));
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
