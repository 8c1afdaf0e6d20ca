//! The load that a backend reports in a header of its answers.

use serde_json::Value;

/// 0 = nothing to do, 1 = as much as it can; or why what it said is no load.
pub type Reported = Result<f64, String>;

/// Of the metrics of an Open Request Cost Aggregation report, those that say how much of a backend is used, the best one first.
const UTILIZATIONS: [&str; 2] = ["application_utilization", "cpu_utilization"];

/// Reads `0.42`, `42%`, or a report such as `TEXT cpu_utilization=0.3, rps_fractional=100` or `JSON {"cpu_utilization": 0.3}`
/// (Envoy's `endpoint-load-metrics`).
pub fn parse_load(text: &str) -> Reported {
    let text = text.trim();
    let load = match text.split_once(' ') {
        Some(("TEXT", report)) => best(|name| metric(report, name)),
        Some(("JSON", report)) => {
            let report: Value = serde_json::from_str(report).map_err(|e| format!("the report is no JSON: {e}"))?;
            best(|name| report.get(name)?.as_f64())
        }
        _ => number(text),
    };
    load.filter(|load| load.is_finite() && *load >= 0.0).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        format!("`{shown}` is no load: a number from 0 on, a percentage, or a report with `cpu_utilization` or `application_utilization`")
    })
}

fn number(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => Some(percent.trim_end().parse::<f64>().ok()? / 100.0),
        None => text.parse().ok(),
    }
}

/// The first metric that says more than nothing; 0 means that nobody measures it, where another one does.
fn best(metric: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let mut said = UTILIZATIONS.iter().filter_map(|name| metric(name));
    let first = said.next()?;
    if first > 0.0 { Some(first) } else { said.next().or(Some(first)) }
}

fn metric(report: &str, name: &str) -> Option<f64> {
    let pairs = report.split([',', ' ']).filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_load() {
        for (text, load) in [
            ("0", 0.0),
            ("0.42", 0.42),
            (" 1.5 ", 1.5),
            ("42%", 0.42),
            ("7.5 %", 0.075),
            ("TEXT cpu_utilization=0.3, mem_utilization=0.8", 0.3),
            ("TEXT cpu_utilization=0.3,application_utilization=0.6", 0.6),
            ("TEXT application_utilization=0, cpu_utilization=0.25", 0.25),
            ("JSON {\"cpu_utilization\": 0.3, \"rps_fractional\": 100}", 0.3),
            ("JSON {\"application_utilization\": 1}", 1.0),
        ] {
            assert_eq!(parse_load(text), Ok(load), "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        let long = "9".repeat(5000) + "x";
        for text in
            ["", "%", "much", "-1", "-5%", "NaN", "inf", "TEXT", "TEXT mem_utilization=0.5", "TEXT cpu_utilization=x", "JSON {", &long]
        {
            let why = parse_load(text).unwrap_err();
            assert!(why.len() < 250, "{why}");
        }
    }
}
