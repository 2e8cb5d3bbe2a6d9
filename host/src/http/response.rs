//! Responses: a workspace, or an error in the one form that all errors have.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{self, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::limits::MAX_BODY;
use crate::{
    Workspace,
    auth::Denial,
    error::{Error, RETRY_AFTER},
    excerpt::excerpt,
    storage::{Created, IdempotencyKey, Period},
};

/// Header of an answer that an earlier request got first.
pub(super) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Reason why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The `Host` header breaks the rules.
    Host(&'static str),
    /// The path has no route.
    NotFound(String),
    /// The path does not have this method.
    Method(String),
    /// The tenant is still being loaded.
    TenantLoading,
    /// The tenant could not be loaded.
    TenantDown,
    /// No tenant could write now.
    NoneReady,
    /// There is not exactly one credential, or it is none.
    Credential(&'static str),
    /// The body says that it is not JSON.
    MediaType,
    /// The `Idempotency-Key` header holds no key.
    IdempotencyKey,
    /// The body is over [`MAX_BODY`].
    BodyTooLarge,
    /// The body ended before its length.
    BodyIncomplete,
    /// The body came too slowly.
    BodyTimeout,
    /// The body is not the JSON of a request.
    Body(String),
    /// The operation failed: auth, the tenant's share, the component or its sandbox.
    Operation(Error),
}

const LOADING: &str = "This tenant is being loaded: try again after the time in Retry-After";
const DOWN: &str = "This tenant can't be served now: try again later, or ask its operator";
const NONE_READY: &str = "No tenant can be served now: try again later";
const MEDIA_TYPE: &str = "Send the body as Content-Type: application/json, without Content-Encoding";
const BODY_INCOMPLETE: &str = "The body ended early: send all of it";
const BODY_TIMEOUT: &str = "The body came too slowly: send it again";

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
    /// Chooses the status and the message of each refusal.
    fn into_response(self) -> Response {
        let retry_after = match &self {
            Self::Operation(Error::OverShare { retry_after }) => *retry_after,
            _ => RETRY_AFTER,
        };
        let cause = self.cause();
        let (status, message) = match self {
            Self::Host(message) => (StatusCode::BAD_REQUEST, message.into()),
            Self::NotFound(path) => (StatusCode::NOT_FOUND, format!("There is nothing at {path}")),
            Self::Method(method) => (
                StatusCode::METHOD_NOT_ALLOWED,
                format!("The method {method} is not possible here: use one that the Allow header names"),
            ),
            Self::TenantLoading => (StatusCode::SERVICE_UNAVAILABLE, LOADING.into()),
            Self::TenantDown => (StatusCode::SERVICE_UNAVAILABLE, DOWN.into()),
            Self::NoneReady => (StatusCode::SERVICE_UNAVAILABLE, NONE_READY.into()),
            Self::Credential(message) => (StatusCode::UNAUTHORIZED, message.into()),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, MEDIA_TYPE.into()),
            Self::IdempotencyKey => (
                StatusCode::BAD_REQUEST,
                format!(
                    "Idempotency-Key is not valid: send it once, with 1 to {} characters of visible ASCII, such as a UUID",
                    IdempotencyKey::MAX_LENGTH
                ),
            ),
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("The body is over {MAX_BODY} bytes: send less"))
            }
            Self::BodyIncomplete => (StatusCode::BAD_REQUEST, BODY_INCOMPLETE.into()),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, BODY_TIMEOUT.into()),
            Self::Body(message) => (StatusCode::BAD_REQUEST, message),
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
                    tracing::error!(%cause, "idempotency key look-up failed");
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

/// Returns the answer to a request that made the host panic.
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

/// Returns 201 with the workspace, also where an earlier request created it. Without `Location`: nothing
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
