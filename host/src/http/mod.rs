//! The route `POST /api/workspaces` and what stands around it.

mod answer;
mod credentials;
mod host;
mod idempotency;
mod json;
mod request_id;
pub mod server;
mod tenants;
#[cfg(feature = "tls")]
pub mod tls;
mod trace_context;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{OriginalUri, Request},
    http::{
        HeaderMap, HeaderName, Method, StatusCode, Uri,
        header::{ALLOW, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tower_http::{catch_panic::CatchPanicLayer, cors::CorsLayer};

#[cfg(feature = "cli")]
pub(crate) use self::request_id::ANSWERED;
pub use self::tenants::gateway;
use self::{answer::Refusal, server::Connections};
use crate::{Workspaces, excerpt::excerpt, runtime::Error};

/// The largest body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Maximum length of what a message repeats of a request, in bytes.
const MAX_QUOTED: usize = 256;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(8);

/// The routes of one tenant, see [`Workspaces::router`].
pub(crate) fn router(workspaces: Arc<Workspaces>) -> Router {
    let routes = operation().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    let routes = routes.method_not_allowed_fallback(not_possible);
    around(routes.layer(Extension(workspaces)))
}

/// What each tenant has, for whichever stands among the request's extensions.
fn operation() -> Router {
    Router::new()
        .route("/api/workspaces", post(create_workspace))
        .route(DESCRIPTION, get(openapi))
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_possible)
        .layer(middleware::from_fn(count))
}

/// What every answer gets.
fn around(routes: Router) -> Router {
    routes
        .layer(CatchPanicLayer::custom(answer::panicked))
        .layer(middleware::from_fn(host::require_host))
        .layer(cors())
        .layer(middleware::from_fn(request_id::identify))
}

async fn nothing_there(uri: Uri) -> Refusal {
    Refusal::Route(StatusCode::NOT_FOUND, format!("There is nothing at {}", excerpt(uri.path(), MAX_QUOTED)))
}

async fn not_possible(method: Method) -> Refusal {
    let method = excerpt(method.as_str(), MAX_QUOTED).into_owned();
    Refusal::Route(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("The method {method} is not possible here: use one that the Allow header names"),
    )
}

/// The process answers.
async fn healthz() -> Response {
    json_text(r#"{"status":"ok"}"#)
}

/// The tenant's storage could write.
async fn readyz(Extension(workspaces): Extension<Arc<Workspaces>>) -> Response {
    match workspaces.ready().await {
        Ok(()) => json_text(r#"{"status":"ready"}"#),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            Refusal::Operation(Error::Overloaded).into_response()
        }
    }
}

fn json_text(text: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.into()).into_response()
}

/// Path of the description of the operation.
const DESCRIPTION: &str = "/openapi.json";

/// Describes the operation, with the server under the path that the client has used: a tenant's, or that of a
/// router in which this one is nested.
async fn openapi(OriginalUri(uri): OriginalUri) -> Response {
    let prefix = uri.path().strip_suffix(DESCRIPTION).filter(|prefix| !prefix.is_empty()).unwrap_or("/");
    let server = format!("\"url\": {}", serde_json::Value::from(prefix));
    json_text(include_str!("openapi.json").replacen(r#""url": "/""#, &server, 1))
}

/// Counts an answer for the tenant.
async fn count(Extension(workspaces): Extension<Arc<Workspaces>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let response = next.run(request).await;
    workspaces.meter.answered(response.status().as_u16(), start.elapsed());
    response
}

/// Time for which a browser may keep the answer to a preflight: the maximum that Chromium takes.
const PREFLIGHT_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// Returns the rules for pages of other origins: the deployment's, with the headers that the documentation
/// mentions, and those that tracing adds beside them.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(tower_http::cors::Any)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH])
        .allow_headers([
            CONTENT_TYPE,
            AUTHORIZATION,
            HeaderName::from_static("x-requested-with"),
            credentials::X_API_KEY,
            idempotency::IDEMPOTENCY_KEY,
            request_id::X_REQUEST_ID,
            trace_context::TRACEPARENT,
            HeaderName::from_static("tracestate"),
            HeaderName::from_static("baggage"),
        ])
        .expose_headers([
            request_id::X_REQUEST_ID,
            idempotency::IDEMPOTENCY_REPLAYED,
            RETRY_AFTER,
            ALLOW,
            WWW_AUTHENTICATE,
        ])
        .max_age(PREFLIGHT_AGE)
}

/// The cheapest refusal first: a stranger costs neither a body nor a sandbox.
async fn create_workspace(
    Extension(workspaces): Extension<Arc<Workspaces>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let connections = head.extensions.get::<Connections>();
    let credential = credentials::credential(&head.headers)?;
    let most = connections.map_or(usize::MAX, Connections::tenant_share);
    let admitted = workspaces.admit(&credential, most).await?;
    require_json(&head.headers)?;
    let key = idempotency::key(&head.headers)?;
    let patience = connections.map_or(BODY_TIMEOUT, |connections| connections.patience(BODY_TIMEOUT));
    let (admitted, body) = admitted.receive(read(&head.headers, body, patience)).await?;
    let request = json::parse(&body?).map_err(|message| Refusal::Route(StatusCode::BAD_REQUEST, message))?;
    let created = admitted.create_workspace(request, key).await?;
    Ok(answer::created(&created))
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Operation(error)
    }
}

/// Refuses a body that says it is something else. One that says nothing is taken for JSON
/// (RFC 9110, section 8.3, lets the recipient decide): proxies forward bodies so.
fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_json = headers.get_all(CONTENT_TYPE).iter().all(|value| {
        let essence = value.to_str().ok().and_then(|value| value.split(';').next());
        essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
    });
    let is_plain =
        headers.get_all(CONTENT_ENCODING).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"));
    match is_json && is_plain {
        true => Ok(()),
        false => Err(Refusal::Route(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Send the body as Content-Type: application/json, without Content-Encoding".into(),
        )),
    }
}

async fn read(headers: &HeaderMap, body: Body, patience: Duration) -> Result<Vec<u8>, Refusal> {
    let too_large =
        || Refusal::Route(StatusCode::PAYLOAD_TOO_LARGE, format!("The body is over {MAX_BODY} bytes: send less"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::Route(StatusCode::BAD_REQUEST, "The body ended early: send all of it".into())),
        Err(_) => Err(Refusal::Route(StatusCode::REQUEST_TIMEOUT, "The body came too slowly: send it again".into())),
    }
}
