//! The asking end: one connection per request, for a CLI asks once.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{BackendRef, WeightBody, paths};
use crate::{
    control::{
        BackendSpec, ControlError, DrainSpec, DrainView, ExplainView, Intention, PacketSpec, PlanView, ServiceSpec,
        view::{BackendView, Beat, LedgerView, MovingView, ServiceView, SourceView, Status},
    },
    events::Event,
    model::ServiceName,
};

/// A way to the daemon that listens at a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers at {}: {source}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("the daemon at {} does not answer within {after:?}", socket.display())]
    Silent { socket: PathBuf, after: Duration },
    #[error("not allowed to use {}: {reason}", socket.display())]
    Forbidden { socket: PathBuf, reason: String },
    #[error(transparent)]
    Refused(#[from] ControlError),
    #[error("the daemon at {} gave no proper answer: {what}", socket.display())]
    Garbled { socket: PathBuf, what: String },
}

/// A daemon that loads its program answers when that is done, and that takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), patience: PATIENCE }
    }

    /// Waits this long for the beginning of each answer.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn status(&self) -> Result<Status> {
        self.get(paths::STATUS).await
    }

    pub async fn services(&self) -> Result<Vec<ServiceView>> {
        self.get(paths::SERVICES).await
    }

    pub async fn service(&self, name: &ServiceName) -> Result<ServiceView> {
        self.get(&paths::service(name)).await
    }

    pub async fn add_service(&self, name: &ServiceName, spec: &ServiceSpec) -> Result<ServiceView> {
        self.call(Method::PUT, &paths::service(name), Some(spec)).await
    }

    pub async fn remove_service(&self, name: &ServiceName) -> Result<()> {
        self.call(Method::DELETE, &paths::service(name), NOTHING).await
    }

    /// The backends of one service, or of all.
    pub async fn backends(&self, service: Option<&ServiceName>) -> Result<Vec<BackendView>> {
        match service {
            Some(name) => self.get(&paths::backends(name)).await,
            None => self.get(paths::BACKENDS).await,
        }
    }

    pub async fn backend(&self, service: &ServiceName, backend: &BackendRef) -> Result<BackendView> {
        self.get(&paths::backend(service, &backend.to_string())).await
    }

    pub async fn add_backend(&self, service: &ServiceName, spec: &BackendSpec) -> Result<BackendView> {
        self.call(Method::POST, &paths::backends(service), Some(spec)).await
    }

    pub async fn remove_backend(&self, service: &ServiceName, backend: &BackendRef) -> Result<()> {
        self.call(Method::DELETE, &paths::backend(service, &backend.to_string()), NOTHING).await
    }

    /// New flows go elsewhere (`on`), or come back.
    pub async fn drain(&self, service: &ServiceName, backend: &BackendRef, on: bool) -> Result<BackendView> {
        let path = format!("{}/drain", paths::backend(service, &backend.to_string()));
        self.call(if on { Method::PUT } else { Method::DELETE }, &path, NOTHING).await
    }

    /// New flows go elsewhere, and old ones stay until `spec` says otherwise.
    pub async fn drain_as(&self, service: &ServiceName, backend: &BackendRef, spec: &DrainSpec) -> Result<BackendView> {
        let path = format!("{}/drain", paths::backend(service, &backend.to_string()));
        self.call(Method::PUT, &path, Some(spec)).await
    }

    /// How the drains go, those that ended a while ago included.
    pub async fn drains(&self) -> Result<Vec<DrainView>> {
        self.get(paths::DRAINS).await
    }

    pub async fn set_weight(&self, service: &ServiceName, backend: &BackendRef, weight: u16) -> Result<BackendView> {
        let path = format!("{}/weight", paths::backend(service, &backend.to_string()));
        self.call(Method::PUT, &path, Some(&WeightBody { weight })).await
    }

    /// Sends a backend's own heartbeat.
    pub async fn beat(&self, service: &ServiceName, backend: &BackendRef, beat: &Beat) -> Result<BackendView> {
        self.call(Method::PUT, &paths::heartbeat(service, &backend.to_string()), Some(beat)).await
    }

    /// Ends it.
    pub async fn leave(&self, service: &ServiceName, backend: &BackendRef) -> Result<()> {
        self.call(Method::DELETE, &paths::heartbeat(service, &backend.to_string()), NOTHING).await
    }

    /// The sources of all services.
    pub async fn sources(&self) -> Result<Vec<SourceView>> {
        self.get(paths::SOURCES).await
    }

    /// Events after number `since`, oldest first.
    pub async fn events(&self, since: u64) -> Result<Vec<Event>> {
        self.get(&format!("{}?since={since}", paths::EVENTS)).await
    }

    /// The same, and on as they come.
    pub async fn follow(&self, since: u64) -> Result<EventStream> {
        let response = self.send(Method::GET, &format!("{}?since={since}&follow=true", paths::EVENTS), NOTHING).await?;
        Ok(EventStream { client: self.clone(), body: response.into_body(), buffer: Vec::new() })
    }

    pub async fn reload(&self) -> Result<()> {
        self.call(Method::POST, paths::RELOAD, NOTHING).await
    }

    /// What the ledger holds and has done.
    pub async fn ledger(&self) -> Result<LedgerView> {
        self.get(paths::LEDGER).await
    }

    /// Slots on their way to another owner.
    pub async fn moving(&self) -> Result<Vec<MovingView>> {
        self.get(paths::LEDGER_SLOTS).await
    }

    /// What a change would do.
    pub async fn plan(&self, intention: &Intention<String>) -> Result<PlanView> {
        self.call(Method::POST, paths::PLAN, Some(intention)).await
    }

    /// What would become of a packet.
    pub async fn explain(&self, packet: &PacketSpec) -> Result<ExplainView> {
        self.call(Method::POST, paths::EXPLAIN, Some(packet)).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, NOTHING).await
    }

    async fn call<T: DeserializeOwned, B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Result<T> {
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await.map_err(|e| self.garbled(e))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|e| self.garbled(format!("{e}; is it of another version?")))
    }

    /// Sends a request; an answer is one of success, and comes in time.
    async fn send<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Result<Response<Incoming>> {
        let silent = |_| ClientError::Silent { socket: self.socket.clone(), after: self.patience };
        tokio::time::timeout(self.patience, self.exchange(method, path, body)).await.map_err(silent)?
    }

    async fn exchange<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.garbled(e))?;
        // Ends with the response, for then nothing holds the sender any more.
        tokio::spawn(connection);
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|e| self.garbled(e))?.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "mesh")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|e| self.garbled(e))?;
        let response = sender.send_request(request).await.map_err(|e| self.garbled(e))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    async fn refusal(&self, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        let bytes = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return self.garbled(e),
        };
        if status == StatusCode::FORBIDDEN {
            let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let reason = said["message"].as_str().unwrap_or("the daemon refuses").to_owned();
            return ClientError::Forbidden { socket: self.socket.clone(), reason };
        }
        match serde_json::from_slice::<ControlError>(&bytes) {
            Ok(e) => e.into(),
            Err(_) => self.garbled(format!("{status}: {}", String::from_utf8_lossy(&bytes).trim())),
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        if source.kind() == io::ErrorKind::PermissionDenied {
            return ClientError::Forbidden { socket, reason: source.to_string() };
        }
        ClientError::Unreachable { socket, source }
    }

    fn garbled(&self, what: impl ToString) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), what: what.to_string() }
    }
}

/// No body.
const NOTHING: Option<&()> = None;

/// Events as they come.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    body: Incoming,
    buffer: Vec<u8>,
}

impl EventStream {
    /// The next event; `None` when the daemon stops.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|e| self.client.garbled(e));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(self.client.garbled(e)),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }
}
