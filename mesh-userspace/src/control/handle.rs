//! The way in for API, CLI and metrics: questions and orders to the daemon's one loop.

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    drains::{DrainSpec, DrainView},
    error::ControlError,
    explaining::ExplainView,
    made_up::PacketSpec,
    view::{Admin, BackendView, Beat, MovingView, Readiness, ServiceView, Snapshot, SourceView, Status},
    whatif::{Intention, PlanView},
};
use crate::{
    config::written,
    events::Event,
    model::{BackendId, ServiceName},
};

/// Body of a request to add a service: a service as in the configuration file.
pub type ServiceSpec = written::Service;
/// Body of a request to add a backend: a backend as in the configuration file.
pub type BackendSpec = written::Backend;

type Answer<T> = oneshot::Sender<Result<T, ControlError>>;

/// One question or order, with the way back for its answer.
#[derive(Debug)]
pub enum Command {
    Status(Answer<Status>),
    Ready(Answer<Readiness>),
    Snapshot(Answer<Snapshot>),
    Services(Answer<Vec<ServiceView>>),
    Service(ServiceName, Answer<ServiceView>),
    AddService(Box<ServiceSpec>, Answer<ServiceView>),
    RemoveService(ServiceName, Answer<()>),
    Backends(Option<ServiceName>, Answer<Vec<BackendView>>),
    AddBackend(ServiceName, Box<BackendSpec>, Answer<BackendView>),
    RemoveBackend(ServiceName, BackendId, Answer<()>),
    SetAdmin(ServiceName, BackendId, Admin, Answer<BackendView>),
    SetWeight(ServiceName, BackendId, u16, Answer<BackendView>),
    Beat(ServiceName, BackendId, Box<Beat>, Answer<BackendView>),
    Leave(ServiceName, BackendId, Answer<()>),
    Sources(Answer<Vec<SourceView>>),
    Events(u64, Answer<Vec<Event>>),
    Reload(Answer<()>),
    Drain(ServiceName, BackendId, DrainSpec, Answer<BackendView>),
    Drains(Answer<Vec<DrainView>>),
    Moving(Answer<Vec<MovingView>>),
    Plan(Box<Intention<BackendId>>, Answer<PlanView>),
    Explain(Box<PacketSpec>, Answer<ExplainView>),
}

/// A way to the running daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Event>,
}

/// Commands that wait: callers beyond wait their turn, which slows a flood of requests instead of letting it fill the memory.
const DEPTH: usize = 32;
/// Events that a slow follower may lag behind before it loses some.
const FOLLOWERS: usize = 256;

impl Handle {
    /// A handle with the loop's ends: where commands arrive, and where events go.
    pub fn channel() -> (Self, mpsc::Receiver<Command>, broadcast::Sender<Event>) {
        let (commands, inbox) = mpsc::channel(DEPTH);
        let (events, _) = broadcast::channel(FOLLOWERS);
        (Self { commands, events: events.clone() }, inbox, events)
    }

    pub async fn status(&self) -> Result<Status, ControlError> {
        self.ask(Command::Status).await
    }

    /// For `/readyz`.
    pub async fn readiness(&self) -> Result<Readiness, ControlError> {
        self.ask(Command::Ready).await
    }

    /// For `/metrics`.
    pub async fn snapshot(&self) -> Result<Snapshot, ControlError> {
        self.ask(Command::Snapshot).await
    }

    /// All services, by name.
    pub async fn services(&self) -> Result<Vec<ServiceView>, ControlError> {
        self.ask(Command::Services).await
    }

    pub async fn service(&self, name: ServiceName) -> Result<ServiceView, ControlError> {
        self.ask(|answer| Command::Service(name, answer)).await
    }

    /// Adds a service that outlives restarts; also brings back one of the configuration file that was removed (the spec then only names it).
    pub async fn add_service(&self, spec: ServiceSpec) -> Result<ServiceView, ControlError> {
        self.ask(|answer| Command::AddService(Box::new(spec), answer)).await
    }

