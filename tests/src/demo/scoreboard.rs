//! Who answered, how often, and when.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::peer::Answer;

/// All answers of one load, in the order in which they came.
#[derive(Debug, Default)]
pub struct Scoreboard {
    answers: Vec<Answer>,
}

impl Scoreboard {
    pub fn add(&mut self, answers: Vec<Answer>) {
        self.answers.extend(answers);
    }

    pub fn requests(&self) -> usize {
        self.answers.len()
    }

    pub fn errors(&self) -> usize {
        self.answers.iter().filter(|a| a.from.is_err()).count()
    }

    /// Failed requests that began in this span.
    pub fn errors_between(&self, from: Instant, to: Instant) -> usize {
        self.between(from, to).filter(|a| a.from.is_err()).count()
    }

    /// The first failure, for a message.
    pub fn first_error_between(&self, from: Instant, to: Instant) -> Option<&str> {
        self.between(from, to).find_map(|a| a.from.as_ref().err()).map(String::as_str)
    }

    /// Answers by backend of the requests that began in this span.
    pub fn shares_between(&self, from: Instant, to: Instant) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for who in self.between(from, to).filter_map(|a| a.from.as_ref().ok()) {
            *shares.entry(who.clone()).or_default() += 1;
        }
        shares
    }

    /// From `event` to the beginning of the last request that failed or that `who` answered after it; zero if there was none.
    pub fn settled_after(&self, event: Instant, who: &str) -> Duration {
        self.answers
            .iter()
            .filter(|a| a.at >= event && a.from.as_ref().map_or(true, |from| from == who))
            .map(|a| a.at - event)
            .max()
            .unwrap_or_default()
    }

    /// From `event` to the first answer by `who` that was asked for after it.
    pub fn first_after(&self, event: Instant, who: &str) -> Option<Duration> {
        self.answers.iter().find(|a| a.at >= event && a.from.as_deref() == Ok(who)).map(|a| a.at + a.took - event)
    }

    fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(move |a| a.at >= from && a.at < to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_from_the_event() {
        let t0 = Instant::now();
        let ms = Duration::from_millis;
        let answer = |at: u64, from: Result<&str, &str>| Answer {
            at: t0 + ms(at),
            took: ms(1),
            from: from.map(str::to_owned).map_err(str::to_owned),
        };
        let mut board = Scoreboard::default();
        board.add(vec![answer(0, Ok("a")), answer(10, Ok("b")), answer(12, Err("reset")), answer(20, Ok("b")), answer(30, Ok("c"))]);
        assert_eq!(board.settled_after(t0 + ms(5), "a"), ms(7));
        assert_eq!(board.settled_after(t0 + ms(25), "a"), Duration::ZERO);
        assert_eq!(board.first_after(t0 + ms(5), "c"), Some(ms(26)));
        assert_eq!(board.first_after(t0 + ms(5), "a"), None);
        assert_eq!(board.errors_between(t0, t0 + ms(12)), 0);
        assert_eq!(board.shares_between(t0, t0 + ms(11)), BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
    }
}
