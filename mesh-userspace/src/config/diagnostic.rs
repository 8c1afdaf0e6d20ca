//! What is wrong with a configuration, where, and how to mend it.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// One finding in a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty where the message says it already.
    pub help: String,
    /// File, if the text came from one.
    pub file: Option<PathBuf>,
    pub place: Option<Place>,
}

/// A place in a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line itself.
    pub text: String,
    /// Characters to point at, at least 1.
    pub width: usize,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: can't tell the syntax by this name: call it *.yaml, *.yml, *.json or *.toml", path.display())]
    Syntax { path: PathBuf },
    #[error("{}", Joined(.0))]
    Invalid(Vec<Diagnostic>),
}

impl Place {
    /// The place of a range of bytes in `text`.
    pub fn of(text: &str, range: &Range<usize>) -> Self {
        let mut at = range.start.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let (before, after) = text.split_at(at);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line_end = after.find('\n').map_or(text.len(), |i| at + i);
        let end = range.end.clamp(at, line_end);
        Self {
            line: before.matches('\n').count() + 1,
            column: text[line_start..at].chars().count() + 1,
            text: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            width: text.get(at..end).map_or(1, |s| s.trim_end().chars().count()).max(1),
        }
    }

    /// The place of a line and a column, both from 1.
    pub fn at(text: &str, line: usize, column: usize) -> Self {
        let line_text = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
        Self { line, column, text: line_text, width: 1 }
    }
}

impl Diagnostic {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into(), file: None, place: None }
    }

    /// The same, in `file`.
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The same, at `place`.
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if let Some(place) = &self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        if self.file.is_some() || self.place.is_some() {
            f.write_str(" ")?;
        }
        f.write_str(&self.message)?;
        if let Some(Place { line, column, text, width }) = &self.place {
            let gutter = line.to_string().len();
            write!(f, "\n{:gutter$} |\n{line} | {text}\n{:gutter$} | {:>indent$}{:^<width$}", "", "", "", "", indent = column - 1)?;
        }
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

struct Joined<'a>(&'a [Diagnostic]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            d.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_has_a_place() {
        let text = "a: ü\nb: [1,\r\n2]\n";
        assert_eq!(Place::of(text, &(3..5)), Place { line: 1, column: 4, text: "a: ü".into(), width: 1 });
        assert_eq!(Place::of(text, &(9..15)), Place { line: 2, column: 4, text: "b: [1,".into(), width: 3 });
        for start in 0..30 {
            for end in 0..30 {
                let place = Place::of(text, &Range { start, end });
                assert!(place.line >= 1 && place.column >= 1 && place.width >= 1);
            }
        }
    }

    #[test]
    fn a_finding_shows_its_line() {
        let d =
            Diagnostic::new("no such mode", "use nat").in_file(Path::new("lb.yaml")).at(Some(Place::of("x: 1\nmode: foo\n", &(11..14))));
        assert_eq!(d.to_string(), "lb.yaml:2:7: no such mode\n  |\n2 | mode: foo\n  |       ^^^\n  help: use nat");
    }
}
