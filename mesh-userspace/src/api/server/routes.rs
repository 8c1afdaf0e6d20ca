use axum::{
    Router,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{Method, Uri},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};

use super::{
    App,
    answer::{Answer, body, error},
    follow,
};
use crate::{
    api::{BackendRef, EventsQuery, WeightBody, paths},
    control::{
        BackendSpec, ControlError, DrainSpec, DrainView, ServiceSpec,
        view::{BackendView, Beat, LedgerView, MovingView, ServiceView, SourceView, Status},
    },
    model::{BackendId, ServiceName},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(paths::STATUS, get(status))
        .route(paths::SERVICES, get(services))
        .route("/v1/services/{service}", get(service).put(add_service).delete(remove_service))
        .route(paths::BACKENDS, get(all_backends))
        .route("/v1/services/{service}/backends", get(backends).post(add_backend))
        .route("/v1/services/{service}/backends/{backend}", get(backend).put(put_backend).delete(remove_backend))
        .route("/v1/services/{service}/backends/{backend}/drain", put(drain).delete(undrain))
        .route("/v1/services/{service}/backends/{backend}/weight", put(weight))
        .route(paths::HEARTBEAT, put(beat).delete(leave))
        .route(paths::SOURCES, get(sources))
        .route(paths::DRAINS, get(drains))
        .route(paths::LEDGER, get(ledger))
        .route(paths::LEDGER_SLOTS, get(moving))
        .route(paths::EVENTS, get(events))
        .route(paths::RELOAD, post(reload))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
}

async fn status(State(app): State<App>) -> Answer<Status> {
    Answer(app.handle.status().await)
}

async fn ledger(State(app): State<App>) -> Answer<LedgerView> {
    Answer(app.handle.status().await.map(|status| status.ledger))
}

async fn moving(State(app): State<App>) -> Answer<Vec<MovingView>> {
    Answer(app.handle.moving().await)
}

async fn sources(State(app): State<App>) -> Answer<Vec<SourceView>> {
    Answer(app.handle.sources().await)
}

async fn services(State(app): State<App>) -> Answer<Vec<ServiceView>> {
    Answer(app.handle.services().await)
}

async fn service(State(app): State<App>, Path(name): Path<String>) -> Answer<ServiceView> {
    let answer = async { app.handle.service(service_name(name)?).await };
    Answer(answer.await)
}

async fn add_service(State(app): State<App>, Path(name): Path<String>, bytes: Bytes) -> Answer<ServiceView> {
    let answer = async {
        let spec: ServiceSpec = body(&bytes)?;
        if spec.name.value != name {
            return Err(ControlError::Invalid(format!("the path names service `{name}`, the body `{}`", spec.name)));
        }
        app.handle.add_service(spec).await
    };
    Answer(answer.await)
}

async fn remove_service(State(app): State<App>, Path(name): Path<String>) -> Answer<()> {
    let answer = async { app.handle.remove_service(service_name(name)?).await };
    Answer(answer.await)
}

async fn all_backends(State(app): State<App>) -> Answer<Vec<BackendView>> {
    Answer(app.handle.backends(None).await)
}

async fn backends(State(app): State<App>, Path(name): Path<String>) -> Answer<Vec<BackendView>> {
    let answer = async { app.handle.backends(Some(service_name(name)?)).await };
    Answer(answer.await)
}

async fn backend(State(app): State<App>, Path((service, backend)): Path<(String, String)>) -> Answer<BackendView> {
    let answer = async {
        let all = app.handle.backends(Some(service_name(service)?)).await?;
        reference(&backend).find(&all).cloned()
    };
    Answer(answer.await)
}

async fn add_backend(State(app): State<App>, Path(service): Path<String>, bytes: Bytes) -> Answer<BackendView> {
    let answer = async { app.handle.add_backend(service_name(service)?, body(&bytes)?).await };
    Answer(answer.await)
}

/// Adds the backend that the path names; the body is as for [`add_backend`], and may be empty.
async fn put_backend(State(app): State<App>, Path((service, backend)): Path<(String, String)>, bytes: Bytes) -> Answer<BackendView> {
    let answer = async {
        let spec = BackendSpec { address: backend.clone().into(), ..BackendSpec::default() };
        let spec = if bytes.is_empty() { spec } else { body::<BackendSpec>(&bytes)? };
        if spec.address.value != backend {
            return Err(ControlError::Invalid(format!("the path names backend `{backend}`, the body `{}`", spec.address)));
        }
        app.handle.add_backend(service_name(service)?, spec).await
    };
    Answer(answer.await)
}

