//! One request, read from a connection.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::store::Select;

#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub select: Select,
    /// Of the object that is asked for; `None` = all.
    pub object: Option<String>,
    pub status: bool,
    query: Vec<(String, String)>,
    pub token: Option<String>,
    pub merge: bool,
    pub body: Value,
}

impl Request {
    pub fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// The next request; `None` = the connection is over. `buffer` keeps what came beyond it.
pub async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Request>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()))
    };
    let length: usize = header("content-length").map_or(Ok(0), |n| n.parse())?;
    while buffer.len() < end + length {
        ensure!(stream.read_buf(buffer).await? > 0, "a body stopped in the middle");
    }
    let body = if length == 0 { Value::Null } else { serde_json::from_slice(&buffer[end..end + length])? };
    buffer.drain(..end + length);
    let mut words = head.split(' ');
    let (method, target) = (words.next().context("no method")?.to_owned(), words.next().context("no target")?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: Vec<_> = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (decode(k), decode(v))).collect();
    let (mut select, object, status) = select(path)?;
    for (key, value) in &query {
        match key.as_str() {
            "labelSelector" => {
                select.labels = value.split(',').filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            }
            "fieldSelector" => select.name = value.strip_prefix("metadata.name=").map(str::to_owned),
            _ => {}
        }
    }
    let token = header("authorization").and_then(|a| a.strip_prefix("Bearer ").map(str::to_owned));
    let merge = header("content-type").is_some_and(|t| t.contains("merge-patch"));
    Ok(Some(Request { method, select, object, status, query, token, merge, body }))
}

/// `/api/v1/...` and `/apis/GROUP/VERSION/...`, then `[namespaces/NAMESPACE/]PLURAL[/NAME[/status]]`.
fn select(path: &str) -> Result<(Select, Option<String>, bool)> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => bail!("{path} is no path of an API server"),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => ((*namespace).to_owned(), rest),
        rest => (String::new(), rest),
    };
    let (plural, object, status) = match rest {
        [plural] => (plural, None, false),
        [plural, name] => (plural, Some((*name).to_owned()), false),
        [plural, name, "status"] => (plural, Some((*name).to_owned()), true),
        _ => bail!("{path} is no path of objects"),
    };
    Ok((Select { kind: format!("{group}/{plural}"), namespace, ..Select::default() }, object, status))
}

fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = tail.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
