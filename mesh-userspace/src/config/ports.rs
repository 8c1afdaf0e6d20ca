//! Source ports of translated flows: as written -> as meant.

use std::ops::RangeInclusive;

use mesh_common::abi::NAT_RANGES;

use super::{forms::PortsForm, placed::Placed, resolve::Findings};

/// The lowest port: those below it belong to the node's own services.
const FIRST: u16 = 1024;
const EXAMPLE: &str = "write FIRST-LAST, such as 10240-29999";

/// Ascending ranges; all that is wrong is in `findings`.
pub fn resolve(written: &Placed<PortsForm>, findings: &mut Findings<'_>) -> Vec<RangeInclusive<u16>> {
    let texts = &written.value.0;
    if texts.is_empty() {
        findings.error(written, "no ports are listed", format!("{EXAMPLE}, or leave `ports` out"));
    }
    if let Some(beyond) = texts.get(NAT_RANGES) {
        let message = format!("there can be at most {NAT_RANGES} ranges of ports");
        findings.error(&place_of(beyond, written), message, "join some, or remove some");
    }
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for text in texts {
        let at = &place_of(text, written);
        let Some(range) = findings.ok(at, one(&text.value), EXAMPLE) else { continue };
        match ranges.iter().find(|other| range.start() <= other.end() && other.start() <= range.end()) {
            Some(other) => {
                let (first, last) = (range.start().min(other.start()), range.end().max(other.end()));
                let message = format!("`{text}` has ports of the range {}-{} as well", other.start(), other.end());
                findings.error(at, message, format!("name each port once: both together are {first}-{last}"));
            }
            None => ranges.push(range),
        }
    }
    ranges.sort_by_key(|range| *range.start());
    ranges
}

/// A range that is written without a list stands where the key's value does.
fn place_of(text: &Placed<String>, whole: &Placed<PortsForm>) -> Placed<()> {
    Placed { value: (), place: text.place.clone().or_else(|| whole.place.clone()) }
}

fn one(text: &str) -> Result<RangeInclusive<u16>, String> {
    let bad = || format!("`{text}` is no range of ports");
    let (first, last) = text.split_once('-').ok_or_else(bad)?;
    let first: u16 = first.trim().parse().map_err(|_| bad())?;
    let last: u16 = last.trim().parse().map_err(|_| bad())?;
    if first < FIRST {
        return Err(format!("`{text}` has ports below {FIRST}, which belong to the node's own services"));
    }
    if first > last {
        return Err(format!("`{text}` ends before it begins"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{ConfigError, Loaded, Syntax, parse};

    fn yaml(ports: &str) -> Result<Loaded, ConfigError> {
        parse(&format!("nat:\n  ports: {ports}\n"), Syntax::Yaml, Path::new("x.yaml"))
    }

    fn toml(ports: &str) -> Result<Loaded, ConfigError> {
        parse(&format!("[nat]\nports = {ports}\n"), Syntax::Toml, Path::new("x.toml"))
    }

    #[test]
    fn they_are_one_range_or_a_list_of_some() {
        let of = |parsed: Result<Loaded, ConfigError>| parsed.unwrap_or_else(|e| panic!("{e}")).config.nat.ports;
        assert_eq!(of(parse("nat: {}\n", Syntax::Yaml, Path::new("x.yaml"))), []);
        assert_eq!(of(yaml("1024-65535")), [1024..=65535]);
        assert_eq!(of(yaml("[1024-65535]")), [1024..=65535]);
        assert_eq!(of(toml("'1024 - 65535'")), [1024..=65535]);
        let several = [1024..=1024, 10240..=19999, 20000..=20009, 40000..=49999];
        assert_eq!(of(yaml("[40000-49999, 10240-19999, 1024-1024, 20000-20009]")), several);
        assert_eq!(of(yaml("\n  - 40000-49999\n  - 10240-19999\n  - '20000-20009'\n  - 1024-1024")), several);
        assert_eq!(of(toml("['10240-19999', '40000-49999', '20000-20009', '1024-1024']")), several);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_remedy() {
        let rows = [
            ("web", "2:10: `web` is no range of ports", "FIRST-LAST"),
            ("8000", "2:10: `8000` is no range of ports", "FIRST-LAST"),
            ("-5", "2:10: `-5` is no range of ports", "FIRST-LAST"),
            ("{first: 8000}", "2:10: ", "list of such ranges"),
            ("60000-70000", "2:10: `60000-70000` is no range of ports", "FIRST-LAST"),
            ("9000-8000", "2:10: `9000-8000` ends before it begins", "FIRST-LAST"),
            ("[]", "2:10: no ports are listed", "leave `ports` out"),
            ("[20000-20999, 80-90]", "2:24: `80-90` has ports below 1024", "FIRST-LAST"),
            ("[20000-20999, 8000]", "2:24: `8000` is no range of ports", "FIRST-LAST"),
            ("[20000-20999, 9000-8000]", "2:24: `9000-8000` ends before it begins", "FIRST-LAST"),
            ("\n  - 20000-20999\n  - x", "4:5: `x` is no range of ports", "FIRST-LAST"),
            (
                "[20000-20999, 20999-21999]",
                "2:24: `20999-21999` has ports of the range 20000-20999 as well",
                "both together are 20000-21999",
            ),
            ("[20000-20999, 20000-20999]", "2:24: `20000-20999` has ports of the range", "name each port once"),
            ("[4000-4009, 1024-1029, 3000-3009, 2000-2009, 5000-5009]", "2:55: there can be at most 4 ranges of ports", "join some"),
        ];
        for (text, expected, help) in rows {
            let error = yaml(text).map(|_| ()).expect_err(text).to_string();
            assert!(error.starts_with(&format!("x.yaml:{expected}")), "{text}\n{error}\nshould begin with {expected}");
            assert!(error.contains(help), "{text}\n{error}\nshould help with {help}");
        }
        let error = toml("['20000-20999', '20500-20600']").map(|_| ()).expect_err("they overlap").to_string();
        assert!(error.starts_with("x.toml:2:25: `20500-20600` has ports of the range 20000-20999"), "{error}");
    }
}
