//! The administration: an address of its own, for operators and their tools.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::load::Report;
use crate::{gateway::Gateway, metrics::Metrics, runtime::Sandboxes};

/// The header that a request to change something has to have. A web page can't send it to another
/// origin without asking, and nobody says yes.
pub(in crate::cli) const ADMIN: HeaderName = HeaderName::from_static("x-workspaces-admin");

/// Somebody who waits for a reload.
pub(super) type Waiter = oneshot::Sender<Result<Vec<Report>, String>>;

/// What the administration looks at.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) gateway: Arc<Gateway>,
    pub(super) sandboxes: Sandboxes,
    pub(super) metrics: Metrics,
    pub(super) reload: mpsc::Sender<Waiter>,
}

impl Admin {
    pub(super) fn routes(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/tenants", get(tenants))
            .route("/reload", post(reload))
            .with_state(self)
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    for tenant in admin.gateway.tenants() {
        admin.metrics.set_up(tenant.name(), tenant.workspaces().is_ok());
    }
    let text = admin.metrics.text(admin.sandboxes.pool(), admin.sandboxes.usage());
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

async fn tenants(State(admin): State<Admin>) -> Json<Value> {
    let tenants = admin.gateway.tenants().into_iter().map(|tenant| match tenant.workspaces() {
        Ok(workspaces) => json!({"tenant": tenant.name(), "component": workspaces.component().digest().as_str()}),
        Err(reason) => json!({"tenant": tenant.name(), "reason": reason}),
    });
    Json(Value::Array(tenants.collect()))
}

async fn reload(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let refused = |status: StatusCode, message: &str| (status, Json(json!({"message": message}))).into_response();
    if !headers.contains_key(ADMIN) {
        return refused(StatusCode::FORBIDDEN, "Send the header x-workspaces-admin, as `workspaces reload` does");
    }
    let (waiter, report) = oneshot::channel();
    if admin.reload.send(waiter).await.is_err() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "The server stops");
    }
    match report.await {
        Ok(Ok(reports)) => Json(json!({"tenants": reports})).into_response(),
        Ok(Err(message)) => refused(StatusCode::BAD_REQUEST, &message),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "The server stops"),
    }
}
