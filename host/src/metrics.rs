//! What a host counts, for Prometheus.

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
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::sync::Semaphore;

use crate::{
    Share,
    runtime::{Limits, Pool, Usage},
};

/// The counters of a host. Clones are the same ones.
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

/// A tenant that counts, until it is forgotten: a request in progress then counts no more.
#[derive(Default)]
struct Counted {
    is_forgotten: AtomicBool,
    /// Kinds of faults that it had.
    faults: Mutex<BTreeSet<&'static str>>,
}

/// Names of a tenant's limits, in the order in which [`Meter::limited`] has their values.
const LIMITS: [&str; 11] = [
    "memory_bytes",
    "table_elements",
    "cpu_milliseconds",
    "wall_clock_milliseconds",
    "host_calls",
    "hostcall_bytes",
    "handles",
    "faults_logged_per_second",
    "requests_at_once",
    "sandboxes_at_once",
    "requests_per_second",
];

/// The histogram's bounds, in seconds: from what an answer takes at rest to what a client waits.
fn latency() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("workspaces");
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
        counters.registry = registry;
        Self(Arc::new(counters))
    }
}

impl Metrics {
    /// All of it in the text format of OpenMetrics 1.0, which Prometheus reads.
    pub fn text(&self, pool: &Pool, usage: Usage) -> String {
        let Counters { running, waiting, components, component_bytes, pool: limits, registry, .. } = &*self.0;
        for (gauge, value) in [
            (running, usage.running),
            (waiting, usage.waiting),
            (components, usage.components),
            (component_bytes, usage.component_bytes),
        ] {
            gauge.set(signed(value));
        }
        for (name, value) in [
            ("sandboxes", pool.concurrency),
            ("queue", pool.queue),
            ("memory_bytes", pool.memory),
            ("component_size_bytes", pool.component_size),
            ("compiled_size_bytes", pool.compiled_size),
        ] {
            limits.get_or_create(&[("limit", name)]).set(signed(value));
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, registry);
        text
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
        for limit in LIMITS {
            limits.remove(&and("limit", limit.to_owned()));
        }
    }

    /// Returns the counter of log lines that nobody read in time.
    #[cfg(feature = "cli")]
    pub(crate) fn log_lines_dropped(&self) -> Counter {
        self.0.log_lines_dropped.clone()
    }

    /// What counts for one tenant.
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
    /// A request got its answer.
    pub(crate) fn answered(&self, status: u16, latency: Duration) {
        if !self.counted.is_forgotten.load(Relaxed) {
            self.metrics.0.requests.get_or_create(&self.and("status", status.to_string())).inc();
        }
        self.latency.observe(latency.as_secs_f64());
    }

    /// A sandbox was on the processor for so long.
    pub(crate) fn ran(&self, time: Duration) {
        self.sandbox.inc_by(time.as_secs_f64());
    }

    /// The component failed.
    pub(crate) fn faulted(&self, kind: &'static str) {
        if !self.counted.is_forgotten.load(Relaxed) {
            locked(&self.counted.faults).insert(kind);
            self.metrics.0.faults.get_or_create(&self.and("kind", kind.to_owned())).inc();
        }
    }

    /// A new component was taken back.
    pub(crate) fn rolled_back(&self) {
        self.rollbacks.inc();
    }

    /// Shows what the tenant is held to; what is not limited is not shown.
    pub(crate) fn limited(&self, limits: &Limits, share: &Share) {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let values = [
            Some(signed(limits.memory)),
            Some(signed(limits.table_elements)),
            Some(millis(limits.cpu)),
            Some(millis(limits.wall_clock)),
            Some(limits.host_calls.into()),
            Some(signed(limits.hostcall_bytes)),
            Some(signed(limits.handles)),
            Some(limits.faults_logged.get().into()),
            (share.concurrency < Semaphore::MAX_PERMITS).then(|| signed(share.concurrency)),
            (share.running < Semaphore::MAX_PERMITS).then(|| signed(share.running)),
            share.rate.map(|rate| rate.per_second.get().into()),
        ];
        for (name, value) in LIMITS.into_iter().zip(values) {
            let (family, labels) = (&self.metrics.0.limits, self.and("limit", name.to_owned()));
            match value {
                Some(value) => _ = family.get_or_create(&labels).set(value),
                None => _ = family.remove(&labels),
            }
        }
    }

    fn and(&self, label: &'static str, value: String) -> OfTenantAnd {
        [("tenant", self.tenant.clone()), (label, value)]
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
