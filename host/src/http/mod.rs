//! The route `POST /api/workspaces` and what stands around it.

mod credentials;
#[cfg(feature = "docs")]
mod docs;
mod gateway;
mod host;
mod idempotency;
mod json;
pub mod limits;
mod request_id;
mod response;
pub mod server;
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
        HeaderMap, HeaderName, Method, Uri,
        header::{ALLOW, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tower_http::{catch_panic::CatchPanicLayer, cors::CorsLayer};

pub use self::gateway::gateway;
#[cfg(feature = "cli")]
pub(crate) use self::request_id::ANSWERED;
use self::{
    limits::{BODY_TIMEOUT, MAX_BODY, MAX_QUOTED, PREFLIGHT_AGE},
    response::Refusal,
    server::Connections,
};
use crate::{Error, Workspaces, excerpt::excerpt};

impl Workspaces {
    /// Returns the routes: `POST /api/workspaces`, `GET /healthz`, `GET /readyz` and `GET /openapi.json`, with CORS
    /// for browsers of every origin, request ids, and errors in JSON for everything else. The timers of a
    /// server are not among them: [`server`] has those.
    pub fn router(self: Arc<Self>) -> Router {
        router(self, RouteOptions::default())
    }

    /// Returns the same routes, with options.
    pub fn router_with(self: Arc<Self>, options: RouteOptions) -> Router {
        router(self, options)
    }
}

/// Options of the routes.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RouteOptions {
    /// Page of the API at `GET /docs/`, with `GET /` leading there. Without the crate's feature `docs` there
    /// is none.
    pub docs: bool,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self { docs: true }
    }
}

/// Returns the routes of one tenant.
fn router(workspaces: Arc<Workspaces>, options: RouteOptions) -> Router {
    let routes = operation(options).route("/healthz", get(healthz)).route("/readyz", get(readyz));
    let routes = routes.method_not_allowed_fallback(not_possible);
    around(routes.layer(Extension(workspaces)))
}

/// Returns the routes of each tenant, for the tenant among the request's extensions.
fn operation(options: RouteOptions) -> Router {
    #[cfg(feature = "docs")]
    let routes = if options.docs { docs::routes() } else { Router::new() };
    #[cfg(not(feature = "docs"))]
    let (routes, RouteOptions { docs: _ }) = (Router::new(), options);
    routes
        .route("/api/workspaces", post(create_workspace))
        .route(DESCRIPTION, get(openapi))
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_possible)
        .layer(middleware::from_fn(count))
}

/// Adds the layers that every answer passes.
fn around(routes: Router) -> Router {
    routes
        .layer(CatchPanicLayer::custom(response::panicked))
        .layer(middleware::from_fn(host::require_host))
        .layer(cors())
        .layer(middleware::from_fn(request_id::identify))
}

async fn nothing_there(uri: Uri) -> Refusal {
    not_found(&uri)
}

/// Returns the refusal of a path where nothing is.
fn not_found(uri: &Uri) -> Refusal {
    Refusal::NotFound(excerpt(uri.path(), MAX_QUOTED).into_owned())
}

async fn not_possible(method: Method) -> Refusal {
    Refusal::Method(excerpt(method.as_str(), MAX_QUOTED).into_owned())
}

/// Answers that the process does.
async fn healthz() -> Response {
    json_text(r#"{"status":"ok"}"#)
}

/// Answers whether the tenant's storage could write.
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
            response::IDEMPOTENCY_REPLAYED,
            RETRY_AFTER,
            ALLOW,
            WWW_AUTHENTICATE,
        ])
        .max_age(PREFLIGHT_AGE)
}

/// Serves a create. The cheapest check comes first: an unauthenticated client costs neither a body nor a sandbox.
async fn create_workspace(
    Extension(workspaces): Extension<Arc<Workspaces>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let connections = head.extensions.get::<Connections>();
    let credential = credentials::credential(&head.headers)?;
    let most = connections.map_or(usize::MAX, Connections::tenant_share);
    let has_key = head.headers.contains_key(idempotency::IDEMPOTENCY_KEY);
    let admitted = workspaces.admit(&credential, has_key, most).await?;
    require_json(&head.headers)?;
    let key = idempotency::key(&head.headers)?;
    let patience = connections.map_or(BODY_TIMEOUT, |connections| connections.patience(BODY_TIMEOUT));
    let (admitted, body) = admitted.receive(read(&head.headers, body, patience)).await?;
    let request = json::parse(&body?).map_err(Refusal::Body)?;
    let admitted = admitted.recorded_by(|header| head.headers.contains_key(header));
    let created = admitted.create_workspace(request, key).await?;
    Ok(response::created(&created))
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
        false => Err(Refusal::MediaType),
    }
}

async fn read(headers: &HeaderMap, body: Body, patience: Duration) -> Result<Vec<u8>, Refusal> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(Refusal::BodyTooLarge);
    }
    match tokio::time::timeout(patience, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge),
        Ok(Err(_)) => Err(Refusal::BodyIncomplete),
        Err(_) => Err(Refusal::BodyTimeout),
    }
}
