use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::control::ControlError;

/// An answer, or the reason why there is none, as JSON with its status.
pub(super) struct Answer<T>(pub Result<T, ControlError>);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(value) => Json(value).into_response(),
            Err(e) => error(&e),
        }
    }
}

pub(super) fn error(error: &ControlError) -> Response {
    (status(error), Json(error)).into_response()
}

pub(super) fn forbidden() -> Response {
    let message = "the API is for root, for the daemon's own user and for members of the group that `api.group` names";
    (StatusCode::FORBIDDEN, Json(serde_json::json!({ "error": "forbidden", "message": message }))).into_response()
}

fn status(error: &ControlError) -> StatusCode {
    match error {
        ControlError::NotFound(_) => StatusCode::NOT_FOUND,
        ControlError::Conflict(_) => StatusCode::CONFLICT,
        ControlError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ControlError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A request's body, or what is wrong with it.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(bytes).map_err(|e| ControlError::Invalid(format!("the request's body does not fit: {e}")))
}
