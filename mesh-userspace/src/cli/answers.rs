//! Every command's answer as data keeps to its documented schema, in `schema/`. A command that has none fails here.

use clap::CommandFactory;
use serde_json::Value;

use super::{Cli, schema, tests::run};
use crate::api::tests::seam::Seam;

/// What is answered.
#[derive(Clone, Copy)]
enum Answer {
    /// One value of this schema.
    One(&'static str),
    /// A list of them.
    Each(&'static str),
    /// Several values one after the other.
    Stream(&'static str),
    /// The same, where the schema is that of a list.
    StreamOf(&'static str),
}
use Answer::{Each, One, Stream, StreamOf};

/// Commands in an order in which they can be given, and what they answer. `FILE` is a configuration.
const ANSWERS: [(&str, Answer); 30] = [
    ("status", One("status")),
    ("service ls", Each("service")),
    ("service show web", One("service")),
    ("service add new --vip 192.0.2.10:80 --hash source", One("service")),
    ("service rm new", One("done")),
    ("backend ls", Each("backend")),
    ("backend ls web", Each("backend")),
    ("backend show shop/api b1", One("backend")),
    ("backend add web 10.0.0.3:80 --weight 2", One("backend")),
    ("backend rm web 10.0.0.3:80", One("done")),
    ("backend weight web b1 7", One("backend")),
    ("backend drain web b1 10.0.0.2:8080", Stream("backend")),
    ("backend drain web b1 10.0.0.2:8080 --wait", StreamOf("drain")),
    ("backend drains", One("drain")),
    ("backend undrain web b1", One("backend")),
    ("backend heartbeat web b1 --load 0.5", One("backend")),
    ("backend heartbeat web b1 --leave", One("done")),
    ("source ls", Each("source")),
    ("ledger ls", One("ledger-ls")),
    ("ledger stats", One("ledger-stats")),
    ("events", Each("event")),
    ("reload", One("done")),
    ("plan add web 10.0.0.9:80", One("plan")),
    ("plan rm web 10.0.0.2", One("plan")),
    ("plan drain web 10.0.0.2", One("plan")),
    ("plan undrain web 10.0.0.2", One("plan")),
    ("plan weight web 10.0.0.2 3", One("plan")),
    ("plan apply FILE", One("plan")),
    ("explain 198.51.100.7:40000 192.0.2.10:80", One("explain")),
    ("explain [2001:db8::7]:5353 [2001:db8::1]:53/udp", One("explain")),
];

/// Commands that answer no question: they run, or print a document of a form of its own, whatever `-o` says.
const DOCUMENTS: [&str; 8] = ["run", "check", "detach", "agent", "config keys", "config schema", "completions", "man"];

/// Commands that have none below them, as in `backend ls`.
fn commands(command: &clap::Command, path: &str, all: &mut Vec<String>) {
    for below in command.get_subcommands() {
        let path = format!("{path}{}", below.get_name());
        match below.has_subcommands() {
            true => commands(below, &format!("{path} "), all),
            false => all.push(path),
        }
    }
}

#[test]
fn every_command_has_a_schema_or_no_data() {
    let mut all = Vec::new();
    commands(&Cli::command(), "", &mut all);
    assert!(all.len() > 25, "{all:?}");
    let is = |line: &str, command: &str| line.strip_prefix(command).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    for command in &all {
        let known = DOCUMENTS.contains(&command.as_str()) || ANSWERS.iter().any(|(line, _)| is(line, command));
        assert!(known, "`mesh {command}` has no row here: add its schema");
    }
    let stale = DOCUMENTS.iter().chain(ANSWERS.iter().map(|(line, _)| line)).find(|line| !all.iter().any(|command| is(line, command)));
    assert_eq!(stale, None, "there is no such command");
}

#[tokio::test]
async fn every_answer_keeps_to_its_schema() {
    let seam = Seam::start().await;
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    // The first one fails.
    assert!(run(&seam, "reload").await.is_err());
    for (line, answer) in ANSWERS {
        let line = line.replace("FILE", &file.path().display().to_string());
        let said = run(&seam, &format!("{line} -o json")).await.unwrap_or_else(|e| panic!("{line}: {e}"));
        let values: Vec<Value> = serde_json::Deserializer::from_str(&said).into_iter().map(|v| v.unwrap()).collect();
        assert!(!values.is_empty(), "{line}");
        assert!(values.len() == 1 || matches!(answer, Stream(_) | StreamOf(_)), "{line}: {said}");
        for value in &values {
            match answer {
                One(name) | Stream(name) => schema::check(name, value),
                StreamOf(name) => schema::check(name, &Value::Array(vec![value.clone()])),
                Each(name) => {
                    let all = value.as_array().unwrap_or_else(|| panic!("{line}: no list"));
                    assert!(!all.is_empty(), "{line}: nothing to check");
                    all.iter().for_each(|value| schema::check(name, value));
                }
            }
        }
    }
}

#[test]
fn every_schema_is_some_commands() {
    let named = |name: &str| {
        ANSWERS.iter().any(|(_, answer)| {
            let (One(own) | Each(own) | Stream(own) | StreamOf(own)) = answer;
            *own == name
        })
    };
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/schema")).unwrap() {
        let path = file.unwrap().path();
        assert!(named(path.file_stem().unwrap().to_str().unwrap()), "no command answers by {}", path.display());
    }
}
