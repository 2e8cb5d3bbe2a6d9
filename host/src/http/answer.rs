//! What goes back: a workspace, or an error in the one form that all errors have.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{self, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::idempotency::IDEMPOTENCY_REPLAYED;
use crate::{
    Workspace,
    auth::Denial,
    excerpt::excerpt,
    runtime::{Error, RETRY_AFTER},
    storage::{Created, Period},
};

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// By the route itself, with the message for the client.
    Route(StatusCode, String),
    /// By the operation: auth, the tenant's share, the component or its sandbox.
    Operation(Error),
}

const NOT_VALID: &str =
    "The credential is not valid: send an API key or a token that is known here and neither expired nor revoked";
const NO_ACCOUNT: &str = "The token is valid, but no account is linked to its subject: ask the operator to link one";
const FAILED: &str = "The server failed: try again later, and report the x-request-id if it goes on";
const TRY_LATER: &str = "The service can't answer now: try again later";
const OVER_SHARE: &str = "Too many requests: try again after the time in Retry-After";
const KEY_REUSED: &str = "This Idempotency-Key was used for another request: send that request, or a new key";
const REFUSED: &str = "The database refuses this workspace: change the name, or ask the operator which rules it has";
const MISCONFIGURED: &str = "The service is not set up correctly: report the x-request-id to its operator";
const IN_FLIGHT: &str = "A request with this Idempotency-Key is in progress: send it again for the answer";

impl IntoResponse for Refusal {
    /// The one place where an outcome gets its status.
    fn into_response(self) -> Response {
        let retry_after = match &self {
            Self::Operation(Error::OverShare { retry_after }) => *retry_after,
            _ => RETRY_AFTER,
        };
        let cause = self.cause();
        let (status, message) = match self {
            Self::Route(status, message) => (status, message),
            Self::Operation(error) => match error {
                Error::Credential(Denial::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, TRY_LATER.into()),
                Error::Credential(Denial::Misconfigured) | Error::Misconfigured => {
                    (StatusCode::INTERNAL_SERVER_ERROR, MISCONFIGURED.into())
                }
                Error::Credential(Denial::NoAccount) => (StatusCode::FORBIDDEN, NO_ACCOUNT.into()),
                Error::Credential(_) => (StatusCode::UNAUTHORIZED, NOT_VALID.into()),
                Error::InvalidRequest(message) => (StatusCode::BAD_REQUEST, message),
                Error::Unauthenticated(message) => (StatusCode::UNAUTHORIZED, message),
                Error::Forbidden(message) => (StatusCode::FORBIDDEN, message),
                Error::Unavailable(message) => (StatusCode::SERVICE_UNAVAILABLE, message),
                Error::Unknown(message) => (StatusCode::INTERNAL_SERVER_ERROR, message),
                Error::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, KEY_REUSED.into()),
                Error::QuotaReached(period) => (StatusCode::FORBIDDEN, quota_reached(period)),
                Error::Refused => (StatusCode::BAD_REQUEST, REFUSED.into()),
                Error::InFlight => (StatusCode::CONFLICT, IN_FLIGHT.into()),
                Error::Claims(cause) => {
                    tracing::error!(%cause, "claims can't be looked up");
                    (StatusCode::SERVICE_UNAVAILABLE, TRY_LATER.into())
                }
                Error::OverShare { .. } => (StatusCode::TOO_MANY_REQUESTS, OVER_SHARE.into()),
                Error::Overloaded | Error::OutOfTime(_) => (StatusCode::SERVICE_UNAVAILABLE, TRY_LATER.into()),
                Error::Component(_) => (StatusCode::INTERNAL_SERVER_ERROR, FAILED.into()),
            },
        };
        let mut response = error(status, &message, retry_after);
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            response.extensions_mut().insert(Reason(cause.unwrap_or(message)));
        }
        response
    }
}

impl Refusal {
    /// Returns what the log says of it where that is more than the client's message.
    fn cause(&self) -> Option<String> {
        match self {
            Self::Operation(Error::Credential(denial)) => Some(denial.to_string()),
            _ => None,
        }
    }
}

/// Reason of a 401 or 403, for the log, among the extensions of its response.
#[derive(Debug, Clone)]
pub(super) struct Reason(String);

impl Reason {
    /// Maximum length, in bytes: a component may have written it.
    const MAX_LENGTH: usize = 256;

    /// Returns the reason that a response has.
    pub(super) fn of(response: &Response) -> Option<Cow<'_, str>> {
        response.extensions().get::<Self>().map(|Self(text)| excerpt(text, Self::MAX_LENGTH))
    }
}

fn quota_reached(period: Period) -> String {
    match period {
        Period::Day => "The quota of workspaces per day is used up: try again after midnight UTC".into(),
        Period::Total => "The quota of workspaces is used up: ask the operator for more".into(),
    }
}

/// A panic of the host, answered as any failure.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    error(StatusCode::INTERNAL_SERVER_ERROR, FAILED, RETRY_AFTER)
}

fn error(status: StatusCode, message: &str, retry_after: Duration) -> Response {
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
        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            // Whole seconds (RFC 9110, section 10.2.3), rounded up: earlier would be too early.
            let seconds = retry_after.as_millis().div_ceil(1000).max(1);
            if let Ok(seconds) = HeaderValue::from_str(&seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
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
