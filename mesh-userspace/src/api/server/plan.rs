use axum::{Router, body::Bytes, extract::State, routing::post};

use super::{
    App,
    answer::{Answer, body},
    routes::target,
};
use crate::{
    api::paths,
    control::{ControlError, ExplainView, Intention, PlanView},
    model::BackendId,
};

pub(super) fn routes() -> Router<App> {
    Router::new().route(paths::PLAN, post(plan)).route(paths::EXPLAIN, post(explain))
}

async fn plan(State(app): State<App>, bytes: Bytes) -> Answer<PlanView> {
    let answer = async {
        let intention = named(&app, body(&bytes)?).await?;
        app.handle.plan(intention).await
    };
    Answer(answer.await)
}

async fn explain(State(app): State<App>, bytes: Bytes) -> Answer<ExplainView> {
    let answer = async { app.handle.explain(body(&bytes)?).await };
    Answer(answer.await)
}

/// With the backend that is meant.
async fn named(app: &App, intention: Intention<String>) -> Result<Intention<BackendId>, ControlError> {
    Ok(match intention {
        Intention::Add { service, backend } => Intention::Add { service, backend },
        Intention::Apply { file, text } => Intention::Apply { file, text },
        Intention::Rm { service, backend } => {
            let (service, backend) = target(app, (service.into(), backend)).await?;
            Intention::Rm { service, backend }
        }
        Intention::Drain { service, backend } => {
            let (service, backend) = target(app, (service.into(), backend)).await?;
            Intention::Drain { service, backend }
        }
        Intention::Undrain { service, backend } => {
            let (service, backend) = target(app, (service.into(), backend)).await?;
            Intention::Undrain { service, backend }
        }
        Intention::Weight { service, backend, weight } => {
            let (service, backend) = target(app, (service.into(), backend)).await?;
            Intention::Weight { service, backend, weight }
        }
    })
}