    /// Removes a service; one of the configuration file stays removed until it is added again.
    pub async fn remove_service(&self, name: ServiceName) -> Result<(), ControlError> {
        self.ask(|answer| Command::RemoveService(name, answer)).await
    }

    /// The backends of one service or of all, by service and id.
    pub async fn backends(&self, service: Option<ServiceName>) -> Result<Vec<BackendView>, ControlError> {
        self.ask(|answer| Command::Backends(service, answer)).await
    }

    pub async fn add_backend(&self, service: ServiceName, spec: BackendSpec) -> Result<BackendView, ControlError> {
        self.ask(|answer| Command::AddBackend(service, Box::new(spec), answer)).await
    }

    /// Removes a backend; one of a file stays removed until it is added again.
    pub async fn remove_backend(&self, service: ServiceName, id: BackendId) -> Result<(), ControlError> {
        self.ask(|answer| Command::RemoveBackend(service, id, answer)).await
    }

    /// New flows go elsewhere at once, old ones stay, until `spec` says otherwise.
    pub async fn drain(&self, service: ServiceName, id: BackendId, spec: DrainSpec) -> Result<BackendView, ControlError> {
        self.ask(|answer| Command::Drain(service, id, spec, answer)).await
    }

    /// How the drains go, those that ended a while ago included.
    pub async fn drains(&self) -> Result<Vec<DrainView>, ControlError> {
        self.ask(Command::Drains).await
    }

    /// Slots on their way to another owner.
    pub async fn moving(&self) -> Result<Vec<MovingView>, ControlError> {
        self.ask(Command::Moving).await
    }

    pub async fn undrain(&self, service: ServiceName, id: BackendId) -> Result<BackendView, ControlError> {
        self.ask(|answer| Command::SetAdmin(service, id, Admin::In, answer)).await
    }

    /// Goes before the weight of any file.
    pub async fn set_weight(&self, service: ServiceName, id: BackendId, weight: u16) -> Result<BackendView, ControlError> {
        self.ask(|answer| Command::SetWeight(service, id, weight, answer)).await
    }

    /// Takes in a backend's own heartbeat.
    pub async fn beat(&self, service: ServiceName, id: BackendId, beat: Beat) -> Result<BackendView, ControlError> {
        self.ask(|answer| Command::Beat(service, id, Box::new(beat), answer)).await
    }

    /// Ends a backend's own heartbeat.
    pub async fn leave(&self, service: ServiceName, id: BackendId) -> Result<(), ControlError> {
        self.ask(|answer| Command::Leave(service, id, answer)).await
    }

    /// The sources of all services.
    pub async fn sources(&self) -> Result<Vec<SourceView>, ControlError> {
        self.ask(Command::Sources).await
    }

    /// Events after number `seq` (0 = all that are kept), oldest first.
    pub async fn events(&self, seq: u64) -> Result<Vec<Event>, ControlError> {
        self.ask(|answer| Command::Events(seq, answer)).await
    }

    /// Events from now on.
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Reads the configuration file again, like SIGHUP; [`ControlError::Invalid`] says what is wrong with it.
    pub async fn reload(&self) -> Result<(), ControlError> {
        self.ask(Command::Reload).await
    }

    /// What a change would do; nothing is changed.
    pub async fn plan(&self, intention: Intention<BackendId>) -> Result<PlanView, ControlError> {
        self.ask(|answer| Command::Plan(Box::new(intention), answer)).await
    }

    /// What would become of a packet; it leaves no trace.
    pub async fn explain(&self, packet: PacketSpec) -> Result<ExplainView, ControlError> {
        self.ask(|answer| Command::Explain(Box::new(packet), answer)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, ControlError> {
        let stopping = || ControlError::Unavailable("the daemon is stopping".to_owned());
        let (answer, reply) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| stopping())?;
        reply.await.unwrap_or_else(|_| Err(stopping()))
    }
}
