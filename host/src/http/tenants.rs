//! The routes of many tenants: which one a request is for.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header::HOST, uri::PathAndQuery},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::json;
use tower_layer::Layer as _;

use super::{answer::Refusal, around, healthz, not_possible, nothing_there, operation};
use crate::gateway::Gateway;

/// The routes of all tenants of a gateway, each under its host names and path, and `GET /healthz` and
/// `GET /readyz` for the whole.
pub fn gateway(gateway: Arc<Gateway>) -> Router {
    // Around the tenants' routes and not within: the path is shortened before they are looked at.
    let tenants = middleware::from_fn_with_state(gateway.clone(), enter).layer(operation());
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(not_possible)
        .with_state(gateway)
        .fallback_service(tenants);
    around(routes)
}

/// Finds the request's tenant.
async fn enter(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let found = gateway.find(host(request.uri(), request.headers()), request.uri().path());
    let Some((tenant, prefix)) = found else { return nothing_there(request.uri().clone()).await.into_response() };
    tracing::Span::current().record("tenant", tenant.name());
    let workspaces = match tenant.workspaces() {
        Ok(workspaces) => workspaces.clone(),
        Err(_) => {
            let message = if tenant.is_loading() { LOADING } else { NOT_LOADED };
            return Refusal::Route(StatusCode::SERVICE_UNAVAILABLE, message.into()).into_response();
        }
    };
    if let Some(uri) = without(prefix, request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(workspaces);
    next.run(request).await
}

const LOADING: &str = "This tenant is being loaded: try again after the time in Retry-After";
const NONE_READY: &str = "No tenant can be served now: try again later";
const NOT_LOADED: &str = "This tenant can't be served now: try again later, or ask its operator";

/// The host name that a request is for, without its port: the target's own, or that of the one `Host`
/// header (RFC 9112, section 3.2).
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(HOST).iter();
    let authority = match (uri.host(), hosts.next(), hosts.next()) {
        (Some(host), ..) => return Some(host),
        (None, Some(host), None) => host.to_str().ok()?,
        _ => return None,
    };
    // The colons of an IPv6 address stand within brackets.
    let name = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    Some(name.map_or(authority, |(name, _)| name))
}

/// The address with so many bytes of its path left out.
fn without(prefix: usize, uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().get(prefix..)?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(rest).ok();
    Uri::from_parts(parts).ok()
}

/// Which tenants could write. Ready where one could: the others' trouble is theirs.
async fn readyz(State(gateway): State<Arc<Gateway>>) -> Response {
    match gateway.ready().await {
        (0, _) => Refusal::Route(StatusCode::SERVICE_UNAVAILABLE, NONE_READY.into()).into_response(),
        (ready, tenants) => axum::Json(json!({"status": "ready", "tenants": tenants, "ready": ready})).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_host_is_the_targets_or_that_of_the_one_header() -> Result<(), Box<dyn std::error::Error>> {
        for (target, headers, expected) in [
            ("/x", &["a.example"][..], Some("a.example")),
            ("/x", &["a.example:8080"], Some("a.example")),
            ("/x", &["[::1]:8080"], Some("[::1]")),
            ("/x", &["[::1]"], Some("[::1]")),
            ("http://b.example:1/x", &["a.example"], Some("b.example")),
            ("/x", &[], None),
            ("/x", &["a.example", "b.example"], None),
        ] {
            let mut map = HeaderMap::new();
            for value in headers {
                map.append(HOST, HeaderValue::from_static(value));
            }
            assert_eq!(host(&target.parse()?, &map), expected, "{target} {headers:?}");
        }
        Ok(())
    }

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
