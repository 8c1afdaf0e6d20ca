use std::{fmt, ops::RangeInclusive, str::FromStr};

use super::BadCheck;

/// HTTP statuses that count as passed, written `200-299,404`. The default is `200-399`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StatusSet(Vec<RangeInclusive<u16>>);

impl StatusSet {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|r| r.contains(&status))
    }
}

impl Default for StatusSet {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl FromStr for StatusSet {
    type Err = BadCheck;

    fn from_str(s: &str) -> Result<Self, BadCheck> {
        let ranges: Option<Vec<_>> = s.split(',').map(|part| status_range(part.trim())).collect();
        ranges.map(Self).ok_or_else(|| BadCheck::Status(s.into()))
    }
}

fn status_range(s: &str) -> Option<RangeInclusive<u16>> {
    let status = |s: &str| s.trim().parse().ok().filter(|n| (100..=599).contains(n));
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    let range = status(first)?..=status(last)?;
    (!range.is_empty()).then_some(range)
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match (r.start(), r.end()) {
                (a, b) if a == b => write!(f, "{comma}{a}")?,
                (a, b) => write!(f, "{comma}{a}-{b}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let set: StatusSet = "200-299, 404".parse().unwrap();
        assert_eq!(set.to_string(), "200-299,404");
        for (status, expected) in [(199, false), (200, true), (299, true), (300, false), (404, true), (405, false)] {
            assert_eq!(set.contains(status), expected, "{status}");
        }
        assert!(StatusSet::default().contains(302) && !StatusSet::default().contains(500));
        for bad in ["", "ok", "99", "600", "300-200", "200-", "-200", "200,,201", "200-299-300", "70000"] {
            assert_eq!(bad.parse::<StatusSet>(), Err(BadCheck::Status(bad.into())), "{bad}");
        }
    }
}
