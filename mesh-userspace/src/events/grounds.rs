use std::collections::BTreeMap;

use crate::health::{
    Evidence,
    breaker::{News, Reading},
    detector::Signals,
};

/// What a change of a backend's state rests on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Grounds {
    pub words: String,
    /// By the name of the channel, or of what was counted.
    pub values: BTreeMap<String, f64>,
}

impl Grounds {
    /// Grounds without numbers.
    pub fn words(words: impl Into<String>) -> Self {
        Self { words: words.into(), values: BTreeMap::new() }
    }

    /// What the health of a backend rests on.
    pub fn of(evidence: &Evidence) -> Self {
        let Evidence { consecutive, rtt, signals, votes, .. } = evidence;
        let mut values: BTreeMap<_, _> = signals.iter().flat_map(Signals::named).map(|(name, phi)| (name.to_owned(), phi)).collect();
        values.insert("checks_in_row".to_owned(), f64::from(*consecutive));
        values.extend(rtt.map(|rtt| ("rtt_ms".to_owned(), rtt.as_secs_f64() * 1e3)));
        let votes = votes.map(|v| [("votes_against", v.against), ("votes_of", v.of), ("votes_needed", v.needed)]);
        values.extend(votes.into_iter().flatten().map(|(name, value)| (name.to_owned(), f64::from(value))));
        Self { words: evidence.to_string(), values }
    }

    /// What the change of a breaker or limit rests on.
    pub fn of_gate(news: &News) -> Self {
        let (words, values) = match news {
            News::Circuit(change) => {
                let Reading { flows, failures, in_row, latency } = change.reading;
                let all =
                    [("flows", Some(flows as f64)), ("failures", failures), ("failed_in_row", Some(in_row as f64)), ("latency", latency)];
                (change.to_string(), all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
            }
            News::Full(Some(full)) => {
                let (counted, limit) = full.values();
                (full.to_string(), [("counted".to_owned(), counted as f64), ("limit".to_owned(), f64::from(limit))].into())
            }
            News::Full(None) => ("there is room for new connections again".to_owned(), BTreeMap::new()),
        };
        Self { words, values }
    }
}
