use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How an answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For people with wide screens
    Wide,
    Json,
    Yaml,
}

impl Format {
    /// For programs, not for people.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

/// Prints `value` as data, or as `table` (of the value, and whether it may be wide) shows it.
pub(super) fn print<T: Serialize>(
    out: &mut impl Write,
    format: Format,
    value: &T,
    table: impl FnOnce(&T, bool) -> String,
) -> io::Result<()> {
    match format {
        Format::Table | Format::Wide => out.write_all(table(value, format == Format::Wide).as_bytes())?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, value)?;
            out.write_all(b"\n")?;
        }
        Format::Yaml => out.write_all(yaml(value)?.as_bytes())?,
    }
    out.flush()
}

/// Prints one of many values that come one by one: JSON in one line, YAML as a document of its own.
pub(super) fn print_line<T: Serialize>(out: &mut impl Write, format: Format, value: &T, line: impl FnOnce(&T) -> String) -> io::Result<()> {
    match format {
        Format::Table | Format::Wide => out.write_all(line(value).as_bytes())?,
        Format::Json => {
            serde_json::to_writer(&mut *out, value)?;
            out.write_all(b"\n")?;
        }
        Format::Yaml => write!(out, "---\n{}", yaml(value)?)?,
    }
    out.flush()
}

fn yaml<T: Serialize>(value: &T) -> io::Result<String> {
    let mut text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
