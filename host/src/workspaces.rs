//! The operation for one tenant: whose credentials, which component, which storage, how much of the host.

use std::{fmt, future::Future, num::NonZeroU32, pin::pin, sync::Arc, task::Poll, time::Duration};

use axum::Router;
use governor::{
    DefaultDirectRateLimiter, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use tokio::time::timeout;

use crate::{
    COMPONENT, CreateWorkspaceRequest,
    auth::{Auth, Caller, Credential, Denial},
    http,
    metrics::{Meter, Metrics},
    runtime::{Admission, Component, Error, Limits, LoadError, Place, Pool, Runtime, Sandboxes, poll_once},
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
    pub(crate) meter: Meter,
}

/// A tenant's share of the host, beside the [`Limits`] of each of its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Maximum number of requests in progress at once, from before the credential is looked up to the
    /// answer, without the time that the client takes to send the body. Further requests are refused with
    /// [`Error::OverShare`]. A tenant that competes with others gets fewer, see [`Pool::queue`].
    pub concurrency: usize,
    /// Maximum number of sandboxes that run at once, one at least. Further requests wait for their turn. A
    /// sandbox that waits for its host does not run.
    pub running: usize,
    /// Maximum rate of requests with a valid credential; no maximum where `None`.
    pub rate: Option<Rate>,
}

/// Rate of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, in the long run.
    pub per_second: NonZeroU32,
    /// Requests at once, after a pause.
    pub burst: NonZeroU32,
}

impl Default for Share {
    /// All of the host.
    fn default() -> Self {
        Self { concurrency: usize::MAX, running: usize::MAX, rate: None }
    }
}

/// Maximum time that storage may take to say whether it is ready.
const READINESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time of a credential's look-up, the wait for it included. A stranger holds a connection that long at
/// most, and a client of a tenant whose database hangs is answered by then.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(2);

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
        self.admit(credential, usize::MAX).await?.create_workspace(request, key).await
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
        let place = self.runtime.admission.enter(usize::MAX)?;
        self.admit_caller(caller, place, usize::MAX)?.create_workspace(request, key).await
    }

    /// Finds out who calls, and takes a place for the request where the tenant has fewer than `most` in
    /// progress: everything that a request costs before its body is read.
    ///
    /// # Errors
    ///
    /// [`Error::OverShare`] or [`Error::Overloaded`], [`Error::Credential`].
    pub(crate) async fn admit(&self, credential: &Credential, most: usize) -> Result<Admitted<'_>, Error> {
        let admission = &self.runtime.admission;
        // Under overload most requests are refused, and a look-up costs more than everything else they do.
        admission.require_place(most)?;
        let caller = timeout(AUTHENTICATION_TIMEOUT, async {
            let _look_up = admission.look_up(most).await?;
            Ok::<_, Error>(self.auth.authenticate(credential).await?)
        });
        let caller = caller.await.unwrap_or_else(|_| {
            tracing::warn!(after = ?AUTHENTICATION_TIMEOUT, "credential not looked up in time");
            Err(Denial::Unavailable.into())
        })?;
        self.admit_caller(caller, admission.enter(most)?, most)
    }

    /// Strangers do not come here: nobody else can use up a tenant's rate.
    fn admit_caller<'a>(&'a self, caller: Caller, place: Place<'a>, most: usize) -> Result<Admitted<'a>, Error> {
        if let Some(Err(early)) = self.rate.as_ref().map(RateLimiter::check) {
            return Err(Error::OverShare { retry_after: early.wait_time_from(DefaultClock::default().now()) });
        }
        Ok(Admitted { workspaces: self, caller, place, most })
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

    /// Returns once storage has said that it could write now.
    ///
    /// # Errors
    ///
    /// [`storage::Error::Unavailable`] with the reason, or where storage does not answer within two seconds.
    pub async fn ready(&self) -> Result<(), storage::Error> {
        timeout(READINESS_TIMEOUT, self.storage.ready())
            .await
            .unwrap_or_else(|_| Err(storage::Error::Unavailable(format!("no answer within {READINESS_TIMEOUT:?}"))))
    }
}

impl fmt::Debug for Workspaces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Workspaces").field("component", &self.component()).finish_non_exhaustive()
    }
}

/// A request whose caller is known, with its place.
pub(crate) struct Admitted<'a> {
    workspaces: &'a Workspaces,
    caller: Caller,
    place: Place<'a>,
    most: usize,
}

impl Admitted<'_> {
    /// Awaits something from the client. Gives the place back while the client takes its time, and takes
    /// one again afterwards: slow clients hold no capacity.
    ///
    /// # Errors
    ///
    /// [`Error::OverShare`] or [`Error::Overloaded`], where no place is left by then.
    pub(crate) async fn receive<T>(self, work: impl Future<Output = T>) -> Result<(Self, T), Error> {
        let mut work = pin!(work);
        if let Poll::Ready(received) = poll_once(work.as_mut()).await {
            return Ok((self, received));
        }
        let Self { workspaces, caller, place, most } = self;
        drop(place);
        let received = work.await;
        let place = workspaces.runtime.admission.enter(most)?;
        Ok((Self { workspaces, caller, place, most }, received))
    }

    pub(crate) async fn create_workspace(
        self,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Error> {
        let Self { workspaces, caller, place: _place, .. } = self;
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
        meter.limited(&limits, &share);
        let rate = share
            .rate
            .map(|rate| RateLimiter::direct(governor::Quota::per_second(rate.per_second).allow_burst(rate.burst)));
        let admission = Admission::new(sandboxes, share.concurrency, share.running);
        let runtime = Runtime::new(admission, component, limits, auth.clone(), storage.clone(), meter.clone())?;
        Ok(Workspaces { auth, storage, runtime, rate, meter })
    }
}
