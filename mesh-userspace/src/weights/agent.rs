//! What a backend's agent says of itself: one line of text, by HAProxy's agent-check protocol (its configuration manual, `agent-check`).

use super::Factor;

/// What was said last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AgentReport {
    /// `75%`: share of the configured weight that it can take.
    pub percent: Option<u16>,
    pub readiness: Option<Readiness>,
    /// Why, in the agent's words: what follows `#`.
    pub comment: Option<String>,
}

/// What the agent wants of new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// `up`, `ready`.
    Takes,
    /// `drain`: no new flows.
    Drain,
    /// `maint`, `down`, `fail`, `stopped`: none either.
    Out,
}

/// Why a line is not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the agent said nothing")]
    Empty,
    #[error("the agent said `{0}`, which is no word of the agent-check protocol")]
    Word(String),
    #[error("the agent said `{0}`: write a whole number of percent up to 25600")]
    Percent(String),
}

/// More than this the configured weight is not multiplied by: 256 times, as the protocol has it.
const MOST: u16 = 25_600;

impl AgentReport {
    /// The factor that it asks for.
    pub fn factor(&self) -> Factor {
        if matches!(self.readiness, Some(Readiness::Drain | Readiness::Out)) {
            return Factor::ZERO;
        }
        match self.percent {
            None => Factor::ONE,
            Some(0) => Factor::ZERO,
            Some(percent) => Factor((u32::from(percent) * Factor::ONE.0).div_ceil(100)),
        }
    }

    /// What the next line leaves as it was: a word that is not said again still holds.
    pub fn followed_by(self, next: Self) -> Self {
        Self { percent: next.percent.or(self.percent), readiness: next.readiness.or(self.readiness), comment: next.comment }
    }
}

/// Reads the first line of `text`: words between blanks, tabs or commas, such as `up 75%` or `drain #deploying`.
pub fn parse(text: &str) -> Result<AgentReport, AgentError> {
    let line = text.lines().next().unwrap_or_default();
    let (words, comment) = line.split_once('#').map_or((line, None), |(words, comment)| (words, Some(comment.trim().to_owned())));
    let mut report = AgentReport { comment: comment.filter(|c| !c.is_empty()), ..AgentReport::default() };
    for word in words.split([' ', '\t', ',']).filter(|w| !w.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "up" | "ready" => report.readiness = Some(Readiness::Takes),
            "drain" => report.readiness = Some(Readiness::Drain),
            "maint" | "down" | "fail" | "failed" | "stopped" => report.readiness = Some(Readiness::Out),
            // How many connections a proxy may hold open has no meaning here.
            limit if limit.starts_with("maxconn:") => {}
            percent if percent.ends_with('%') => {
                let number = percent.trim_end_matches('%').parse::<u16>().ok().filter(|n| *n <= MOST);
                report.percent = Some(number.ok_or_else(|| AgentError::Percent(word.to_owned()))?);
            }
            _ => return Err(AgentError::Word(word.chars().take(64).collect())),
        }
    }
    if report == AgentReport::default() { Err(AgentError::Empty) } else { Ok(report) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word() {
        for (line, factor) in [
            ("75%\n", 1536),
            ("up 100%\r\n", 2048),
            ("ready,50%", 1024),
            ("UP", 2048),
            ("drain 100%", 0),
            ("maint", 0),
            ("down #disk full\n", 0),
            ("stopped", 0),
            ("fail", 0),
            ("0%", 0),
            ("1%", 21),
            ("maxconn:30 up\t200%", 4096),
        ] {
            assert_eq!(parse(line).unwrap().factor(), Factor(factor), "{line:?}");
        }
        assert_eq!(parse("down #disk full\n").unwrap().comment.as_deref(), Some("disk full"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in ["", "\n", "   ", "hello", "7", "-1%", "70000%", "25601%", "up 12x%", "\u{0}"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_hold_until_others_are_said() {
        let drained = parse("drain").unwrap().followed_by(parse("50%").unwrap());
        assert_eq!((drained.factor(), drained.percent), (Factor::ZERO, Some(50)));
        assert_eq!(drained.followed_by(parse("ready").unwrap()).factor(), Factor(1024));
    }
}
