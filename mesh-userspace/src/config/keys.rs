//! Every key of the configuration with its line of documentation, read from the schema and so from the types themselves.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::{Map, Value};

/// One table of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Where it may stand: `services[].health`; empty for the file itself.
    pub path: String,
    pub doc: String,
    pub keys: Vec<Key>,
}

/// One key of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub name: String,
    /// What may be written, in words: `text`, `duration`, `tcp | udp`.
    pub value: String,
    pub required: bool,
    /// What it means, with its default; one line.
    pub doc: String,
}

/// All tables, that of the file first. A table that may stand at several places is told once, at the first of them.
pub fn tables(schema: &Value) -> Vec<Table> {
    let mut walk = Walk { root: schema, seen: BTreeSet::new(), tables: Vec::new() };
    walk.table(String::new(), schema);
    walk.tables
}

/// One line for each key, from the file's root: `services[].health.interval`, what may be written, what it means.
pub fn lines(tables: &[Table]) -> String {
    let rows: Vec<(String, &Key)> = tables.iter().flat_map(|t| t.keys.iter().map(|k| (joined(&t.path, &k.name), k))).collect();
    let wide = rows.iter().map(|(path, _)| path.chars().count()).max().unwrap_or_default();
    rows.iter().fold(String::new(), |mut out, (path, key)| {
        let _ = writeln!(out, "{path:wide$}  {} ({}{})", key.doc, key.value, if key.required { ", required" } else { "" });
        out
    })
}

/// The same as a document in Markdown, one section for each table.
pub fn markdown(tables: &[Table]) -> String {
    let mut out = String::from(HEAD);
    for table in tables {
        let title = if table.path.is_empty() { "The file".to_owned() } else { format!("`{}`", table.path) };
        let _ = write!(out, "\n## {title}\n\n{}\n\n| key | value | meaning |\n|---|---|---|\n", table.doc);
        for key in &table.keys {
            let required = if key.required { " **required**" } else { "" };
            let _ = writeln!(out, "| `{}` | {}{required} | {} |", key.name, cell(&key.value), cell(&key.doc));
        }
    }
    out
}

const HEAD: &str = "# Configuration

Every key of the configuration file, as `mesh config keys --markdown` prints it. `mesh config schema` prints the JSON schema, and `mesh check FILE` says of
every mistake where it is. A file may be YAML, JSON or TOML. Where a value is a text *or* a table, the text is short for the table with its first key.
";

struct Walk<'a> {
    root: &'a Value,
    /// Definitions that were told already: a heartbeat may hold heartbeats.
    seen: BTreeSet<&'a str>,
    tables: Vec<Table>,
}

impl<'a> Walk<'a> {
    fn table(&mut self, path: String, object: &'a Value) {
        let Some(properties) = object.get("properties").and_then(Value::as_object) else { return };
        let required: BTreeSet<&str> = array(object, "required").filter_map(Value::as_str).collect();
        let key = |(name, value): (&'a String, &'a Value)| Key {
            name: name.clone(),
            value: self.words(value),
            required: required.contains(name.as_str()),
            doc: self.doc(value),
        };
        let keys = properties.iter().map(key).collect();
        self.tables.push(Table { path: path.clone(), doc: line(object), keys });
        self.below(&path, properties);
    }

    fn below(&mut self, path: &str, properties: &'a Map<String, Value>) {
        for (name, value) in properties {
            let (path, value) = match self.items(value) {
                Some(items) => (format!("{}[]", joined(path, name)), items),
                None => (joined(path, name), value),
            };
            for option in self.options(value) {
                let new = reference(option).is_none_or(|name| self.seen.insert(name));
                if new {
                    self.table(path.clone(), self.follow(option));
                }
            }
        }
    }

    /// What a key says, else what its type says.
    fn doc(&self, value: &'a Value) -> String {
        let own = line(value);
        if own.is_empty() { line(self.follow(value)) } else { own }
    }

    fn words(&self, value: &'a Value) -> String {
        let mut words: Vec<String> = self.options(value).into_iter().flat_map(|option| self.word(option)).collect();
        words.dedup();
        words.join(" or ")
    }

