//! A server over a real socket, and behind it a loop that keeps the sample's services and backends in memory and takes the real commands.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
};

use super::sample;
use crate::{
    api::{Client, Endpoints, Server},
    control::{
        Command, ControlError, DrainView, Handle,
        view::{Admin, BackendView, ServiceView, Snapshot, StateWord},
    },
    events::{Event, What},
    model::{BackendId, ServiceName},
};

pub(crate) struct Seam {
    directory: TempDir,
    pub node: std::net::SocketAddr,
    live: broadcast::Sender<Event>,
    server: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Seam {
    pub async fn start() -> Self {
        Self::start_for(None).await
    }

    /// With this group admitted.
    pub async fn start_for(group: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (handle, inbox, live) = Handle::channel();
        tokio::spawn(take_commands(inbox));
        let endpoints = Endpoints {
            socket: directory.path().join("mesh.sock"),
            group: group.map(str::to_owned),
            metrics: Some(([127, 0, 0, 1], 0).into()),
            heartbeat: None,
        };
        let server = Server::bind(&endpoints).await.unwrap();
        let node = server.metrics_address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server.run(handle, async {
            let _ = stopped.await;
        }));
        Self { directory, node, live, server, stop: Some(stop) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("mesh.sock")
    }

    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// Something happens now.
    pub fn happen(&self, seq: u64) {
        let _ = self.live.send(event(seq));
    }

    /// Stops the server and waits for its end.
    pub async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.server).await.unwrap();
    }
}

/// Events that the loop keeps: numbers 1 to this.
pub(crate) const KEPT: u64 = 3;

pub(crate) fn event(seq: u64) -> Event {
    let what = What::WeightChanged { service: "web".parse().unwrap(), backend: sample::id(1), weight: 7 };
    Event { seq, time_ms: 1_767_225_599_001, what }
}

async fn take_commands(mut inbox: mpsc::Receiver<Command>) {
    let mut node = Node(sample::snapshot());
    let mut reloads = 0;
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Status(answer) => reply(answer, Ok(node.0.status.clone())),
            Command::Ready(answer) => reply(answer, Ok(node.0.status.readiness.clone())),
            Command::Snapshot(answer) => reply(answer, Ok(node.0.clone())),
            Command::Services(answer) => reply(answer, Ok(node.0.services.clone())),
            Command::Service(name, answer) => reply(answer, node.service(&name)),
            Command::AddService(spec, answer) => reply(answer, node.add_service(spec.name.value.parse().unwrap())),
            Command::RemoveService(name, answer) => reply(answer, node.remove_service(&name)),
            Command::Backends(name, answer) => reply(answer, node.backends(name)),
            Command::AddBackend(name, spec, answer) => {
                let weight = spec.weight.map_or(1, |w| w.value as u16);
                reply(answer, node.add_backend(name, &spec.address.value, weight, spec.name));
            }
            Command::RemoveBackend(name, id, answer) => reply(answer, node.remove_backend(&name, id)),
            Command::SetAdmin(name, id, admin, answer) => reply(answer, node.change(&name, id, |b| set_admin(b, admin))),
            Command::SetWeight(name, id, weight, answer) => reply(answer, node.change(&name, id, |b| b.weight = weight)),
            Command::Beat(name, id, _, answer) => reply(answer, node.change(&name, id, |b| b.state = StateWord::Active)),
            Command::Leave(name, id, answer) => reply(answer, node.remove_backend(&name, id)),
            Command::Sources(answer) => reply(answer, Ok(node.0.sources.clone())),
            Command::Events(since, answer) => {
                reply(answer, Ok((since + 1..=KEPT).map(event).collect()));
            }
            Command::Drain(name, id, _, answer) => reply(answer, node.change(&name, id, |b| set_admin(b, Admin::Drain))),
            Command::Drains(answer) => reply(answer, Ok(node.drains())),
            Command::Moving(answer) => reply(answer, Ok(sample::moving())),
            Command::Plan(intention, answer) => reply(answer, Ok(sample::plan(&intention))),
            Command::Explain(packet, answer) => reply(answer, Ok(sample::explained(*packet))),
            // The configuration is mended after the first try.
            Command::Reload(answer) => {
                reloads += 1;
                let first = ControlError::Invalid("mesh.yaml:1:1: no such key".into());
                reply(answer, if reloads == 1 { Err(first) } else { Ok(()) });
            }
        }
    }
}

fn reply<T>(answer: oneshot::Sender<Result<T, ControlError>>, result: Result<T, ControlError>) {
    let _ = answer.send(result);
}

fn set_admin(backend: &mut BackendView, admin: Admin) {
    backend.admin = admin;
    backend.state = if admin == Admin::Drain { StateWord::Draining } else { StateWord::Active };
}

struct Node(Snapshot);

impl Node {
    fn service(&self, name: &ServiceName) -> Result<ServiceView, ControlError> {
        let missing = || ControlError::NotFound(format!("no service `{name}`"));
        self.0.services.iter().find(|s| s.name == *name).cloned().ok_or_else(missing)
    }

    fn add_service(&mut self, name: ServiceName) -> Result<ServiceView, ControlError> {
        if self.service(&name).is_ok() {
            return Err(ControlError::Conflict(format!("there is a service `{name}` already")));
        }
        self.0.services.push(sample::service(name.as_str()));
        self.service(&name)
    }

    fn remove_service(&mut self, name: &ServiceName) -> Result<(), ControlError> {
        self.service(name)?;
        self.0.services.retain(|s| s.name != *name);
        Ok(())
    }

    fn backends(&self, name: Option<ServiceName>) -> Result<Vec<BackendView>, ControlError> {
        if let Some(name) = &name {
            self.service(name)?;
        }
        Ok(self.0.backends.iter().filter(|b| name.as_ref().is_none_or(|n| b.service == *n)).cloned().collect())
    }

    fn add_backend(&mut self, service: ServiceName, address: &str, weight: u16, name: Option<String>) -> Result<BackendView, ControlError> {
        self.service(&service)?;
        let id = BackendId(address.parse().map_err(|_| ControlError::Invalid(format!("`{address}` is no address")))?);
        if self.0.backends.iter().any(|b| b.service == service && b.id == id) {
            return Err(ControlError::Conflict(format!("{service} has a backend {id} already")));
        }
        let view = BackendView { id, name, weight, ..sample::backend(service.as_str(), 1, None) };
        self.0.backends.push(view.clone());
        Ok(view)
    }

    fn remove_backend(&mut self, service: &ServiceName, id: BackendId) -> Result<(), ControlError> {
        self.change(service, id, |_| ())?;
        self.0.backends.retain(|b| b.service != *service || b.id != id);
        Ok(())
    }

    /// Every drain is over as soon as it began.
    fn drains(&self) -> Vec<DrainView> {
        self.0.backends.iter().filter(|b| b.admin == Admin::Drain).map(sample::drained).collect()
    }

    fn change(&mut self, service: &ServiceName, id: BackendId, change: impl FnOnce(&mut BackendView)) -> Result<BackendView, ControlError> {
        let found = self.0.backends.iter_mut().find(|b| b.service == *service && b.id == id);
        let backend = found.ok_or_else(|| ControlError::NotFound(format!("{service} has no backend {id}")))?;
        change(backend);
        Ok(backend.clone())
    }
}
