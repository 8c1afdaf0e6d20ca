//! A web server that answers as it is told, a gate before one, and a client for those that register.

use std::{
    io::{Read, Write},
    net::TcpStream as Client,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

/// How it answers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Manner {
    Good,
    Silent,
    Failing,
    /// A page for people.
    Page,
    Empty,
    /// The list stops in the middle, and so does the connection.
    CutOff,
    Endless,
}

/// What it has. `index` counts up with each change of `body`.
#[derive(Clone, Debug)]
pub struct Content {
    pub manner: Manner,
    pub body: String,
    pub index: u64,
    /// Questions so far, those that waited, and those answered by 304.
    pub asked: u64,
    pub waited: u64,
    /// Questions that wait now.
    pub waiting: u64,
    pub unmodified: u64,
}

#[derive(Debug)]
pub struct Web(watch::Sender<Content>);

impl Web {
    pub async fn start(address: &str, body: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let content = Content { manner: Manner::Good, body: body.to_owned(), index: 7, asked: 0, waited: 0, waiting: 0, unmodified: 0 };
        let (sender, _) = watch::channel(content);
        let shared = sender.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move { answer(stream, &shared).await });
            }
        });
        Ok(Self(sender))
    }

    pub fn set_body(&self, body: String) {
        self.0.send_modify(|c| {
            c.body = body;
            c.index += 1;
        });
    }

    pub fn set_manner(&self, manner: Manner) {
        self.0.send_modify(|c| c.manner = manner);
    }

    /// As after the server's state was restored.
    pub fn set_back(&self, body: String) {
        self.0.send_modify(|c| (c.body, c.index) = (body, 1));
    }

    pub fn content(&self) -> Content {
        self.0.borrow().clone()
    }
}

async fn answer(mut stream: TcpStream, shared: &watch::Sender<Content>) -> Result<()> {
    let head = head(&mut stream).await?;
    let query = |key: &str| {
        let line = head.lines().next()?.split(' ').nth(1)?;
        line.split_once('?')?.1.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let etag = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("if-none-match: ").map(str::to_owned));
    shared.send_modify(|c| c.asked += 1);
    let mut seen = shared.subscribe();
    let start = seen.borrow_and_update().clone();
    let index = query("index").and_then(|i| i.parse::<u64>().ok());
    if let Some(wait) = query("wait")
        .and_then(|w| w.trim_end_matches('s').parse().ok())
        .filter(|_| index == Some(start.index) && start.manner == Manner::Good)
    {
        shared.send_modify(|c| (c.waited, c.waiting) = (c.waited + 1, c.waiting + 1));
        let changed = seen.wait_for(|c| c.index != start.index || c.manner != start.manner);
        // Without a change the wait ends with what there is.
        let _ = timeout(Duration::from_secs(wait), changed).await;
        shared.send_modify(|c| c.waiting -= 1);
    }
    let now = shared.borrow().clone();
    let known = etag.as_deref() == Some(&format!("\"{}\"", now.index));
    let headers = format!("ETag: \"{0}\"\r\nX-Index: {0}\r\nX-Consul-Index: {0}\r\nConnection: close\r\n", now.index);
    let ok = |length: usize, body: &str| format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    match now.manner {
        Manner::Good if known => {
            shared.send_modify(|c| c.unmodified += 1);
            stream.write_all(format!("HTTP/1.1 304 Not Modified\r\n{headers}\r\n").as_bytes()).await?;
        }
        Manner::Good => stream.write_all(ok(now.body.len(), &now.body).as_bytes()).await?,
        Manner::Silent => tokio::time::sleep(Duration::from_secs(60)).await,
        Manner::Failing => stream.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nno leader").await?,
        Manner::Page => stream.write_all(ok(15, "<html>Hi</html>").as_bytes()).await?,
        Manner::Empty => stream.write_all(ok(0, "").as_bytes()).await?,
        Manner::CutOff => stream.write_all(ok(now.body.len() + 9, &now.body).as_bytes()).await?,
        Manner::Endless => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{headers}\r\n[").as_bytes()).await?;
            let blanks = vec![b' '; 1 << 20];
            for _ in 0..64 {
                stream.write_all(&blanks).await?;
            }
        }
    }
    Ok(())
}

async fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "no question came");
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Passes everything on from `listen` to `server`; requests whose head has `held` wait until the gate opens.
pub async fn gate(listen: &str, server: &'static str, held: &'static str, open: watch::Receiver<bool>) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let open = Arc::new(open);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut open = open.as_ref().clone();
            tokio::spawn(async move {
                let head = head(&mut stream).await?;
                if head.contains(held) {
                    open.wait_for(|open| *open).await?;
                }
                let mut onward = TcpStream::connect(server).await?;
                onward.write_all(head.as_bytes()).await?;
                copy_bidirectional(&mut stream, &mut onward).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(())
}

/// Posts JSON and returns the JSON of a good answer.
pub fn post(server: &str, path: &str, body: &str) -> Result<serde_json::Value> {
    let mut stream = Client::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "POST {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer}"))?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    // A chunked body has its lengths between the lines.
    let json = body.lines().find(|line| line.starts_with('{')).with_context(|| format!("no JSON: {answer}"))?;
    Ok(serde_json::from_str(json)?)
}
