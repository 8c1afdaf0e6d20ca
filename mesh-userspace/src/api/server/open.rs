//! The port that anyone may ask: a bounded number of connections, each of which has to say what it wants soon.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::stopped;

/// What strangers may take of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Connections at once; one more is closed unanswered. A scraper, the node's probes and a person or two need a handful.
    pub connections: usize,
    /// From the connection, or the last answer, to the end of a request's headers.
    pub headers: Duration,
    /// A connection as a whole: a scrape of the largest node takes a second, and a reader that takes nothing is cut off.
    pub connection: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 64, headers: Duration::from_secs(5), connection: Duration::from_secs(300) }
    }
}

/// When a connection can't be taken for want of descriptors or memory, the next try waits, so that the loop doesn't spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stopping`; requests under way are then answered.
pub(super) async fn serve(listener: TcpListener, router: Router, bounds: Bounds, stopping: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        // Cancel safe: a connection that was not taken waits in the listener, one that has ended is only forgotten.
        let stream = tokio::select! {
            () = stopped(stopping.clone()) => break,
            taken = listener.accept() => match taken {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::warn!("a connection to the port of metrics could not be taken: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            log::debug!("{} connections to the port of metrics are enough: one was closed", bounds.connections);
            continue;
        };
        let (router, stopping) = (router.clone(), stopping.clone());
        connections.spawn(async move {
            if !matches!(timeout(bounds.connection, converse(stream, router, bounds, stopping)).await, Ok(Ok(()))) {
                log::debug!("a connection to the port of metrics was cut off");
            }
            drop(place);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn converse(stream: TcpStream, router: Router, bounds: Bounds, stopping: watch::Receiver<bool>) -> io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.headers);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    // Cancel safe: the connection goes on where it was.
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = stopped(stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    done.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    struct Served {
        address: std::net::SocketAddr,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    async fn served(bounds: Bounds) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(serve(listener, Router::new().route("/", get(async || "here\n")), bounds, stopping));
        Served { address, stop, task }
    }

    async fn ask(served: &Served) -> String {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let mut answer = String::new();
        let _ = timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("an answer or an end");
        answer
    }

    /// Waits until the other side has closed.
    async fn closed(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the connection stays open");
    }

    #[tokio::test]
    async fn who_says_nothing_or_half_a_request_is_cut_off() {
        let served = served(Bounds { headers: Duration::from_millis(50), ..Bounds::default() }).await;
        for half in ["", "GET / HTTP/1.1\r\nhost:"] {
            let mut slow = TcpStream::connect(served.address).await.unwrap();
            slow.write_all(half.as_bytes()).await.unwrap();
            closed(&mut slow).await;
        }
        assert!(ask(&served).await.ends_with("here\n"));
    }

    #[tokio::test]
    async fn a_crowd_is_not_served_and_a_place_that_is_free_again_is_taken() {
        let served = served(Bounds { connections: 2, ..Bounds::default() }).await;
        let mut crowd = Vec::new();
        for _ in 0..2 {
            crowd.push(TcpStream::connect(served.address).await.unwrap());
        }
        // The two may not have been taken yet: then they are the ones that the next goes before.
        let until = Instant::now() + LIMIT;
        while ask(&served).await.ends_with("here\n") {
            assert!(Instant::now() < until, "a third is always served");
        }
        drop(crowd);
        while !ask(&served).await.ends_with("here\n") {
            assert!(Instant::now() < until, "nobody is served any more");
        }
    }

    #[tokio::test]
    async fn stopping_does_not_wait_for_who_is_idle() {
        let served = served(Bounds::default()).await;
        let mut idle = TcpStream::connect(served.address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut begin = [0; 8];
        idle.read_exact(&mut begin).await.unwrap();
        served.stop.send_replace(true);
        timeout(Duration::from_secs(3), served.task).await.expect("it waits").unwrap();
    }
}