    /// Words for one option; none for `null`, which stands for a key that is left out.
    fn word(&self, option: &'a Value) -> Vec<String> {
        let option = self.follow(option);
        let consts = array(option, "oneOf").filter_map(|o| o.get("const")).chain(array(option, "enum")).chain(option.get("const"));
        let consts: Vec<&str> = consts.filter_map(Value::as_str).collect();
        let of_one_of = array(option, "oneOf").flat_map(|o| array(o, "enum")).filter_map(Value::as_str);
        let consts: Vec<String> = of_one_of.chain(consts).map(|word| format!("`{word}`")).collect();
        if !consts.is_empty() {
            return vec![consts.join(", ")];
        }
        types(option).into_iter().filter_map(|kind| self.kind(option, kind)).collect()
    }

    fn kind(&self, option: &'a Value, kind: &str) -> Option<String> {
        Some(match kind {
            "null" => return None,
            "string" if option.get("title").is_some_and(|title| title == "duration") => "duration".into(),
            "string" => "text".into(),
            "integer" | "number" => "number".into(),
            "boolean" => "true or false".into(),
            "array" => format!("list of {}", option.get("items").map_or_else(String::new, |items| self.words(items))),
            "object" if option.get("properties").is_some() => "table".into(),
            "object" => "table of texts".into(),
            other => other.into(),
        })
    }

    /// The items' schema, where the value is a list or may be left out.
    fn items(&self, value: &'a Value) -> Option<&'a Value> {
        self.options(value).into_iter().find_map(|option| self.follow(option).get("items"))
    }

    fn options(&self, value: &'a Value) -> Vec<&'a Value> {
        match value.get("anyOf").and_then(Value::as_array) {
            Some(options) => options.iter().flat_map(|o| self.options(o)).collect(),
            None => vec![value],
        }
    }

    fn follow(&self, value: &'a Value) -> &'a Value {
        let target = value.get("$ref").and_then(Value::as_str).and_then(|r| self.root.pointer(r.strip_prefix('#')?));
        target.unwrap_or(value)
    }
}

fn reference(value: &Value) -> Option<&str> {
    value.get("$ref")?.as_str()
}

fn types(option: &Value) -> Vec<&str> {
    match option.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// The description, in one line.
fn line(value: &Value) -> String {
    let text = value.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::schema;

    fn all() -> Vec<Table> {
        tables(&schema())
    }

    #[test]
    fn no_key_lacks_its_line() {
        for table in all() {
            assert!(!table.doc.is_empty(), "the table `{}` needs a doc comment on its type", table.path);
            for key in &table.keys {
                let name = joined(&table.path, &key.name);
                assert!(key.doc.len() >= 4, "`{name}` needs a doc comment on its field");
                assert!(!key.value.is_empty(), "nobody can tell what may be written for `{name}`");
            }
        }
    }

    #[test]
    fn the_document_is_in_step() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let wanted = markdown(&all());
        let first = wanted.lines().zip(written.lines().chain(std::iter::repeat(""))).find(|(a, b)| a != b);
        assert!(wanted == written, "docs/configuration.md is out of step: run `cargo xtask generate`; first difference: {first:#?}");
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        let text = lines(&all());
        for path in ["interfaces[].hook", "services[].vip", "services[].health.interval", "services[].sources[].type", "nat.timeouts.udp"] {
            assert!(text.lines().any(|l| l.starts_with(path)), "{path} is not in\n{text}");
        }
        let of = |path: &str| text.lines().find(|l| l.starts_with(path)).unwrap_or_default().to_owned();
        assert!(of("services[].name ").ends_with("(text, required)"), "{}", of("services[].name "));
        assert!(of("services[].health.interval").ends_with("(duration)"));
        assert!(of("services[].protocol").ends_with("(`tcp`, `udp`)"), "{}", of("services[].protocol"));
        assert!(of("services[].health ").ends_with("(text or table)"), "{}", of("services[].health "));
    }
}
