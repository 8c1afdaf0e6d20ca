//! What a node's supervisor and its monitoring ask: is it alive, is it ready, how does it go.

use std::time::Duration;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};

use super::App;
use crate::metrics;

/// A loop that takes longer than this to answer hangs.
const ALIVE: Duration = Duration::from_secs(5);

pub(super) fn routes() -> Router<App> {
    Router::new().route("/livez", get(live)).route("/readyz", get(ready)).route("/metrics", get(scrape))
}

async fn live(State(app): State<App>) -> Response {
    match tokio::time::timeout(ALIVE, app.handle.readiness()).await {
        Ok(Ok(_)) => "alive\n".into_response(),
        Ok(Err(e)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, format!("the daemon's loop did not answer within {ALIVE:?}\n")).into_response(),
    }
}

async fn ready(State(app): State<App>) -> Response {
    match app.handle.readiness().await {
        Ok(readiness) if readiness.ready => "ready\n".into_response(),
        Ok(readiness) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", readiness.waiting.join(", "))).into_response(),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")).into_response(),
    }
}

async fn scrape(State(app): State<App>) -> Response {
    match app.handle.snapshot().await {
        Ok(snapshot) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&snapshot)).into_response(),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")).into_response(),
    }
}
