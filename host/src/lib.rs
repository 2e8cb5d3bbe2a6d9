//! Runs the create-workspace component in a sandbox and serves `POST /api/workspaces` with it.
//!
//! [`Workspaces`] is the operation for one tenant: call it, or mount its routes. The modules in the
//! order a request meets them:
//!
//! 1. [`http`]: the route. Reads the body, maps outcomes to statuses.
//! 2. [`gateway`]: which tenant a request is for, where there are many.
//! 3. [`Workspaces`]: the credential is checked, and the tenant's share of the host.
//! 4. [`runtime`]: a fresh sandbox for the request, its limits, and the glue between the
//!    component's imports and the two traits below.
//! 5. [`auth`]: who the caller is and what it may reach.
//! 6. [`storage`]: where workspaces are kept.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # async fn embed() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use workspaces_host::{Workspaces, auth::api_key::ApiKeys, http::server, storage::sqlite::Sqlite};
//!
//! let database = Arc::new(Sqlite::open("workspaces.db".as_ref())?);
//! let auth = Arc::new(ApiKeys::new(database.clone(), b"the pepper", None));
//! let routes = Arc::new(Workspaces::builder(database, auth).build()?).router();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! server::serve(listener, routes, server::CONNECTIONS, std::future::pending()).await;
//! # Ok(()) }
//! ```
//!
//! Whole programs are in the crate's `examples/`.

pub mod http;

pub mod gateway;

mod workspaces;

pub mod runtime;

pub mod auth;

pub mod storage;

pub mod metrics;

mod excerpt;

#[cfg(any(feature = "cli", feature = "jwt", feature = "postgres", feature = "tls"))]
mod files;

#[cfg(any(feature = "cli", feature = "postgres", feature = "sqlite", feature = "tls"))]
mod private;

#[cfg(any(feature = "jwt", feature = "postgres", feature = "tls"))]
mod tls;

#[cfg(feature = "cli")]
pub mod cli;

pub use workspaces::{Builder, Rate, Share, Workspaces};

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// The component that this version of the host was built with, as WebAssembly.
pub const COMPONENT: &[u8] = include_bytes!(env!("WORKSPACES_COMPONENT"));

/// What a client asks for, as it sent it: the component validates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateWorkspaceRequest {
    /// The workspace's name.
    pub name: Option<String>,
    /// The account to create it for.
    pub account_id: Option<String>,
    /// The organization to link it to.
    pub organization_id: Option<String>,
}

/// A workspace that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: Uuid,
    /// Its name as stored.
    pub name: String,
    /// The account it was created for.
    pub account_id: Uuid,
}

/// The time in milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
