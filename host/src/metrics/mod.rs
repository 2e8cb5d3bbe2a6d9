//! Metrics for Prometheus. They know numbers and labels, and nothing of what is counted.

#[cfg(all(feature = "cli", target_os = "linux"))]
mod process;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
/// Counters and gauges of a host. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

type OfTenant = [(&'static str, String); 1];
type OfTenantAnd = [(&'static str, String); 2];

struct Counters {
    registry: Registry,
    /// Tenants that count.
    tenants: Mutex<HashMap<String, Arc<Counted>>>,
    up: Family<OfTenant, Gauge>,
    requests: Family<OfTenantAnd, Counter>,
    latency: Family<OfTenant, Histogram, fn() -> Histogram>,
    sandbox: Family<OfTenant, Counter<f64, AtomicU64>>,
    faults: Family<OfTenantAnd, Counter>,
    rollbacks: Family<OfTenant, Counter>,
    limits: Family<OfTenantAnd, Gauge>,
    running: Gauge,
    waiting: Gauge,
    components: Gauge,
    component_bytes: Gauge,
    pool: Family<[(&'static str, &'static str); 1], Gauge>,
    log_lines_dropped: Counter,
}

/// Series that a tenant has, until it is removed: a request in progress then counts no more.
#[derive(Default)]
struct Counted {
    is_forgotten: AtomicBool,
    /// Kinds of faults that it had.
    faults: Mutex<BTreeSet<&'static str>>,
    /// Names of its limits.
    limits: Mutex<BTreeSet<&'static str>>,
}

/// Smallest number that stands for no limit. `usize::MAX` is one, and so is a semaphore's maximum of permits.
const UNLIMITED: u64 = 1 << 60;

/// Returns a histogram of latencies, with bounds in seconds from an answer at rest to a client's patience.
fn latency() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        #[cfg(all(feature = "cli", target_os = "linux"))]
        all.register_collector(Box::new(process::ProcessCollector));
        let registry = all.sub_registry_with_prefix("workspaces");
        let mut counters = Counters {
            registry: Registry::default(),
            tenants: Mutex::default(),
            up: Family::default(),
            requests: Family::default(),
            latency: Family::new_with_constructor(latency),
            sandbox: Family::default(),
            faults: Family::default(),
            rollbacks: Family::default(),
            limits: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            components: Gauge::default(),
            component_bytes: Gauge::default(),
            pool: Family::default(),
            log_lines_dropped: Counter::default(),
        };
        registry.register("tenant_up", "1 for a tenant that is served, 0 for one that is not", counters.up.clone());
        registry.register("requests", "Requests answered, by tenant and status", counters.requests.clone());
        registry.register_with_unit("latency", "From head to answer", Unit::Seconds, counters.latency.clone());
        registry.register_with_unit("sandbox", "Processor time in sandboxes", Unit::Seconds, counters.sandbox.clone());
        registry.register("faults", "Faults of components, by kind", counters.faults.clone());
        registry.register("rollbacks", "New components that were taken back", counters.rollbacks.clone());
        registry.register("limit", "A tenant's limits, in the unit of their name", counters.limits.clone());
        registry.register("sandboxes_running", "Sandboxes that run", counters.running.clone());
        registry.register(
            "sandboxes_waiting",
            "Requests in progress that do not run: they wait for a sandbox, or for the host",
            counters.waiting.clone(),
        );
        registry.register("components", "Components loaded, the same bytes counted once", counters.components.clone());
        registry.register("components_bytes", "Compiled code and data in memory", counters.component_bytes.clone());
        registry.register("pool", "The limits of all sandboxes together", counters.pool.clone());
        let dropped = counters.log_lines_dropped.clone();
        registry.register("log_lines_dropped", "Log lines that nobody read in time", dropped);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the host", build);
        counters.registry = all;
        Self(Arc::new(counters))
    }
}

impl Metrics {
    /// Returns all metrics in the text format of OpenMetrics 1.0, which Prometheus reads. The gauges of the sandboxes have
    /// the values of the last [`Sandboxes::report`](crate::runtime::Sandboxes::report).
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    /// Sets the gauges of the sandboxes: how many run and wait, how many components are loaded, and their bytes.
    pub(crate) fn set_usage(&self, running: usize, waiting: usize, components: usize, component_bytes: usize) {
        let Counters { running: runs, waiting: waits, components: loaded, component_bytes: bytes, .. } = &*self.0;
        for (gauge, value) in [(runs, running), (waits, waiting), (loaded, components), (bytes, component_bytes)] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Sets the limits of all sandboxes together. One that stands for no limit has no series.
    pub(crate) fn set_pool(&self, limits: impl IntoIterator<Item = (&'static str, u64)>) {
        for (name, value) in limits {
            set_limit(&self.0.pool, &[("limit", name)], Some(value));
        }
    }

    /// Shows whether a tenant is served.
    #[cfg(feature = "cli")]
    pub(crate) fn set_up(&self, tenant: &str, is_up: bool) {
        self.0.up.get_or_create(&[("tenant", tenant.to_owned())]).set(is_up.into());
    }

    /// Removes all that counts for a tenant that is no longer there.
    #[cfg(feature = "cli")]
    pub(crate) fn forget(&self, tenant: &str) {
        let Counters { up, requests, latency, sandbox, faults, rollbacks, limits, tenants, .. } = &*self.0;
        let counted = locked(tenants).remove(tenant).unwrap_or_default();
        counted.is_forgotten.store(true, Relaxed);
        let of_tenant = [("tenant", tenant.to_owned())];
        let and = |label: &'static str, value: String| [("tenant", tenant.to_owned()), (label, value)];
        up.remove(&of_tenant);
        latency.remove(&of_tenant);
        sandbox.remove(&of_tenant);
        rollbacks.remove(&of_tenant);
        for status in 100..600 {
            requests.remove(&and("status", status.to_string()));
        }
        for kind in &*locked(&counted.faults) {
            faults.remove(&and("kind", (*kind).to_owned()));
        }
        for limit in &*locked(&counted.limits) {
            limits.remove(&and("limit", (*limit).to_owned()));
        }
    }

    /// Returns the counter of log lines that nobody read in time.
    #[cfg(feature = "cli")]
    pub(crate) fn log_lines_dropped(&self) -> Counter {
        self.0.log_lines_dropped.clone()
    }

    /// Returns the counters of one tenant.
    pub(crate) fn meter(&self, tenant: &str) -> Meter {
        let counted = locked(&self.0.tenants).entry(tenant.to_owned()).or_default().clone();
        let of_tenant = [("tenant", tenant.to_owned())];
        let Counters { latency, sandbox, rollbacks, .. } = &*self.0;
        Meter {
            latency: latency.get_or_create(&of_tenant).clone(),
            sandbox: sandbox.get_or_create(&of_tenant).clone(),
            rollbacks: rollbacks.get_or_create(&of_tenant).clone(),
            metrics: self.clone(),
            tenant: tenant.into(),
            counted,
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The counters of one tenant.
#[derive(Clone)]
pub(crate) struct Meter {
    metrics: Metrics,
    tenant: String,
    counted: Arc<Counted>,
    latency: Histogram,
    sandbox: Counter<f64, AtomicU64>,
    rollbacks: Counter,
}

impl Meter {
    /// Counts an answer to a request, and its time since the head.
    pub(crate) fn answered(&self, status: u16, latency: Duration) {
        if !self.counted.is_forgotten.load(Relaxed) {
            self.metrics.0.requests.get_or_create(&self.and("status", status.to_string())).inc();
        }
        self.latency.observe(latency.as_secs_f64());
    }

    /// Adds the time that a sandbox was on the processor.
    pub(crate) fn ran(&self, time: Duration) {
        self.sandbox.inc_by(time.as_secs_f64());
    }

    /// Counts a fault of the component.
    pub(crate) fn faulted(&self, kind: &'static str) {
        if !self.counted.is_forgotten.load(Relaxed) {
            locked(&self.counted.faults).insert(kind);
            self.metrics.0.faults.get_or_create(&self.and("kind", kind.to_owned())).inc();
        }
    }

    /// Counts a rollback to the previous component.
    pub(crate) fn rolled_back(&self) {
        self.rollbacks.inc();
    }

    /// Sets the tenant's limits. One that is absent, or stands for no limit, has no series.
    pub(crate) fn set_limits(&self, limits: impl IntoIterator<Item = (&'static str, Option<u64>)>) {
        for (name, value) in limits {
            locked(&self.counted.limits).insert(name);
            set_limit(&self.metrics.0.limits, &self.and("limit", name.to_owned()), value);
        }
    }

    fn and(&self, label: &'static str, value: String) -> OfTenantAnd {
        [("tenant", self.tenant.clone()), (label, value)]
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets a gauge, or removes its series where the value stands for no limit.
fn set_limit<L>(family: &Family<L, Gauge>, labels: &L, value: Option<u64>)
where
    L: Clone + Eq + std::hash::Hash,
{
    match value.filter(|value| *value < UNLIMITED).and_then(|value| i64::try_from(value).ok()) {
        Some(value) => _ = family.get_or_create(labels).set(value),
        None => _ = family.remove(labels),
    }
}
