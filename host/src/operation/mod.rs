//! The operation of one tenant: admission, idempotency, then the sandbox.

mod admission;
mod builder;
mod idempotency;

use std::{fmt, future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

use governor::{
    DefaultDirectRateLimiter, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use tokio::time::timeout;

pub use self::builder::{Builder, Rate, TenantShare};
use self::{
    admission::{Admission, Place},
    idempotency::InFlight,
};
#[cfg(feature = "harness")]
use crate::harness;
use crate::{
    CreateWorkspaceRequest, Error,
    auth::{Auth, Caller, Credential, Denial},
    metrics::Meter,
    runtime::{Component, Runtime, poll_once},
    storage::{self, Claim, Created, IdempotencyKey, Storage},
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
    admission: Admission,
    in_flight: InFlight,
    runtime: Runtime,
    rate: Option<DefaultDirectRateLimiter>,
    /// Header with which a request is recorded.
    record_header: Option<String>,
    /// Components are judged by the harness before they serve.
    #[cfg(feature = "harness")]
    requires_verified: bool,
    pub(crate) meter: Meter,
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
        Builder::new(storage, auth)
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
        self.admit(credential, key.is_some(), usize::MAX).await?.create_workspace(request, key).await
    }

    /// Creates a workspace for a caller whose credential somebody else has checked.
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
        let place = self.admission.enter(usize::MAX)?;
        self.admit_caller(caller, place, usize::MAX)?.create_workspace(request, key).await
    }

    /// Finds out who calls, and takes a place for the request where the tenant has fewer than `most` in
    /// progress: everything that a request costs before its body is read. With an idempotency key (`has_key`) the
    /// credential is looked up, whatever auth has cached.
    ///
    /// # Errors
    ///
    /// [`Error::OverShare`] or [`Error::Overloaded`], [`Error::Credential`].
    pub(crate) async fn admit(
        &self,
        credential: &Credential,
        has_key: bool,
        most: usize,
    ) -> Result<Admitted<'_>, Error> {
        let admission = &self.admission;
        // Under overload most requests are refused, and a look-up costs more than everything else they do.
        admission.require_place(most)?;
        let caller = timeout(AUTHENTICATION_TIMEOUT, async {
            let _look_up = admission.look_up(most).await?;
            let caller = match has_key {
                true => self.auth.authenticate_now(credential).await,
                false => self.auth.authenticate(credential).await,
            };
            Ok::<_, Error>(caller?)
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
        Ok(Admitted { workspaces: self, caller, place, most, is_recorded: false })
    }

    /// Has the component create a workspace. With an idempotency key, returns the workspace of an earlier request with
    /// the same key, if there is one.
    async fn create_once(
        &self,
        caller: Caller,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
        is_recorded: bool,
    ) -> Result<Created, Error> {
        let Some(key) = key else {
            return self.runtime.create_workspace(caller, request, None, is_recorded).await;
        };
        let claim = Claim::new(&caller, key, &request);
        let _in_flight = self.in_flight.enter(&claim).ok_or(Error::InFlight)?;
        let most = self.runtime.limits().wall_clock;
        match timeout(most, self.storage.find_claimed(&claim)).await {
            Ok(Ok(Some(workspace))) => Ok(Created { workspace, replayed: true }),
            Ok(Ok(None)) => self.runtime.create_workspace(caller, request, Some(claim), is_recorded).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Claims(format!("no answer within {most:?}"))),
        }
    }

    /// Returns the component that requests get now.
    pub fn component(&self) -> Component {
        self.runtime.component()
    }

    /// Gives requests another component from now on; those in progress finish with theirs. Does so
    /// only after the component has done well on a stage, where nothing is kept, and goes back to the
    /// one before where the new one fails often among its first thousand calls.
    ///
    /// # Errors
    ///
    /// Requirements that the limits do not allow, or what it did wrong on the stage; the component in use stays.
    pub async fn swap(&self, component: Component) -> Result<(), String> {
        self.try_out(&component).await?;
        self.runtime.swap(component);
        Ok(())
    }

    /// Tries the component in use on a stage, where nothing is kept, as [`swap`](Self::swap) tries a new one.
    ///
    /// # Errors
    ///
    /// The fault that it showed, the rule that it broke, or that it created nothing.
    pub async fn rehearse(&self) -> Result<(), String> {
        self.try_out(&self.component()).await
    }

    /// Has a component answer some requests, or all those of the harness where components have to be verified.
    async fn try_out(&self, component: &Component) -> Result<(), String> {
        self.runtime.admit(component).map_err(|error| error.to_string())?;
        #[cfg(feature = "harness")]
        if self.requires_verified {
            return harness::gate(&self.runtime, component).await;
        }
        self.runtime.rehearse(component).await
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
    is_recorded: bool,
}

impl Admitted<'_> {
    /// Has the request recorded whatever its outcome is, where the tenant has a recorder and the client sent its header.
    pub(crate) fn recorded_by(self, has_header: impl Fn(&str) -> bool) -> Self {
        let is_recorded = self.workspaces.record_header.as_deref().is_some_and(has_header);
        Self { is_recorded, ..self }
    }

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
        let Self { workspaces, caller, place, most, is_recorded } = self;
        drop(place);
        let received = work.await;
        let place = workspaces.admission.enter(most)?;
        Ok((Self { workspaces, caller, place, most, is_recorded }, received))
    }

    pub(crate) async fn create_workspace(
        self,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Error> {
        let Self { workspaces, caller, place: _place, is_recorded, .. } = self;
        workspaces.create_once(caller, request, key, is_recorded).await
    }
}
