//! etcd, and a client of its JSON gateway.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{Ground, web::post};
use crate::daemon::Process;

pub const SERVER: &str = "127.0.0.1:2379";
/// What the keys of backends begin with.
pub const PREFIX: &str = "/services/web/";

pub fn start(ground: &Ground) -> Result<Process> {
    let url = format!("http://{SERVER}");
    let mut command = ground.ns.command("etcd");
    command
        .args(["--name", "one", "--listen-client-urls", &url, "--advertise-client-urls", &url])
        .arg("--data-dir")
        .arg(ground.path("data"));
    command.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380"]);
    command.args(["--initial-cluster", "one=http://127.0.0.1:2380", "--log-level", "warn"]);
    let process = ground.start("etcd", &mut command)?;
    let end = Instant::now() + Duration::from_secs(30);
    while let Err(error) = ground.ns.enter(|| post(SERVER, "/v3/kv/range", &json!({"key": BASE64.encode(b"x")}).to_string()))? {
        ensure!(Instant::now() < end, "etcd does not answer: {error:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(process)
}

pub fn call(path: &str, body: &Value) -> Result<Value> {
    post(SERVER, path, &body.to_string())
}

pub fn pair(name: &str, value: &str) -> Value {
    json!({"key": BASE64.encode(format!("{PREFIX}{name}").as_bytes()), "value": BASE64.encode(value.as_bytes())})
}

pub fn put(name: &str, value: &str) -> Result<()> {
    call("/v3/kv/put", &pair(name, value)).map(drop)
}

pub fn delete(name: &str) -> Result<()> {
    call("/v3/kv/deleterange", &json!({"key": pair(name, "")["key"]})).map(drop)
}
