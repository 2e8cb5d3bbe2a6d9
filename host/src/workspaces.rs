//! The operation for one tenant: whose credentials, which component, which storage, how much of the host.

use std::{fmt, num::NonZeroU32, sync::Arc};

use axum::Router;
use governor::{
    DefaultDirectRateLimiter, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use tokio::sync::Semaphore;

use crate::{
    COMPONENT, CreateWorkspaceRequest,
    auth::{Auth, Caller, Credential},
    http,
    metrics::{Meter, Metrics},
    runtime::{Component, Error, Limits, LoadError, Pool, RETRY_AFTER, Runtime, Sandboxes},
    storage::{self, Created, IdempotencyKey, Storage},
};

/// The operation `create-workspace` for one tenant: a component with its storage, its auth and its
/// limits. Called as a function, or mounted as routes.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use workspaces_host::{CreateWorkspaceRequest, Workspaces, auth::{Credential, api_key::ApiKeys}, storage::sqlite::Sqlite};
///
/// let database = Arc::new(Sqlite::open("workspaces.db".as_ref())?);
/// let auth = Arc::new(ApiKeys::new(database.clone(), b"the pepper", None));
/// let workspaces = Arc::new(Workspaces::builder(database, auth).build()?);
///
/// // As a function:
/// let credential = Credential::ApiKey("recoup_sk_…".into());
/// let request = CreateWorkspaceRequest { name: Some("Studio".into()), ..Default::default() };
/// let created = workspaces.create_workspace(&credential, request, None).await?;
///
/// // Or as an axum router, to mount in another or to serve:
/// let routes = workspaces.router();
/// # Ok(()) }
/// ```
pub struct Workspaces {
    auth: Arc<dyn Auth>,
    storage: Arc<dyn Storage>,
    runtime: Runtime,
    rate: Option<DefaultDirectRateLimiter>,
    places: Semaphore,
    pub(crate) meter: Meter,
}

/// A tenant's share of the host, beside the [`Limits`] of each of its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Requests at once, in a sandbox or waiting for one.
    pub concurrency: usize,
    /// Requests a second, where they are limited.
    pub rate: Option<Rate>,
}

/// How many requests a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: NonZeroU32,
    /// At once, after a pause.
    pub burst: NonZeroU32,
}

impl Default for Share {
    /// All of the host.
    fn default() -> Self {
        Self { concurrency: Semaphore::MAX_PERMITS, rate: None }
    }
}

impl Workspaces {
    /// Workspaces kept by `storage`, for callers that `auth` knows. The [builder](Builder) has the
    /// built-in component and sandboxes of its own, if not told otherwise.
    pub fn builder(storage: Arc<dyn Storage>, auth: Arc<dyn Auth>) -> Builder {
        Builder {
            storage,
            auth,
            component: Source::BuiltIn,
            limits: Limits::default(),
            share: Share::default(),
            sandboxes: None,
            metrics: Metrics::default(),
            name: "default".into(),
        }
    }

    /// Has the component create a workspace for the holder of the credential.
    ///
    /// With an idempotency key, a request that succeeded before is answered again; one that failed
    /// wrote nothing, and is made anew. A future that is dropped may leave a workspace behind, whole.
    ///
    /// # Errors
    ///
    /// An [`Error`], whose cases say whether anything was created.
    pub async fn create_workspace(
        &self,
        credential: &Credential,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Error> {
        self.admit(credential).await?.create_workspace(request, key).await
    }

    /// The same for a caller whose credential somebody else has checked.
    ///
    /// # Errors
    ///
    /// As [`create_workspace`](Self::create_workspace).
    pub async fn create_workspace_for(
        &self,
        caller: Caller,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Error> {
        self.admit_caller(caller)?.create_workspace(request, key).await
    }

    /// Finds out who calls, and whether the tenant and the host have room for it: all that a request
    /// costs before its body is read.
    ///
    /// # Errors
    ///
    /// [`Error::Credential`], [`Error::OverShare`] or [`Error::Overloaded`].
    pub(crate) async fn admit(&self, credential: &Credential) -> Result<Admitted<'_>, Error> {
        // Under overload most come for nothing, and a look-up costs more than all else they do.
        self.require_places()?;
        // Strangers do not count: nobody else can use up a tenant's rate.
        self.admit_caller(self.auth.authenticate(credential).await?)
    }

    fn admit_caller(&self, caller: Caller) -> Result<Admitted<'_>, Error> {
        if let Some(Err(early)) = self.rate.as_ref().map(RateLimiter::check) {
            return Err(Error::OverShare { retry_after: early.wait_time_from(DefaultClock::default().now()) });
        }
        Ok(Admitted { workspaces: self, caller })
    }

    /// Whether a request could have a place now, here and among the host's sandboxes.
    fn require_places(&self) -> Result<(), Error> {
        match self.places.available_permits() {
            0 => Err(Error::OverShare { retry_after: RETRY_AFTER }),
            _ => self.runtime.sandboxes.require_place(),
        }
    }

