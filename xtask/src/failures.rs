//! What of the tests' output says why they failed: it is shown again at the end, where a reader of a long log looks.

use std::{collections::VecDeque, fmt};

/// Of one test's message so many lines are kept from its begin, and as many from its end.
const KEPT: usize = 30;

/// Gathers messages of libtest, line by line.
#[derive(Debug, Default)]
pub struct Failures {
    messages: Vec<Message>,
    /// Within libtest's section of messages.
    open: bool,
    /// The last lines of all, for what fails without a message.
    tail: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Message {
    begin: Vec<String>,
    end: VecDeque<String>,
    left_out: usize,
}

impl Failures {
    pub fn take(&mut self, line: &str) {
        push(&mut self.tail, line);
        if line == "failures:" {
            // The second one lists names only.
            self.open = !self.open;
        } else if line.starts_with("test result: ") {
            self.open = false;
        } else if self.open && line.starts_with("---- ") {
            self.messages.push(Message { begin: vec![line.to_owned()], ..Message::default() });
        } else if self.open
            && let Some(message) = self.messages.last_mut()
        {
            message.take(line);
        }
    }

    /// Adds another's, behind its own.
    pub fn add(&mut self, other: Self) {
        self.messages.extend(other.messages);
        other.tail.iter().for_each(|line| {
            push(&mut self.tail, line);
        });
    }
}

/// Keeps the last lines; whether one had to go for that.
fn push(lines: &mut VecDeque<String>, line: &str) -> bool {
    lines.push_back(line.to_owned());
    let full = lines.len() > KEPT;
    if full {
        lines.pop_front();
    }
    full
}

impl Message {
    fn take(&mut self, line: &str) {
        if self.begin.len() < KEPT {
            self.begin.push(line.to_owned());
        } else if push(&mut self.end, line) {
            self.left_out += 1;
        }
    }
}

/// All messages; if there is none, the end of what was said.
impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.messages.is_empty() {
            return self.tail.iter().try_for_each(|line| writeln!(f, "{line}"));
        }
        for message in &self.messages {
            message.begin.iter().try_for_each(|line| writeln!(f, "{line}"))?;
            if message.left_out > 0 {
                writeln!(f, "[{} more lines]", message.left_out)?;
            }
            message.end.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> String {
        let mut failures = Failures::default();
        lines.iter().for_each(|line| failures.take(line));
        failures.to_string()
    }

    #[test]
    fn messages_of_failed_tests_are_kept_and_nothing_else() {
        let said = [
            "running 2 tests",
            "test a ... FAILED",
            "successes:",
            "---- b stdout ----",
            "all is well",
            "failures:",
            "",
            "---- a stdout ----",
            "Error: no",
            "failures:",
            "    a",
            "test result: FAILED. 1 passed; 1 failed",
            "test c ... ok",
        ];
        assert_eq!(of(&said), "---- a stdout ----\nError: no\n");
    }

    #[test]
    fn long_messages_lose_their_middle_and_a_crash_leaves_the_end() {
        let long: Vec<String> = (0..100).map(|i| format!("line {i}")).collect();
        let mut said = vec!["failures:", "---- a stdout ----"];
        said.extend(long.iter().map(String::as_str));
        let text = of(&said);
        assert!(text.contains("line 28\n[41 more lines]\nline 70\n") && text.ends_with("line 99\n"), "{text}");
        let crash = of(&["running 1 test", "error: test failed", "  process didn't exit successfully (signal: 11)"]);
        assert!(crash.contains("signal: 11"), "{crash}");
    }
}
