//! Backends from a file: a list as in the configuration's `backends`, bare or under the key `backends` (TOML has no bare lists).

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    config::{
        self, ConfigError, Diagnostic,
        forms::BackendForm,
        placed::{Placed, Syntax},
    },
    model::{Endpoint, Mode, VipAddr},
};

/// Why a list of backends can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("can't read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{} is empty: an empty list is written `[]`", path.display())]
    Empty { path: PathBuf },
}

/// The backends in the file `path`, of a service with this VIP and mode.
pub fn read_endpoints(path: &Path, vip: VipAddr, mode: Mode) -> Result<Vec<Endpoint>, SourceError> {
    let text = std::fs::read_to_string(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
    let syntax = config::syntax_of(path)?;
    // A file that is being rewritten in place is empty for a moment; taking that for "no backends" would empty the table.
    if text.trim().is_empty() {
        return Err(SourceError::Empty { path: path.to_owned() });
    }
    let list = read_list(&text, syntax).map_err(|d| ConfigError::Invalid(vec![d.in_file(path)]))?;
    let mut findings = config::Findings::new(&text, Some(path));
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for placed in &list {
        let Some(endpoint) = config::resolve_backend(&placed.value.0, placed, vip, mode, &mut findings) else { continue };
        if endpoints.iter().any(|e| e.id == endpoint.id) {
            findings.error(placed, format!("backend {} is listed twice", endpoint.id), "remove one of the two");
        }
        endpoints.push(endpoint);
    }
    if findings.errors.is_empty() { Ok(endpoints) } else { Err(ConfigError::Invalid(findings.errors).into()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    backends: Vec<Placed<BackendForm>>,
}

/// The bare list first; if there is none, the error is that of the form which the text comes nearest to.
fn read_list(text: &str, syntax: Syntax) -> Result<Vec<Placed<BackendForm>>, Diagnostic> {
    let wrapped = || config::read(text, syntax).map(|w: Wrapped| w.backends);
    if syntax == Syntax::Toml {
        return wrapped();
    }
    config::read(text, syntax).or_else(|bare| wrapped().map_err(|error| if text.contains("backends") { error } else { bare }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Proto;

    const VIP: VipAddr = VipAddr { addr: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), port: 80, proto: Proto::Tcp };

    fn read(name: &str, text: &str) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let list = read_endpoints(&path, VIP, Mode::Nat).map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
        Ok(list.into_iter().map(|e| format!("{} {}", e.id, e.weight.0)).collect())
    }

    #[test]
    fn lists_in_every_syntax() {
        let expected = Ok(vec!["10.0.0.1:80 1".to_owned(), "10.0.0.2:8080 5".to_owned()]);
        assert_eq!(read("b.yaml", "- 10.0.0.1\n- address: 10.0.0.2:8080\n  weight: 5\n"), expected);
        assert_eq!(read("b.yaml", "# one\n---\nbackends:\n- 10.0.0.1\n- {address: 10.0.0.2, port: 8080, weight: 5}\n"), expected);
        assert_eq!(read("b.json", r#"["10.0.0.1", {"address": "10.0.0.2:8080", "weight": 5}]"#), expected);
        assert_eq!(read("b.json", r#"{"backends": ["10.0.0.1", {"address": "10.0.0.2:8080", "weight": 5}]}"#), expected);
        assert_eq!(read("b.toml", "backends = [\"10.0.0.1\", { address = \"10.0.0.2:8080\", weight = 5 }]\n"), expected);
        assert_eq!(read("b.yaml", "[]"), Ok(vec![]));
    }

    #[test]
    fn bad_lists_say_where() {
        for (name, text, expected) in [
            ("b.yaml", "", "b.yaml is empty: an empty list is written `[]`"),
            ("b.txt", "- 10.0.0.1", "b.txt: can't tell the syntax by this name"),
            ("b.yaml", "- 10.0.0.1\n- 10.0.0.1:80\n", "b.yaml:2:3: backend 10.0.0.1:80 is listed twice"),
            ("b.yaml", "- 10.0.0.1\n- fe00::1\n", "b.yaml:2:3: backend fe00::1 is not of the VIP's family"),
            ("b.json", "[\"10.0.0.1\", ", "b.json:1:"),
            ("b.toml", "backends = [\"10.0.0.\"]\n", "b.toml:1:13: `10.0.0.` is no address"),
        ] {
            let error = read(name, text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }
}