    /// The routes: `POST /api/workspaces`, `GET /healthz`, `GET /readyz` and `GET /openapi.json`, with CORS
    /// for browsers of every origin, request ids, and errors in JSON for everything else. The timers of a
    /// server are not among them: [`http::server`] has those.
    pub fn router(self: Arc<Self>) -> Router {
        http::router(self)
    }

    /// The component that requests get now.
    pub fn component(&self) -> Component {
        self.runtime.component()
    }

    /// Gives requests another component from now on; those in progress finish with theirs. Does so
    /// only after the component has done well on a stage, where nothing is kept, and goes back to the
    /// one before where the new one fails often among its first thousand calls.
    ///
    /// # Errors
    ///
    /// What it did wrong on the stage; the component in use stays.
    pub async fn swap(&self, component: Component) -> Result<(), String> {
        self.runtime.swap(component).await
    }

    /// Tries the component in use on a stage, where nothing is kept, as [`swap`](Self::swap) tries a new one.
    ///
    /// # Errors
    ///
    /// The fault that it showed, or that it created nothing.
    pub async fn rehearse(&self) -> Result<(), String> {
        self.runtime.rehearse(&self.component()).await
    }

    /// Whether storage could write now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn ready(&self) -> Result<(), storage::Error> {
        self.storage.ready().await
    }
}

impl fmt::Debug for Workspaces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Workspaces").field("component", &self.component()).finish_non_exhaustive()
    }
}

/// A request whose caller is known and whose tenant has room for it.
pub(crate) struct Admitted<'a> {
    workspaces: &'a Workspaces,
    caller: Caller,
}

impl Admitted<'_> {
    pub(crate) async fn create_workspace(
        self,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Error> {
        let Self { workspaces, caller } = self;
        let place = workspaces.places.try_acquire();
        let _place = place.map_err(|_| Error::OverShare { retry_after: RETRY_AFTER })?;
        workspaces.runtime.create_workspace(caller, request, key).await
    }
}

/// Makes [`Workspaces`].
#[must_use]
pub struct Builder {
    storage: Arc<dyn Storage>,
    auth: Arc<dyn Auth>,
    component: Source,
    limits: Limits,
    share: Share,
    sandboxes: Option<Sandboxes>,
    metrics: Metrics,
    name: String,
}

enum Source {
    BuiltIn,
    Bytes(Vec<u8>),
    Loaded(Component),
}

impl Builder {
    /// A component in place of the built-in one, as WebAssembly.
    pub fn component(mut self, wasm: impl Into<Vec<u8>>) -> Self {
        self.component = Source::Bytes(wasm.into());
        self
    }

    /// A component that the [sandboxes](Self::sandboxes) have loaded.
    pub fn loaded_component(mut self, component: Component) -> Self {
        self.component = Source::Loaded(component);
        self
    }

    /// The limits of each sandbox.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The tenant's share of the host.
    pub fn share(mut self, share: Share) -> Self {
        self.share = share;
        self
    }

    /// Sandboxes that are shared with others; by default those of a [`Pool`] of its own.
    pub fn sandboxes(mut self, sandboxes: Sandboxes) -> Self {
        self.sandboxes = Some(sandboxes);
        self
    }

    /// What counts, and under which name of a tenant.
    pub fn metrics(mut self, metrics: Metrics, tenant: impl Into<String>) -> Self {
        (self.metrics, self.name) = (metrics, tenant.into());
        self
    }

    /// Compiles the component where it is not loaded, and checks it against the contract.
    ///
    /// # Errors
    ///
    /// A [`LoadError`] that says what is wrong with it.
    pub fn build(self) -> Result<Workspaces, LoadError> {
        let Self { storage, auth, component, limits, share, sandboxes, metrics, name } = self;
        let sandboxes = match sandboxes {
            Some(sandboxes) => sandboxes,
            None => {
                let (memory, table_elements) = (limits.memory, limits.table_elements);
                Sandboxes::new(Pool { memory, table_elements, ..Pool::default() })?
            }
        };
        let component = match component {
            Source::BuiltIn => sandboxes.compile(COMPONENT)?,
            Source::Bytes(wasm) => sandboxes.compile(&wasm)?,
            Source::Loaded(component) => component,
        };
        let meter = metrics.meter(&name);
        meter.limited(&limits, share.concurrency, share.rate.map(|rate| rate.per_second.get()));
        let rate = share
            .rate
            .map(|rate| RateLimiter::direct(governor::Quota::per_second(rate.per_second).allow_burst(rate.burst)));
        let places = Semaphore::new(share.concurrency.min(Semaphore::MAX_PERMITS));
        let runtime = Runtime::new(sandboxes, component, limits, auth.clone(), storage.clone(), meter.clone())?;
        Ok(Workspaces { auth, storage, runtime, rate, places, meter })
    }
}
