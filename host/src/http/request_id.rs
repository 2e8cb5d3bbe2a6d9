//! An id for each request, and its line in the log.

use std::time::Instant;

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument as _, field::Empty};
use uuid::Uuid;

use super::{
    limits::{MAX_LOGGED_PATH, MAX_REQUEST_ID},
    response::Reason,
    trace_context,
};
use crate::excerpt::excerpt;

/// The header a request's id comes in and goes back in.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Name of the event that is a request's line in the log.
pub(crate) const ANSWERED: &str = "answered";

/// Takes the client's id, or makes one, sends it back, and logs the request under it.
pub(super) async fn identify(request: Request, next: Next) -> Response {
    let id = taken(&request).unwrap_or_else(|| Uuid::now_v7().to_string());
    // Of the highest level: an error's line names its request whatever else is logged.
    let span = tracing::error_span!("request", id, tenant = Empty, trace_id = Empty);
    if let Some(trace) = trace_context::join(&span, request.headers()) {
        span.record("trace_id", trace);
    }
    let method = excerpt(request.method().as_str(), MAX_REQUEST_ID).into_owned();
    let (path, start) = (excerpt(request.uri().path(), MAX_LOGGED_PATH).into_owned(), Instant::now());
    async move {
        let mut response = next.run(request).await;
        let latency_ms = start.elapsed().as_micros() as f64 / 1000.0;
        let (status, reason) = (response.status().as_u16(), Reason::of(&response));
        tracing::info!(name: ANSWERED, status, %method, path, latency_ms, reason = reason.as_deref(), "answered");
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        response
    }
    .instrument(span)
    .await
}

/// Returns the client's id where it is one of visible ASCII that does not flood the log.
fn taken(request: &Request) -> Option<String> {
    let id = request.headers().get(X_REQUEST_ID)?.to_str().ok()?;
    ((1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())).then(|| id.to_owned())
}
