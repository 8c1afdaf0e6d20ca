//! Answers: lists in pieces, watches as they go on, status as it is written.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Manner,
    request::{Request, read},
    store::{Store, TOKEN},
};

type Shared = Arc<watch::Sender<Store>>;

/// Between the pieces of a slow line.
const PAUSE: Duration = Duration::from_millis(20);

pub async fn run(listener: std::net::TcpListener, shared: Shared) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut cut = shared.subscribe();
            let cuts = cut.borrow_and_update().cuts;
            tokio::select! {
                biased;
                // What it returns is a lock, which the end of the other branch takes.
                () = async { drop(cut.wait_for(|store| store.cuts != cuts).await) } => {}
                _ = answer_all(stream, &shared, cuts) => {}
            }
        });
    }
}

/// Until the connection ends, or there were more than so many cuts.
async fn answer_all(mut stream: TcpStream, shared: &Shared, cuts: u64) -> Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer).await? {
        let manner = shared.borrow().manner;
        match manner {
            Manner::Silent => {
                let _ = shared.subscribe().wait_for(|store| store.manner != Manner::Silent).await;
                return Ok(());
            }
            Manner::Failing => say(&mut stream, 503, &status(503, "no leader")).await?,
            Manner::Page => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>Hi</html>").await?;
            }
            _ if request.token.as_deref() != Some(TOKEN) => say(&mut stream, 401, &status(401, "Unauthorized")).await?,
            _ if !shared.borrow().knows(&request.select.kind) => {
                let text = format!("the server could not find the requested resource {}", request.select.kind);
                say(&mut stream, 404, &status(404, &text)).await?;
            }
            _ if request.method == "GET" && matches!(request.query("watch"), Some("true" | "1")) => {
                watch(&mut stream, &request, shared, cuts).await?
            }
            _ if request.method == "GET" => {
                let (code, body) = list(&request, shared);
                say(&mut stream, code, &body).await?;
            }
            _ => {
                let (code, body) = write(&request, shared);
                say(&mut stream, code, &body).await?;
            }
        }
    }
    Ok(())
}

async fn say(stream: &mut TcpStream, code: u16, body: &Value) -> Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {code} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    Ok(stream.write_all((head + &body).as_bytes()).await?)
}

fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code})
}

/// A whole list, or the piece of it that was asked for.
fn list(request: &Request, shared: &Shared) -> (u16, Value) {
    if let Some(name) = &request.object {
        let store = shared.borrow();
        let found = store.get(&request.select.kind, &request.select.namespace, name);
        return found.map_or_else(|| (404, status(404, "not found")), |object| (200, object.clone()));
    }
    shared.send_if_modified(|store| {
        store.asked.lists += 1;
        false
    });
    let store = shared.borrow();
    let all = store.list(&request.select);
    let limit = request.query("limit").and_then(|l| l.parse().ok()).unwrap_or(usize::MAX);
    let start = request.query("continue").and_then(|c| c.parse().ok()).unwrap_or(0).min(all.len());
    let items = &all[start..start.saturating_add(limit).min(all.len())];
    let end = start + items.len();
    let next = if end < all.len() { end.to_string() } else { String::new() };
    let (version, plural) = (store.version.to_string(), request.select.kind.rsplit('/').next().unwrap_or_default());
    let metadata = json!({"resourceVersion": version, "continue": next});
    (200, json!({"kind": format!("{plural}List"), "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn write(request: &Request, shared: &Shared) -> (u16, Value) {
    let Some(name) = request.object.as_ref().filter(|_| request.status && matches!(request.method.as_str(), "PUT" | "PATCH")) else {
        return (405, status(405, "only status is written"));
    };
    let mut result = Err(404);
    shared.send_modify(|store| {
        result = store.put_status(&request.select.kind, &request.select.namespace, name, &request.body, request.merge);
    });
    result.map_or_else(|code| (code, status(code, "not written")), |object| (200, object))
}

/// Tells changes from the version on that was asked for, until the time that was asked for ends it.
async fn watch(stream: &mut TcpStream, request: &Request, shared: &Shared, cuts: u64) -> Result<()> {
    let mut seen = shared.subscribe();
    let mut version: u64 = request.query("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    let bookmarks = request.query("allowWatchBookmarks") == Some("true");
    let seconds = request.query("timeoutSeconds").and_then(|t| t.parse().ok()).unwrap_or(300);
    let end = Instant::now() + Duration::from_secs(seconds);
    let gone = version < shared.borrow().oldest;
    shared.send_if_modified(|store| {
        store.asked.watches += 1;
        store.asked.gone += u64::from(gone);
        false
    });
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    if gone {
        line(stream, &json!({"type": "ERROR", "object": status(410, "too old resource version")}).to_string(), Manner::Good).await?;
        return Ok(stream.write_all(b"0\r\n\r\n").await?);
    }
    // Read first: whoever sees the watch open may ask for a bookmark at once.
    let mut marked = seen.borrow_and_update().bookmarks;
    let _open = Open::new(shared);
    loop {
        let (changes, manner, mark, now) = {
            let store = seen.borrow_and_update();
            // What happens at or after a cut is never told by what is cut.
            ensure!(store.cuts == cuts, "cut off");
            (store.since(version, &request.select), store.manner, store.bookmarks, store.version)
        };
        if manner == Manner::Garbage {
            line(stream, "{\"type\": \"ADDED\", \"object\": {]", Manner::Good).await?;
        }
        for change in changes {
            line(stream, &json!({"type": change.what, "object": change.object}).to_string(), manner).await?;
            version = change.version;
        }
        if mark != marked && bookmarks {
            let object = json!({"kind": "X", "apiVersion": "v1", "metadata": {"resourceVersion": now.to_string()}});
            line(stream, &json!({"type": "BOOKMARK", "object": object}).to_string(), manner).await?;
            version = now;
            shared.send_modify(|store| store.asked.bookmarks += 1);
        }
        marked = mark;
        tokio::select! {
            changed = seen.changed() => changed?,
            () = sleep_until(end) => return Ok(stream.write_all(b"0\r\n\r\n").await?),
        }
    }
}

/// Counts a watch among the open ones for as long as it is one.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.send_modify(|store| store.asked.open += 1);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|store| store.asked.open -= 1);
    }
}

/// One line, as a chunk or as several.
async fn line(stream: &mut TcpStream, text: &str, manner: Manner) -> Result<()> {
    let line = format!("{text}\n");
    let size = if manner == Manner::Slow { line.len().div_ceil(5) } else { line.len() };
    for piece in line.as_bytes().chunks(size) {
        let head = format!("{:x}\r\n", piece.len());
        stream.write_all(&[head.as_bytes(), piece, b"\r\n"].concat()).await?;
        if manner == Manner::Slow {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}
