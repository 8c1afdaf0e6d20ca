//! Objects by kind, and how they changed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Asked, Manner};

/// Who may ask.
pub const TOKEN: &str = "secret-of-the-fake";

/// Group, version and plural; then namespace and name.
pub type Key = (String, String, String);

#[derive(Clone, Debug)]
pub struct Change {
    pub version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub what: &'static str,
    pub key: Key,
    pub object: Value,
}

#[derive(Clone, Debug, Default)]
pub struct Store {
    kinds: BTreeSet<String>,
    objects: BTreeMap<Key, Value>,
    pub version: u64,
    history: Vec<Change>,
    /// Changes up to this version are forgotten.
    pub oldest: u64,
    pub manner: Manner,
    pub bookmarks: u64,
    pub cuts: u64,
    pub asked: Asked,
}

impl Store {
    pub fn new(kinds: &[&str]) -> Self {
        Self { kinds: kinds.iter().map(|k| (*k).to_owned()).collect(), version: 1000, oldest: 1000, ..Self::default() }
    }

    pub fn knows(&self, kind: &str) -> bool {
        self.kinds.contains(kind)
    }

    pub fn put(&mut self, kind: &str, mut object: Value) {
        let text = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let key = (kind.to_owned(), text(&object, "namespace"), text(&object, "name"));
        self.version += 1;
        let before = self.objects.get(&key);
        let created = before
            .map_or_else(|| json!(format!("2026-01-01T00:00:{:02}Z", self.version % 60)), |b| b["metadata"]["creationTimestamp"].clone());
        let uid = before.map_or_else(|| json!(format!("uid-{}", self.version)), |b| b["metadata"]["uid"].clone());
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        if let Some(before) = before.filter(|_| object.get("status").is_none()) {
            object["status"] = before["status"].clone();
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        for (field, value) in [("creationTimestamp", created), ("uid", uid), ("generation", json!(1))] {
            if object["metadata"][field].is_null() {
                object["metadata"][field] = value;
            }
        }
        if object["status"].is_null()
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        self.objects.insert(key.clone(), object.clone());
        self.history.push(Change { version: self.version, what, key, object });
    }

    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let Some(mut object) = self.objects.remove(&key) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Change { version: self.version, what: "DELETED", key, object });
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// Replaces the status of an object, if it still is of the version that was read. The error is the HTTP status.
    pub fn put_status(&mut self, kind: &str, namespace: &str, name: &str, body: &Value, merge: bool) -> Result<Value, u16> {
        self.asked.writes += 1;
        let mut object = self.get(kind, namespace, name).ok_or(404_u16)?.clone();
        let (read, now) = (&body["metadata"]["resourceVersion"], &object["metadata"]["resourceVersion"]);
        if read.is_string() && read != now {
            self.asked.conflicts += 1;
            return Err(409);
        }
        if merge {
            merge_patch(&mut object["status"], &body["status"]);
        } else {
            object["status"] = body["status"].clone();
        }
        self.put(kind, object.clone());
        Ok(self.get(kind, namespace, name).cloned().unwrap_or(object))
    }

    pub fn compact(&mut self) {
        // The version goes on, as in a cluster where other things happen.
        self.version += 10;
        self.oldest = self.version;
        self.history.clear();
    }

    pub fn list(&self, select: &Select) -> Vec<&Value> {
        self.objects.iter().filter(|(key, object)| select.fits(key, object)).map(|(_, object)| object).collect()
    }

    /// What changed after `version`, as one who selects sees it: what no longer fits is gone.
    pub fn since(&self, version: u64, select: &Select) -> Vec<Change> {
        let start = self.history.partition_point(|change| change.version <= version);
        self.history[start..].iter().filter(|change| select.fits(&change.key, &change.object)).cloned().collect()
    }
}

/// Which objects somebody asks for.
#[derive(Clone, Debug, Default)]
pub struct Select {
    pub kind: String,
    /// Empty = all.
    pub namespace: String,
    pub labels: Vec<(String, String)>,
    /// `metadata.name`.
    pub name: Option<String>,
}

impl Select {
    fn fits(&self, (kind, namespace, name): &Key, object: &Value) -> bool {
        *kind == self.kind
            && (self.namespace.is_empty() || *namespace == self.namespace)
            && self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.labels.iter().all(|(label, value)| object["metadata"]["labels"][label] == json!(value))
    }
}

/// RFC 7386.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().map(|t| t.remove(key));
        } else {
            merge_patch(&mut target[key], value);
        }
    }
}
