//! Consul, and those who register there.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Ground;
use crate::daemon::Process;

pub const SERVER: &str = "127.0.0.1:8500";

/// Where the program is, if it could be had.
pub fn program() -> Option<String> {
    std::env::var("MESH_CONSUL").ok()
}

/// One server that keeps what it knows over a restart.
pub fn start(ground: &Ground, program: &str) -> Result<Process> {
    let mut command = ground.ns.command(program);
    command.args(["agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=n1", "-log-level=warn"]);
    command.args(["-hcl=raft_protocol = 3", "-hcl=performance { raft_multiplier = 1 }"]);
    let process = ground.start("consul", command.arg("-data-dir").arg(ground.path("data")))?;
    let end = Instant::now() + Duration::from_secs(60);
    while ground.ns.enter(|| ask("GET", "/v1/catalog/node/n1", None))?.ok().is_none_or(|answer| answer.is_null()) {
        ensure!(Instant::now() < end, "Consul does not answer");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(process)
}

/// The JSON of a good answer; null where it has none.
pub fn ask(method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let mut stream = TcpStream::connect(SERVER)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {SERVER}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer}"))?;
    ensure!(head.contains(" 200 OK"), "{method} {path}: {answer}");
    Ok(serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Registers an instance of `web` at the agent, with a check that has to be told that it passes.
pub fn register(id: &str, address: &str) -> Result<()> {
    let check = json!({"CheckID": format!("check-{id}"), "TTL": "10m", "Status": "passing"});
    let weights = json!({"Passing": 10, "Warning": 2});
    let service = json!({"ID": id, "Name": "web", "Tags": ["v1"], "Address": address, "Port": 8080, "Weights": weights, "Check": check});
    ask("PUT", "/v1/agent/service/register", Some(&service)).map(drop)
}

pub fn deregister(id: &str) -> Result<()> {
    ask("PUT", &format!("/v1/agent/service/deregister/{id}"), None).map(drop)
}

/// `verb`: `pass`, `warn` or `fail`.
pub fn check(verb: &str, id: &str) -> Result<()> {
    ask("PUT", &format!("/v1/agent/check/{verb}/check-{id}"), None).map(drop)
}

pub fn maintain(id: &str, on: bool) -> Result<()> {
    ask("PUT", &format!("/v1/agent/service/maintenance/{id}?enable={on}"), None).map(drop)
}

/// Registers so many instances of `many` in the catalog, on a node of its own, 64 at once.
pub fn register_many(count: usize) -> Result<()> {
    let node = json!({"Node": {"Verb": "set", "Node": {"Node": "n2", "Address": "10.1.0.1"}}});
    ask("PUT", "/v1/txn", Some(&json!([node])))?;
    let one = |i: usize| {
        let service =
            json!({"ID": format!("many-{i}"), "Service": "many", "Address": format!("10.1.{}.{}", i / 250, i % 250 + 1), "Port": 8080});
        json!({"Service": {"Verb": "set", "Node": "n2", "Service": service}})
    };
    let all: Vec<Value> = (0..count).map(one).collect();
    all.chunks(64).try_for_each(|some| ask("PUT", "/v1/txn", Some(&json!(some))).map(drop))
}
