use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::seam::Seam;
use crate::api::{Client, ClientError};

async fn get(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn anyone_may_ask_how_the_node_does_but_nothing_else() {
    let seam = Seam::start().await;
    let ask = async |path| get(&mut TcpStream::connect(seam.node).await.unwrap(), path).await;
    let live = ask("/livez").await;
    assert!(live.starts_with("HTTP/1.1 200 ") && live.ends_with("alive\n"), "{live}");
    let ready = ask("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("waiting for the first round of health checks\n"), "{ready}");
    let metrics = ask("/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4") && metrics.contains("\nmesh_table_epoch 7\n"), "{metrics}");
    for path in ["/v1/status", "/v1/services", "/"] {
        assert!(ask(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    let local = get(&mut UnixStream::connect(seam.socket()).await.unwrap(), "/metrics").await;
    assert!(local.contains("\nmesh_table_epoch 7\n"));
}

#[tokio::test]
async fn a_client_does_not_wait_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("mesh.sock");
    let _mute = tokio::net::UnixListener::bind(&socket).unwrap();
    let after = Duration::from_millis(50);
    let refused = Client::new(socket).with_patience(after).status().await.unwrap_err();
    assert!(matches!(refused, ClientError::Silent { after: a, .. } if a == after), "{refused:?}");
}
