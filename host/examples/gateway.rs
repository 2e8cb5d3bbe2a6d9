//! A gateway of one's own, with the operation mounted under a path of it.
//!
//! `cargo run --package workspaces-host --example gateway`, then `curl -i http://127.0.0.1:3000/tenants/acme/readyz`.

use std::{error::Error, sync::Arc};

use axum::{Router, routing::get};
use workspaces_host::{Workspaces, auth::api_key::ApiKeys, storage::sqlite::Sqlite};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let routes = routes()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, routes).await?;
    Ok(())
}

fn routes() -> Result<Router, Box<dyn Error>> {
    let database = Arc::new(Sqlite::in_memory()?);
    let auth = Arc::new(ApiKeys::new(database.clone(), b"the pepper", None));
    let workspaces = Arc::new(Workspaces::builder(database, auth).build()?);
    Ok(Router::new().route("/", get(async || "the gateway's own")).nest("/tenants/acme", workspaces.router()))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower_service::Service as _;

    use super::*;

    #[tokio::test]
    async fn the_operation_answers_under_its_path() -> Result<(), Box<dyn Error>> {
        for (path, status) in [("/", 200), ("/tenants/acme/readyz", 200), ("/tenants/acme/api/workspaces", 401)] {
            let method = if status == 401 { "POST" } else { "GET" };
            let request = Request::builder().method(method).uri(path).body(Body::empty())?;
            assert_eq!(routes()?.call(request).await?.status(), status, "{path}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn the_description_names_the_path_that_it_is_mounted_under() -> Result<(), Box<dyn Error>> {
        let request = Request::builder().uri("/tenants/acme/openapi.json").body(Body::empty())?;
        let description = axum::body::to_bytes(routes()?.call(request).await?.into_body(), usize::MAX).await?;
        assert!(std::str::from_utf8(&description)?.contains(r#""url": "/tenants/acme""#));
        Ok(())
    }
}
