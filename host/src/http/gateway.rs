//! The routes of many tenants: which one a request is for.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    http::{Uri, uri::PathAndQuery},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::json;
use tower_layer::Layer as _;

use super::{RouteOptions, around, healthz, host, not_possible, nothing_there, operation, response::Refusal};
use crate::tenants::Tenants;

/// Returns the routes of all tenants of a gateway, each under its host names and path, and `GET /healthz` and
/// `GET /readyz` for the whole.
pub fn gateway(gateway: Arc<Tenants>, options: RouteOptions) -> Router {
    // Around the tenants' routes and not within: the path is shortened before they are looked at.
    let tenants = middleware::from_fn_with_state(gateway.clone(), resolve_tenant).layer(operation(options));
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(not_possible)
        .with_state(gateway)
        .fallback_service(tenants);
    around(routes)
}

/// Finds the tenant of a request, by its host name and path.
async fn resolve_tenant(State(gateway): State<Arc<Tenants>>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let found = gateway.find(host::name(request.uri(), request.headers()), request.uri().path());
    let Some((tenant, prefix)) = found else { return nothing_there(request.uri().clone()).await.into_response() };
    tracing::Span::current().record("tenant", tenant.name());
    let workspaces = match tenant.workspaces() {
        Ok(workspaces) => workspaces.clone(),
        Err(_) => {
            let refusal = if tenant.is_loading() { Refusal::TenantLoading } else { Refusal::TenantDown };
            let response = refusal.into_response();
            tenant.count_answer(response.status().as_u16(), start.elapsed());
            return response;
        }
    };
    if let Some(uri) = without(prefix, request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(workspaces);
    next.run(request).await
}

/// Returns the address with so many bytes of its path left out.
fn without(prefix: usize, uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().get(prefix..)?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(rest).ok();
    Uri::from_parts(parts).ok()
}

/// Answers how many tenants could write now. The gateway is ready where one of them could.
async fn readyz(State(gateway): State<Arc<Tenants>>) -> Response {
    match gateway.ready().await {
        (0, _) => Refusal::NoneReady.into_response(),
        (ready, tenants) => axum::Json(json!({"status": "ready", "tenants": tenants, "ready": ready})).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_left_out_and_the_query_stays() -> Result<(), Box<dyn std::error::Error>> {
        for (uri, prefix, expected) in [
            ("/a/x?q=1", 2, "/x?q=1"),
            ("/a", 2, "/"),
            ("/a?q", 2, "/?q"),
            ("/x", 0, "/x"),
            ("http://h/a/x", 2, "http://h/x"),
        ] {
            assert_eq!(without(prefix, &uri.parse()?), Some(expected.parse()?), "{uri}");
        }
        Ok(())
    }
}
