//! Runs the create-workspace component in a sandbox and serves `POST /api/workspaces` with it.
//!
//! [`Workspaces`] is the operation of one tenant: call it, or mount its routes. The modules, in the order in which a
//! request meets them:
//!
//! 1. [`http`]: routes. They read the body and turn outcomes into statuses.
//! 2. [`tenants`]: the tenant that a request is for, by host name and path.
//! 3. [`operation`]: admission (credential, rate, room) and idempotency.
//! 4. [`runtime`]: a fresh sandbox for the request, its limits, and the host's side of the component's imports.
//! 5. [`storage`]: where workspaces are kept. A trait, its conformance suite, SQLite and PostgreSQL.
//! 6. [`auth`]: the caller's identity and what it can reach. A trait, API keys and JWTs.
//!
//! Beside them, `harness` (a feature) judges components: for their authors, and before a component serves.
//!
//! # A whole program
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # mod program {
//! use std::sync::Arc;
//! use workspaces_host::{Workspaces, auth::api_key::ApiKeys, http::{limits, server}, storage::sqlite::Sqlite};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let database = Arc::new(Sqlite::open("workspaces.db".as_ref())?);
//!     let auth = Arc::new(ApiKeys::new(database.clone(), b"a pepper of 16 bytes at least", None));
//!     let routes = Arc::new(Workspaces::builder(database, auth).build()?).router();
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
//!     server::serve(listener, routes, limits::CONNECTIONS, ctrl_c).await;
//!     Ok(())
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! More are in the crate's `examples/`: a gateway of one's own, auth of one's own, storage of one's own, the operation
//! without HTTP.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `cli` | yes | the program `workspaces`, with all of the following but `oci` and `otlp` |
//! | `sqlite` | by `cli` | [`storage::sqlite`](storage) |
//! | `postgres` | by `cli` | [`storage::postgres`](storage) |
//! | `jwt` | by `cli` | bearer tokens of an identity provider |
//! | `tls` | by `cli` | TLS for the listener |
//! | `docs` | by `cli` | the page of the API at `/docs/` |
//! | `harness` | by `cli` | the judge of components |
//! | `oci` | no | components in registries, for the program |
//! | `otlp` | no | the program's traces, sent to a collector |
//!
//! An embedder switches `cli` off (`default-features = false`) and names the features that it uses.

pub mod http;

pub mod tenants;

pub mod operation;

#[cfg(feature = "harness")]
pub mod harness;

pub mod runtime;

pub mod auth;

pub mod storage;

pub mod metrics;

mod error;

#[cfg(test)]
mod fuzz;

mod model;

mod excerpt;

mod hex;

#[cfg(any(feature = "cli", feature = "jwt", feature = "postgres", feature = "tls"))]
mod files;

#[cfg(any(feature = "cli", feature = "postgres", feature = "sqlite", feature = "tls"))]
mod private;

#[cfg(any(feature = "postgres", feature = "tls"))]
mod certificate;

#[cfg(any(feature = "jwt", feature = "postgres"))]
mod tls_client;

#[cfg(feature = "cli")]
pub mod cli;

#[cfg(feature = "cli")]
mod server;

#[cfg(feature = "cli")]
mod terminal;

pub use error::Error;
pub use model::{CreateWorkspaceRequest, MAX_NAME_CHARACTERS, Workspace};
pub use operation::{Builder, Rate, TenantShare, Workspaces};

use std::time::{SystemTime, UNIX_EPOCH};

/// The component that this version of the host was built with, as WebAssembly.
pub const COMPONENT: &[u8] = include_bytes!(env!("WORKSPACES_COMPONENT"));

/// Returns the time in milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