async fn remove_backend(State(app): State<App>, Path(path): Path<(String, String)>) -> Answer<()> {
    let answer = async {
        let (service, id) = target(&app, path).await?;
        app.handle.remove_backend(service, id).await
    };
    Answer(answer.await)
}

/// The body says how; it may be empty.
async fn drain(State(app): State<App>, Path(path): Path<(String, String)>, bytes: Bytes) -> Answer<BackendView> {
    let answer = async {
        let spec = if bytes.is_empty() { DrainSpec::default() } else { body(&bytes)? };
        let (service, id) = target(&app, path).await?;
        app.handle.drain(service, id, spec).await
    };
    Answer(answer.await)
}

async fn drains(State(app): State<App>) -> Answer<Vec<DrainView>> {
    Answer(app.handle.drains().await)
}

async fn undrain(State(app): State<App>, Path(path): Path<(String, String)>) -> Answer<BackendView> {
    let answer = async {
        let (service, id) = target(&app, path).await?;
        app.handle.undrain(service, id).await
    };
    Answer(answer.await)
}

async fn weight(State(app): State<App>, Path(path): Path<(String, String)>, bytes: Bytes) -> Answer<BackendView> {
    let answer = async {
        let WeightBody { weight } = body(&bytes)?;
        let (service, id) = target(&app, path).await?;
        app.handle.set_weight(service, id, weight).await
    };
    Answer(answer.await)
}

/// The body may be empty. Only an id names a backend here: one that registers itself has no name yet.
pub(super) async fn beat(State(app): State<App>, Path((service, backend)): Path<(String, String)>, bytes: Bytes) -> Answer<BackendView> {
    let answer = async {
        let beat = if bytes.is_empty() { Beat::default() } else { body::<Beat>(&bytes)? };
        let (service, id) = beating(&app, (service, backend)).await?;
        app.handle.beat(service, id, beat).await
    };
    Answer(answer.await)
}

pub(super) async fn leave(State(app): State<App>, Path(path): Path<(String, String)>) -> Answer<()> {
    let answer = async {
        let (service, id) = beating(&app, path).await?;
        app.handle.leave(service, id).await
    };
    Answer(answer.await)
}

/// The backend that a path means; an address without a port has the service's.
async fn beating(app: &App, (service, backend): (String, String)) -> Result<(ServiceName, BackendId), ControlError> {
    let bare = backend.strip_prefix('[').and_then(|b| b.strip_suffix(']')).unwrap_or(&backend);
    let Ok(addr) = bare.parse::<std::net::IpAddr>() else { return target(app, (service, backend)).await };
    let service = service_name(service)?;
    let port = app.handle.service(service.clone()).await?.port;
    Ok((service, BackendId((addr, port).into())))
}

async fn events(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    match events_query(query.as_deref().unwrap_or_default()) {
        Ok(EventsQuery { since, follow: true }) => follow::lines(app, since),
        Ok(EventsQuery { since, follow: false }) => Answer(app.handle.events(since).await).into_response(),
        Err(e) => error(&e),
    }
}

async fn reload(State(app): State<App>) -> Answer<()> {
    Answer(app.handle.reload().await)
}

async fn unknown(method: Method, uri: Uri) -> Response {
    error(&ControlError::NotFound(format!("the API has no {method} {}", uri.path())))
}

fn service_name(name: String) -> Result<ServiceName, ControlError> {
    name.try_into().map_err(|e| ControlError::Invalid(format!("{e}")))
}

fn reference(backend: &str) -> BackendRef {
    let Ok(reference) = backend.parse();
    reference
}

/// The backend that a path means. An id goes straight through: whether it is there is for the daemon's loop to say, at that moment.
pub(super) async fn target(app: &App, (service, backend): (String, String)) -> Result<(ServiceName, BackendId), ControlError> {
    let service = service_name(service)?;
    let reference = reference(&backend);
    if let BackendRef::Id(id) = reference {
        return Ok((service, id));
    }
    let all = app.handle.backends(Some(service.clone())).await?;
    let id = reference.find(&all)?.id;
    Ok((service, id))
}

fn events_query(query: &str) -> Result<EventsQuery, ControlError> {
    let bad = |part: &str| ControlError::Invalid(format!("`{part}` is no question about events: use `since=N` and `follow=true`"));
    let mut asked = EventsQuery::default();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("since", n)) => asked.since = n.parse().map_err(|_| bad(part))?,
            Some(("follow", yes)) => asked.follow = yes.parse().map_err(|_| bad(part))?,
            _ => return Err(bad(part)),
        }
    }
    Ok(asked)
}
