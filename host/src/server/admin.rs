//! The administration: an address of its own, for operators and their tools.

use std::{fs, future::pending, io, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use super::{
    address::{AdminAddress, listen_at},
    guard::{Guard, refused},
    load::TenantReport,
};
use crate::{http::server, metrics::Metrics, runtime::Sandboxes, tenants::Tenants};

/// Connections of operators and their tools.
const CONNECTIONS: usize = 64;

/// The listener of the administration.
pub(super) enum AdminListener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket's file, removed with the server.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl AdminListener {
    pub(super) async fn bind(address: &AdminAddress) -> Result<Self> {
        Ok(match address {
            AdminAddress::Tcp(address) => Self::Tcp(super::bind(*address, "--admin").await?),
            AdminAddress::Unix(path) => {
                let listener = listen_at(path)?;
                let file = SocketFile(path.clone());
                listener.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(listener)?, file)
            }
        })
    }

    /// Returns the address of TCP.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Returns the address as it is printed.
    pub(super) fn url(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => format!("http://{}", listener.local_addr()?),
            Self::Unix(_, SocketFile(path)) => format!("unix:{}", path.display()),
        })
    }

    /// Serves these routes as long as the program runs.
    pub(super) async fn serve(self, routes: Router) {
        match self {
            Self::Tcp(listener) => _ = server::serve(listener, routes, CONNECTIONS, pending()).await,
            Self::Unix(listener, _file) => server::serve_unix(&listener, routes, CONNECTIONS).await,
        }
    }
}

/// The header that a request to change something has to have. A web page can't send it to another
/// origin without asking, and nobody says yes.
pub(crate) const ADMIN: HeaderName = HeaderName::from_static("x-workspaces-admin");

/// Somebody who waits for a reload.
pub(super) type Waiter = oneshot::Sender<Result<Reloaded, String>>;

/// Outcome of a reload.
pub(super) struct Reloaded {
    pub(super) reports: Vec<TenantReport>,
    /// A change that a reload does not make.
    pub(super) notice: Option<String>,
}

/// State that the administration shows and changes.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) tenants: Arc<Tenants>,
    pub(super) sandboxes: Sandboxes,
    pub(super) metrics: Metrics,
    pub(super) reload: mpsc::Sender<Waiter>,
}

impl Admin {
    pub(super) fn routes(self, guard: Guard) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/tenants", get(tenants))
            .route("/reload", post(reload))
            .with_state(self)
            .layer(middleware::from_fn_with_state(Arc::new(guard), Guard::check))
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    for tenant in admin.tenants.tenants() {
        admin.metrics.set_up(tenant.name(), tenant.workspaces().is_ok());
    }
    admin.sandboxes.report(&admin.metrics);
    let text = admin.metrics.text();
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

async fn tenants(State(admin): State<Admin>) -> Json<Value> {
    let tenants = admin.tenants.tenants().into_iter().map(|tenant| match (tenant.workspaces(), tenant.refusal()) {
        (Ok(workspaces), refusal) => {
            let digest = workspaces.component().digest().clone();
            let mut shown = json!({"tenant": tenant.name(), "component": digest.as_str()});
            if let Some(refusal) = refusal {
                shown["refused"] = refusal.into();
            }
            shown
        }
        (Err(reason), _) => json!({"tenant": tenant.name(), "reason": reason}),
    });
    Json(Value::Array(tenants.collect()))
}

async fn reload(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if !headers.contains_key(ADMIN) {
        return refused(StatusCode::FORBIDDEN, "Send the header x-workspaces-admin, as `workspaces reload` does");
    }
    let (waiter, report) = oneshot::channel();
    if admin.reload.send(waiter).await.is_err() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "The server stops");
    }
    match report.await {
        Ok(Ok(Reloaded { reports, notice: None })) => Json(json!({"tenants": reports})).into_response(),
        Ok(Ok(Reloaded { reports, notice })) => Json(json!({"tenants": reports, "notice": notice})).into_response(),
        Ok(Err(message)) => refused(StatusCode::BAD_REQUEST, &message),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "The server stops"),
    }
}
