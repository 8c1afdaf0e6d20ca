//! What an operator wrote -> what it means, with the place of every error.

mod balance;
pub mod balanced;
mod check;
mod diagnostic;
pub mod forms;
mod guard;
pub mod guarded;
mod health;
pub mod keys;
mod kubernetes;
pub mod ledger;
pub mod peers;
pub mod placed;
mod ports;
mod probe;
pub mod protect;
pub mod quic;
pub mod reported;
mod resolve;
mod resolved;
mod schema;
mod service;
mod sizes;
mod source;
mod source_access;
pub mod sourced;
pub mod translated;
pub mod words;
pub mod written;

use std::path::{Path, PathBuf};

pub use diagnostic::{ConfigError, Diagnostic, Place};
pub use ledger::Ledger;
pub use peers::Peers;
use placed::{Syntax, innermost_failure, split_place, with_places};
pub use quic::server_id_fits;
pub use resolve::Findings;
pub use resolved::{
    Api, Check, Config, FlowLog, Heartbeat, HeartbeatListener, Instance, Interface, Judgement, Limits, Log, Nat, NatTimeouts, PhiJudgement,
    Service, Weights,
};
pub use schema::schema;
pub use service::{resolve_backend, resolve_service};
pub use words::Hook;

/// A configuration that holds, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

/// Reads and resolves the configuration in the file `path`.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, syntax_of(path)?, path)
}

/// Resolves the configuration in `text`; `path` is what errors call it, and what relative paths in it are relative to.
pub fn parse(text: &str, syntax: Syntax, path: &Path) -> Result<Loaded, ConfigError> {
    let written: written::File = read(text, syntax).map_err(|d| ConfigError::Invalid(vec![d.in_file(path)]))?;
    let base = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let mut findings = Findings::new(text, Some(path));
    let config = resolve::resolve(&written, &base, &mut findings);
    match config {
        Some(config) if findings.errors.is_empty() => Ok(Loaded { config, warnings: findings.warnings }),
        _ => Err(ConfigError::Invalid(findings.errors)),
    }
}

/// The syntax that a file's extension stands for.
pub fn syntax_of(path: &Path) -> Result<Syntax, ConfigError> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("yaml" | "yml" | "json") => Ok(Syntax::Yaml),
        Some("toml") => Ok(Syntax::Toml),
        _ => Err(ConfigError::Syntax { path: path.to_owned() }),
    }
}

/// Reads a value, with the places of [`placed::Placed`] parts.
pub fn read<T: serde::de::DeserializeOwned>(text: &str, syntax: Syntax) -> Result<T, Diagnostic> {
    match syntax {
        Syntax::Yaml => with_places(syntax, || serde_saphyr::from_str(text)).map_err(|e| yaml_error(text, &e)),
        Syntax::Toml => with_places(syntax, || toml::from_str(text))
            .map_err(|e: toml::de::Error| Diagnostic::new(first_line(e.message()), "").at(e.span().map(|s| Place::of(text, &s)))),
    }
}

fn yaml_error(text: &str, error: &serde_saphyr::Error) -> Diagnostic {
    let plain = error.without_snippet();
    let outer = plain.location().map(|l| (l.line() as usize, l.column() as usize));
    let (message, told, place) = match innermost_failure() {
        Some(inner) => (inner.message, inner.told, inner.place),
        None => (split_place(first_line(&plain.to_string()).as_str()).0.to_owned(), outer, None),
    };
    // A place that the library tells is exact if it lies beyond the beginning of the value; before it, it is that of the table around.
    let value = place.map(|range| Place::of(text, &range));
    let told = told.filter(|(line, _)| *line > 0).map(|(line, column)| Place::at(text, line, column));
    let place = match (told, value) {
        (Some(told), Some(value)) if (told.line, told.column) > (value.line, value.column) => Some(told),
        (told, value) => value.or(told),
    };
    Diagnostic::new(first_line(&message), "").at(place)
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
