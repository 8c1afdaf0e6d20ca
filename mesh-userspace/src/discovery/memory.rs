//! What sources said last, kept over a restart of the daemon: a source that can't be had then must not empty its service.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::SourceKey;
use crate::{
    config::{Instance, written},
    model::{Endpoint, ServiceName},
};

/// Version of the file's form.
const VERSION: u32 = 1;

/// The endpoints of one source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Remembered {
    pub service: ServiceName,
    pub source: String,
    /// When the source last gave a good answer, milliseconds since the Unix epoch.
    pub answered_ms: u64,
    pub endpoints: Vec<Endpoint>,
    /// Services that a cluster asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<written::Service>,
}

/// The file that it is kept in.
#[derive(Clone, Debug)]
pub struct Memory(PathBuf);

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    sources: T,
}

impl Remembered {
    pub fn key(&self) -> SourceKey {
        SourceKey { service: self.service.clone(), source: self.source.clone() }
    }
}

impl Memory {
    pub fn new(dir: &Path, instance: &Instance) -> Self {
        Self(dir.join(format!("{instance}.sources.json")))
    }

    /// What was kept; nothing if nothing was. The error says what is wrong with the file.
    pub fn load(&self) -> Result<Vec<Remembered>, String> {
        let told = |error: &dyn std::fmt::Display| format!("{} can't be used: {error}; sources begin anew", self.0.display());
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(told(&e)),
        };
        let Versioned { version, sources } = serde_json::from_slice(&text).map_err(|e| told(&e))?;
        if version == VERSION { Ok(sources) } else { Err(told(&format!("its form has version {version}, this mesh knows {VERSION}"))) }
    }

    /// Replaces the file as a whole. It may be the older one after a crash of the machine: it is only what was said last.
    pub fn save(&self, sources: &[Remembered]) -> io::Result<()> {
        let new = self.0.with_extension("json.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(&Versioned { version: VERSION, sources })?)?;
        fs::rename(&new, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendId, Weight};

    #[test]
    fn what_was_said_is_kept_and_bad_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(dir.path(), &Instance::default());
        assert_eq!(memory.load(), Ok(Vec::new()));
        let endpoint = Endpoint {
            name: Some("a".into()),
            drain: true,
            zone: Some("z".into()),
            capacity: Some(100),
            ..Endpoint::new(BackendId(([10, 0, 0, 1], 80).into()), Weight(7))
        };
        let all = vec![Remembered {
            service: "web".parse().unwrap(),
            source: "dns a".into(),
            answered_ms: 5,
            endpoints: vec![endpoint],
            services: Vec::new(),
        }];
        memory.save(&all).unwrap();
        assert_eq!(memory.load(), Ok(all));
        for bad in ["", "{", "[]", r#"{"version": 2, "sources": []}"#] {
            fs::write(dir.path().join("default.sources.json"), bad).unwrap();
            assert!(memory.load().unwrap_err().contains("can't be used"), "{bad}");
        }
    }
}
