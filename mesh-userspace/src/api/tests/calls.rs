use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{sample, seam::Seam};
use crate::{
    api::{BackendRef, ClientError},
    control::{BackendSpec, ControlError, ServiceSpec, view::StateWord},
    model::ServiceName,
};

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn backend(text: &str) -> BackendRef {
    text.parse().unwrap()
}

fn service_spec(name: &str) -> ServiceSpec {
    serde_json::from_value(serde_json::json!({ "name": name, "vip": "192.0.2.11:80" })).unwrap()
}

fn backend_spec(address: &str) -> BackendSpec {
    serde_json::from_value(serde_json::json!({ "address": address, "weight": 9, "name": "new" })).unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ControlError {
    match result.unwrap_err() {
        ClientError::Refused(e) => e,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn questions_bring_what_the_daemon_says() {
    let seam = Seam::start().await;
    let (client, moment) = (seam.client(), sample::snapshot());
    assert_eq!(client.status().await.unwrap(), moment.status);
    assert_eq!(client.services().await.unwrap(), moment.services);
    assert_eq!(client.service(&name("shop/api")).await.unwrap(), moment.services[1]);
    assert_eq!(client.backends(None).await.unwrap(), moment.backends);
    assert_eq!(client.backends(Some(&name("web"))).await.unwrap(), moment.backends[..2]);
    for reference in ["10.0.0.1:8080", "b1", "10.0.0.1"] {
        assert_eq!(client.backend(&name("web"), &backend(reference)).await.unwrap(), moment.backends[0], "{reference}");
    }
}

#[tokio::test]
async fn orders_change_what_they_name() {
    let seam = Seam::start().await;
    let client = seam.client();
    let web = name("shop/api");
    assert_eq!(client.add_service(&name("a/b/c"), &service_spec("a/b/c")).await.unwrap().name, name("a/b/c"));
    client.remove_service(&name("a/b/c")).await.unwrap();
    assert!(matches!(refusal(client.service(&name("a/b/c")).await), ControlError::NotFound(_)));

    let added = client.add_backend(&web, &backend_spec("[2001:db8::1]:80")).await.unwrap();
    assert_eq!((added.weight, added.name.as_deref()), (9, Some("new")));
    for reference in ["[2001:db8::1]:80", "2001:db8::1", "[2001:db8::1]", "new"] {
        let reference = backend(reference);
        assert_eq!(client.drain(&web, &reference, true).await.unwrap().state, StateWord::Draining);
        assert_eq!(client.drain(&web, &reference, false).await.unwrap().state, StateWord::Active);
        assert_eq!(client.set_weight(&web, &reference, 0).await.unwrap().weight, 0);
    }
    client.remove_backend(&web, &backend("new")).await.unwrap();
    assert_eq!(client.backends(Some(&web)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn refusals_keep_their_kind_and_their_words() {
    let seam = Seam::start().await;
    let (client, web) = (seam.client(), name("web"));
    let missing = refusal(client.service(&name("nope")).await);
    assert_eq!(missing, ControlError::NotFound("no service `nope`".into()));
    let again = refusal(client.add_backend(&web, &backend_spec("10.0.0.1:8080")).await);
    assert_eq!(again, ControlError::Conflict("web has a backend 10.0.0.1:8080 already".into()));
    assert!(matches!(refusal(client.add_backend(&web, &backend_spec("nonsense")).await), ControlError::Invalid(_)));
    assert!(matches!(refusal(client.reload().await), ControlError::Invalid(m) if m.contains("mesh.yaml:1:1")));
    let unknown = refusal(client.drain(&web, &backend("b9"), true).await);
    assert_eq!(unknown, ControlError::NotFound("no backend `b9`; there are b1, 10.0.0.2:8080".into()));
    assert!(matches!(refusal(client.drain(&web, &backend("10.9.9.9:1"), true).await), ControlError::NotFound(_)));
    assert!(matches!(refusal(client.drain(&name("nope"), &backend("b1"), true).await), ControlError::NotFound(_)));
    let mismatch = refusal(client.add_service(&name("one"), &service_spec("two")).await);
    assert_eq!(mismatch, ControlError::Invalid("the path names service `one`, the body `two`".into()));
}

#[tokio::test]
async fn a_name_that_fits_two_backends_is_refused() {
    let seam = Seam::start().await;
    let (client, web) = (seam.client(), name("web"));
    let twin: BackendSpec = serde_json::from_value(serde_json::json!({ "address": "10.0.0.1:9090", "name": "b1" })).unwrap();
    client.add_backend(&web, &twin).await.unwrap();
    for reference in ["b1", "10.0.0.1"] {
        let refused = refusal(client.drain(&web, &backend(reference), true).await);
        assert!(matches!(&refused, ControlError::Conflict(m) if m.contains("10.0.0.1:8080, 10.0.0.1:9090")), "{refused:?}");
    }
}

/// What no client of ours sends.
#[tokio::test]
async fn strange_requests_get_json_with_the_right_status() {
    let seam = Seam::start().await;
    let long = "x".repeat(64);
    #[rustfmt::skip]
    let rows: [(Method, &str, &str, StatusCode); 14] = [
        (Method::GET,    "/",                                  "",                    StatusCode::NOT_FOUND),
        (Method::GET,    "/v2/status",                         "",                    StatusCode::NOT_FOUND),
        (Method::DELETE, "/v1/status",                         "",                    StatusCode::NOT_FOUND),
        (Method::GET,    "/v1/services/a%20b",                 "",                    StatusCode::UNPROCESSABLE_ENTITY),
        (Method::GET,    "/v1/services/%2e%2e",                "",                    StatusCode::NOT_FOUND),
        (Method::GET,    &format!("/v1/services/{long}"),      "",                    StatusCode::UNPROCESSABLE_ENTITY),
        (Method::PUT,    "/v1/services/web",                   "",                    StatusCode::UNPROCESSABLE_ENTITY),
        (Method::PUT,    "/v1/services/web",                   "{\"name\": \"web\"}", StatusCode::UNPROCESSABLE_ENTITY),
        (Method::PUT,    "/v1/services/web/backends/b1/weight", "{\"weight\": 70000}", StatusCode::UNPROCESSABLE_ENTITY),
        (Method::PUT,    "/v1/services/web/backends/b1/weight", "{\"weight\": -1}",    StatusCode::UNPROCESSABLE_ENTITY),
        (Method::PUT,    "/v1/services/web/backends/b1/weight", "[[[[[[",              StatusCode::UNPROCESSABLE_ENTITY),
        (Method::GET,    "/v1/events?since=x",                 "",                    StatusCode::UNPROCESSABLE_ENTITY),
        (Method::GET,    "/v1/events?until=1",                 "",                    StatusCode::UNPROCESSABLE_ENTITY),
        (Method::GET,    "/v1/events?follow=maybe",            "",                    StatusCode::UNPROCESSABLE_ENTITY),
    ];
    for (method, path, body, expected) in rows {
        let (status, answer) = raw(&seam, method.clone(), path, body.to_owned()).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        let answer: ControlError = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{method} {path}: {e}: {answer}"));
        assert!(!answer.to_string().is_empty());
    }
    let (status, _) = raw(&seam, Method::PUT, "/v1/services/web", "x".repeat(5 << 20)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, answer) = raw(&seam, Method::PUT, "/v1/services/web/backends/10.0.0.7%3A80", String::new()).await;
    assert_eq!(status, StatusCode::OK, "a backend needs no body: {answer}");
}

async fn raw(seam: &Seam, method: Method, path: &str, body: String) -> (StatusCode, String) {
    let stream = UnixStream::connect(seam.socket()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(HOST, "x").header(CONTENT_TYPE, "text/html");
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}
