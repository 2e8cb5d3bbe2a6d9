//! Builder of [`Workspaces`], and the tenant's share of the host.

use std::{num::NonZeroU32, sync::Arc};

use governor::RateLimiter;

use super::{Admission, InFlight, Workspaces};
use crate::{
    COMPONENT,
    auth::Auth,
    metrics::Metrics,
    runtime::{Component, LoadError, Pool, Recorder, Runtime, SandboxLimits, Sandboxes},
    storage::Storage,
};

/// A tenant's share of the host, beside the [`SandboxLimits`] of each of its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantShare {
    /// Maximum number of requests in progress at once, from before the credential is looked up to the
    /// answer, without the time that the client takes to send the body. Further requests are refused with
    /// [`Error::OverShare`](crate::Error::OverShare). A tenant that competes with others gets fewer, see
    /// [`Pool::queue`].
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

impl TenantShare {
    /// Returns the limits as numbers, under the names that metrics give them.
    fn numbers(&self) -> [(&'static str, Option<u64>); 3] {
        [
            ("requests_at_once", Some(self.concurrency as u64)),
            ("sandboxes_at_once", Some(self.running as u64)),
            ("requests_per_second", self.rate.map(|rate| rate.per_second.get().into())),
        ]
    }
}

impl Default for TenantShare {
    /// Returns the whole capacity of the host.
    fn default() -> Self {
        Self { concurrency: usize::MAX, running: usize::MAX, rate: None }
    }
}

/// Builder of [`Workspaces`].
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{num::NonZeroU32, sync::Arc};
/// use workspaces_host::{
///     Rate, TenantShare, Workspaces,
///     auth::api_key::ApiKeys,
///     metrics::Metrics,
///     runtime::{SandboxLimits, Pool, Sandboxes},
///     storage::sqlite::Sqlite,
/// };
///
/// // Shared by all tenants of the process.
/// let (sandboxes, metrics) = (Sandboxes::new(Pool::default())?, Metrics::default());
///
/// let database = Arc::new(Sqlite::open("acme.db".as_ref())?);
/// let auth = Arc::new(ApiKeys::new(database.clone(), b"a pepper of 16 bytes at least", None));
/// let hundred = NonZeroU32::new(100).ok_or("zero")?;
/// let acme = Workspaces::builder(database, auth)
///     .sandboxes(sandboxes.clone())
///     .metrics(metrics.clone(), "acme")
///     .limits(SandboxLimits { memory: 4 << 20, ..SandboxLimits::default() })
///     .share(TenantShare { rate: Some(Rate { per_second: hundred, burst: hundred }), ..TenantShare::default() })
///     .build()?;
///
/// sandboxes.report(&metrics);
/// println!("{}", metrics.text());
/// # Ok(()) }
/// ```
#[must_use]
pub struct Builder {
    storage: Arc<dyn Storage>,
    auth: Arc<dyn Auth>,
    component: Source,
    limits: SandboxLimits,
    share: TenantShare,
    sandboxes: Option<Sandboxes>,
    metrics: Metrics,
    name: String,
    recorder: Option<Recorder>,
    #[cfg(feature = "harness")]
    requires_verified: bool,
}

/// Component of a builder.
enum Source {
    BuiltIn,
    Bytes(Vec<u8>),
    Loaded(Component),
}

impl Builder {
    /// Returns a builder with the built-in component and the default limits.
    pub(super) fn new(storage: Arc<dyn Storage>, auth: Arc<dyn Auth>) -> Self {
        Self {
            storage,
            auth,
            component: Source::BuiltIn,
            limits: SandboxLimits::default(),
            share: TenantShare::default(),
            sandboxes: None,
            metrics: Metrics::default(),
            name: "default".into(),
            recorder: None,
            #[cfg(feature = "harness")]
            requires_verified: false,
        }
    }

    /// Sets a component in place of the built-in one, as WebAssembly.
    pub fn component(mut self, wasm: impl Into<Vec<u8>>) -> Self {
        self.component = Source::Bytes(wasm.into());
        self
    }

    /// Sets a component that the [sandboxes](Self::sandboxes) have loaded.
    pub fn loaded_component(mut self, component: Component) -> Self {
        self.component = Source::Loaded(component);
        self
    }

    /// Sets the limits of each sandbox.
    pub fn limits(mut self, limits: SandboxLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the tenant's share of the host.
    pub fn share(mut self, share: TenantShare) -> Self {
        self.share = share;
        self
    }

    /// Sandboxes that are shared with others; by default those of a [`Pool`] of its own.
    pub fn sandboxes(mut self, sandboxes: Sandboxes) -> Self {
        self.sandboxes = Some(sandboxes);
        self
    }

    /// Sets the metrics, and the name of the tenant in them.
    pub fn metrics(mut self, metrics: Metrics, tenant: impl Into<String>) -> Self {
        (self.metrics, self.name) = (metrics, tenant.into());
        self
    }

    /// Sets the recorder of requests.
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Has the [harness](crate::harness) judge a component before it serves, by [`Workspaces::rehearse`] and
    /// [`Workspaces::swap`]: its cases of the contract, and the fault matrix.
    #[cfg(feature = "harness")]
    pub fn require_verified(mut self, is_required: bool) -> Self {
        self.requires_verified = is_required;
        self
    }

    /// Compiles the component where it is not loaded, and checks it against the contract.
    ///
    /// # Errors
    ///
    /// A [`LoadError`] that says what is wrong with it.
    pub fn build(self) -> Result<Workspaces, LoadError> {
        #[cfg(feature = "harness")]
        let requires_verified = self.requires_verified;
        let Self { storage, auth, component, limits, share, sandboxes, metrics, name, recorder, .. } = self;
        let sandboxes = match sandboxes {
            Some(sandboxes) => sandboxes,
            None => Sandboxes::new(Pool::of(&limits))?,
        };
        let component = match component {
            Source::BuiltIn => sandboxes.compile(COMPONENT)?,
            Source::Bytes(wasm) => sandboxes.compile(&wasm)?,
            Source::Loaded(component) => component,
        };
        let meter = metrics.meter(&name);
        let of_sandboxes = limits.numbers().map(|(name, value)| (name, Some(value)));
        meter.set_limits(of_sandboxes.into_iter().chain(share.numbers()));
        let record_header = recorder.as_ref().and_then(Recorder::header_name).map(str::to_owned);
        let rate = share
            .rate
            .map(|rate| RateLimiter::direct(governor::Quota::per_second(rate.per_second).allow_burst(rate.burst)));
        let capacity = sandboxes.tenant_capacity(share.concurrency, share.running);
        let admission = Admission::new(capacity.clone());
        let runtime =
            Runtime::new(capacity, component, limits, auth.clone(), storage.clone(), meter.clone(), recorder)?;
        Ok(Workspaces {
            auth,
            storage,
            admission,
            in_flight: InFlight::default(),
            runtime,
            rate,
            record_header,
            #[cfg(feature = "harness")]
            requires_verified,
            meter,
        })
    }
}
