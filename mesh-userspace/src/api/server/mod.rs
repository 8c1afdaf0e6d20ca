//! The serving end: an executor that turns requests into questions to the daemon's loop.

mod answer;
mod beats;
mod follow;
mod node;
mod open;
mod plan;
mod routes;

use std::{future::Future, net::SocketAddr, path::PathBuf, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    middleware::{self, Next},
    response::Response,
};
use nix::unistd::geteuid;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};

use super::{
    BindError,
    peer::{Access, Peer},
    socket::{SocketFile, group_id},
};
use crate::{config::HeartbeatListener, control::Handle};

/// Where the daemon is to be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// The admin API.
    pub socket: PathBuf,
    /// Group whose members may use it, by name or number.
    pub group: Option<String>,
    /// `/livez`, `/readyz` and `/metrics`, for anyone.
    pub metrics: Option<SocketAddr>,
    /// Heartbeats of backends on other hosts, for who has the token.
    pub heartbeat: Option<HeartbeatListener>,
}

/// Listening, not yet answering.
#[derive(Debug)]
pub struct Server {
    api: UnixListener,
    file: SocketFile,
    access: Access,
    metrics: Option<TcpListener>,
    beats: Option<(TcpListener, String)>,
}

/// What every request needs.
#[derive(Clone, Debug)]
struct App {
    handle: Handle,
    /// Becomes true when the server is to stop: streams without an end then end.
    stopping: watch::Receiver<bool>,
}

/// Requests that still run when the server stops have this long to end.
const GRACE: Duration = Duration::from_secs(3);

impl Server {
    /// Takes socket and port. Runs within a tokio runtime.
    pub async fn bind(endpoints: &Endpoints) -> Result<Self, BindError> {
        let group = endpoints.group.as_deref().map(group_id).transpose()?;
        let metrics = match endpoints.metrics {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|source| BindError::Tcp { address, source })?),
            None => None,
        };
        let beats = match &endpoints.heartbeat {
            Some(HeartbeatListener { listen: address, token }) => {
                let failed = |source| BindError::Heartbeat { address: *address, source };
                Some((TcpListener::bind(*address).await.map_err(failed)?, token.clone()))
            }
            None => None,
        };
        let (listener, file) = SocketFile::bind(&endpoints.socket, group)?;
        let api = UnixListener::from_std(listener).map_err(|source| BindError::Socket { path: endpoints.socket.clone(), source })?;
        Ok(Self { api, file, access: Access { owner: geteuid(), group }, metrics, beats })
    }

    /// Where `/metrics` is served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Answers until `stop`, then takes no more and gives what still runs a moment to end.
    pub async fn run(self, handle: Handle, stop: impl Future<Output = ()>) {
        let (stopper, stopping) = watch::channel(false);
        let app = App { handle, stopping: stopping.clone() };
        let api = serve_api(self.api, self.access, app.clone(), stopping.clone());
        let beats = beats::serve(self.beats, app.clone(), stopping.clone());
        let node = serve_node(self.metrics, app, stopping);
        let both = async { tokio::join!(api, node, beats) };
        let stop_and_grace = async {
            stop.await;
            stopper.send_replace(true);
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            _ = both => {}
            () = stop_and_grace => log::warn!("requests that still ran after {GRACE:?} were cut off"),
        }
        drop(self.file);
    }
}

async fn serve_api(listener: UnixListener, access: Access, app: App, stopping: watch::Receiver<bool>) {
    let guarded =
        routes::routes().merge(plan::routes()).merge(node::routes()).with_state(app).layer(middleware::from_fn_with_state(access, admit));
    let service = guarded.into_make_service_with_connect_info::<Peer>();
    if let Err(e) = axum::serve(listener, service).with_graceful_shutdown(stopped(stopping)).await {
        log::error!("the API ended: {e}");
    }
}

async fn serve_node(listener: Option<TcpListener>, app: App, stopping: watch::Receiver<bool>) {
    let Some(listener) = listener else { return };
    let open: Router = node::routes().with_state(app);
    open::serve(listener, open, open::Bounds::default(), stopping).await;
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, and that is the end as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn admit(State(access): State<Access>, ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    if access.allows(&peer) {
        return next.run(request).await;
    }
    log::warn!("refused {} {} by {peer:?}", request.method(), request.uri());
    answer::forbidden()
}
