//! Prometheus' text format, version 0.0.4: families of samples, each with its help and type, written in one pass.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

/// A page in the making.
#[derive(Debug)]
pub struct Page {
    families: Vec<Family>,
    by_name: HashMap<&'static str, usize>,
}

/// A name, its help, and its samples as they are written.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Gauge,
    Counter,
}

/// Labels of samples, as they are written: what many samples share is escaped once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Labels(String);

impl Page {
    /// `gauges` and `counters`: names and helps. A family without samples is left out.
    pub fn new(gauges: &[(&'static str, &'static str)], counters: &[(&'static str, &'static str)]) -> Self {
        let family = |kind| move |&(name, help)| Family { name, help, kind, samples: String::new() };
        let families: Vec<Family> = gauges.iter().map(family(Kind::Gauge)).chain(counters.iter().map(family(Kind::Counter))).collect();
        let by_name = families.iter().enumerate().map(|(at, family)| (family.name, at)).collect();
        Self { families, by_name }
    }

    pub fn gauge(&mut self, name: &'static str, labels: &Labels, value: impl Into<f64>) {
        self.sample(name, Kind::Gauge, labels, Number(value.into()));
    }

    pub fn counter(&mut self, name: &'static str, labels: &Labels, value: u64) {
        self.sample(name, Kind::Counter, labels, value);
    }

    /// A counter of time, which is told in seconds.
    pub fn time(&mut self, name: &'static str, labels: &Labels, microseconds: u64) {
        self.sample(name, Kind::Counter, labels, Number(microseconds as f64 / 1e6));
    }

    fn sample(&mut self, name: &'static str, kind: Kind, labels: &Labels, value: impl fmt::Display) {
        let at = *self.by_name.entry(name).or_insert_with(|| {
            self.families.push(Family { name, help: "", kind, samples: String::new() });
            self.families.len() - 1
        });
        let Some(family) = self.families.get_mut(at) else { return };
        let text = &mut family.samples;
        text.push_str(name);
        if !labels.0.is_empty() {
            text.push('{');
            text.push_str(&labels.0);
            text.push('}');
        }
        // Writing to a text can't fail.
        let _ = writeln!(text, " {value}");
    }

    pub fn text(self) -> String {
        let length = self.families.iter().map(|f| f.samples.len() + 2 * f.name.len() + f.help.len() + 32).sum();
        let mut text = String::with_capacity(length);
        for Family { name, help, kind, samples } in self.families.iter().filter(|f| !f.samples.is_empty()) {
            let kind = if *kind == Kind::Gauge { "gauge" } else { "counter" };
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
        text
    }
}

impl Labels {
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        pairs.iter().fold(Self::default(), |labels, (key, value)| labels.and(key, value))
    }

    /// The same and one more.
    #[must_use]
    pub fn and(&self, key: &str, value: &str) -> Self {
        let mut text = String::with_capacity(self.0.len() + key.len() + value.len() + 4);
        text.push_str(&self.0);
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(key);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                _ => text.push(c),
            }
        }
        text.push('"');
        Self(text)
    }
}

/// A number as the format has it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            // Most are whole, and those are written faster as what they are.
            n if n.fract() == 0.0 && n.abs() < 1e15 => (n as i64).fmt(f),
            n => n.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_together_whatever_the_order_of_the_samples() {
        let mut page = Page::new(&[("a", "first"), ("empty", "never")], &[("b_total", "second")]);
        let one = Labels::of(&[("x", "1"), ("y", "a\"b\\c\nd")]);
        page.gauge("a", &one, 1.5);
        page.counter("b_total", &Labels::default(), u64::MAX);
        page.gauge("a", &Labels::default(), f64::INFINITY);
        let wanted = "# HELP a first\n# TYPE a gauge\na{x=\"1\",y=\"a\\\"b\\\\c\\nd\"} 1.5\na +Inf\n# HELP b_total second\n# TYPE b_total counter\nb_total \
                      18446744073709551615\n";
        assert_eq!(page.text(), wanted);
    }
}
