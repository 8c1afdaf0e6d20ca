//! Heartbeats of backends on other hosts: one route over TCP, for who has the token.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::put,
};
use tokio::{net::TcpListener, sync::watch};

use super::{App, routes, stopped};
use crate::api::paths;

pub(super) async fn serve(listener: Option<(TcpListener, String)>, app: App, stopping: watch::Receiver<bool>) {
    let Some((listener, token)) = listener else { return };
    let expected: std::sync::Arc<str> = format!("Bearer {token}").into();
    let guarded = Router::new()
        .route(paths::HEARTBEAT, put(routes::beat).delete(routes::leave))
        .with_state(app)
        .layer(middleware::from_fn_with_state(expected, admit));
    if let Err(e) = axum::serve(listener, guarded).with_graceful_shutdown(stopped(stopping)).await {
        log::error!("heartbeats over TCP ended: {e}");
    }
}

async fn admit(State(expected): State<std::sync::Arc<str>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).map(|v| v.as_bytes()).unwrap_or_default();
    if is_same(given, expected.as_bytes()) {
        return next.run(request).await;
    }
    let message = "heartbeats need the token of `api.heartbeat.token_file` as `Authorization: Bearer TOKEN`";
    (StatusCode::UNAUTHORIZED, Json(serde_json::json!({ "error": "forbidden", "message": message }))).into_response()
}

/// Takes as long for a wrong token as for the right one, so that none can be guessed piece by piece.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let differing = given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == expected.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn only_the_same_is_the_same() {
        assert!(is_same(b"Bearer abc", b"Bearer abc"));
        for other in [&b""[..], b"Bearer ab", b"Bearer abcd", b"Bearer abd", b"bearer abc"] {
            assert!(!is_same(other, b"Bearer abc"));
        }
    }
}
