//! What goes back: a workspace, or an error in the one form that all errors have.

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::idempotency::IDEMPOTENCY_REPLAYED;
use crate::{Workspace, auth::Denial, runtime::Error, storage::Created};

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// By the route itself, with the message for the client.
    Route(StatusCode, String),
    /// By auth, at the edge.
    Credential(Denial),
    /// By the component or its sandbox.
    Runtime(Error),
}

const CREDENTIAL_NEEDED: &str =
    "Send exactly one valid credential: an API key in x-api-key, or an API key or token in Authorization: Bearer";
const FAILED: &str = "The server failed: try again later, and report the x-request-id if it goes on";
const TRY_LATER: &str = "The service can't answer now: try again later";
const KEY_REUSED: &str = "This Idempotency-Key was used for another request: send that request, or a new key";
const IN_FLIGHT: &str = "A request with this Idempotency-Key is in progress: send it again for the answer";

impl IntoResponse for Refusal {
    /// The one place where an outcome gets its status.
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Route(status, message) => (status, message),
            Self::Credential(Denial::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, TRY_LATER.into()),
            Self::Credential(_) => (StatusCode::UNAUTHORIZED, CREDENTIAL_NEEDED.into()),
            Self::Runtime(error) => match error {
                Error::InvalidRequest(message) => (StatusCode::BAD_REQUEST, message),
                Error::Unauthenticated(message) => (StatusCode::UNAUTHORIZED, message),
                Error::Forbidden(message) => (StatusCode::FORBIDDEN, message),
                Error::Unavailable(message) => (StatusCode::SERVICE_UNAVAILABLE, message),
                Error::Unknown(message) => (StatusCode::INTERNAL_SERVER_ERROR, message),
                Error::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, KEY_REUSED.into()),
                Error::InFlight => (StatusCode::CONFLICT, IN_FLIGHT.into()),
                Error::Claims(cause) => {
                    tracing::error!(%cause, "claims can't be looked up");
                    (StatusCode::SERVICE_UNAVAILABLE, TRY_LATER.into())
                }
                Error::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, TRY_LATER.into()),
                Error::OutOfTime(cause) => {
                    tracing::error!(%cause, "the component ran out of time");
                    (StatusCode::SERVICE_UNAVAILABLE, TRY_LATER.into())
                }
                Error::Component(cause) => {
                    tracing::error!(%cause, "the component failed");
                    (StatusCode::INTERNAL_SERVER_ERROR, FAILED.into())
                }
            },
        };
        error(status, &message)
    }
}

/// A panic of the host, answered as any failure.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    error(StatusCode::INTERNAL_SERVER_ERROR, FAILED)
}

fn error(status: StatusCode, message: &str) -> Response {
    #[derive(Serialize)]
    struct ErrorBody<'a> {
        error: u16,
        message: &'a str,
    }
    let mut response = json(status, &ErrorBody { error: status.as_u16(), message });
    match status {
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

/// 201 with the workspace, also where an earlier request created it. Without `Location`: nothing
/// answers at a workspace's address.
pub(super) fn created(created: &Created) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        workspace: Fields<'a>,
    }
    #[derive(Serialize)]
    struct Fields<'a> {
        id: uuid::Uuid,
        name: &'a str,
        account_id: uuid::Uuid,
        #[serde(rename = "isWorkspace")]
        is_workspace: bool,
    }
    let Workspace { id, name, account_id } = &created.workspace;
    let body = Body { workspace: Fields { id: *id, name, account_id: *account_id, is_workspace: true } };
    let mut response = json(StatusCode::CREATED, &body);
    if created.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
