//! What a host counts, for Prometheus.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::runtime::{Limits, Pool, Usage};

/// The counters of a host. Clones are the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

type OfTenant = [(&'static str, String); 1];
type OfTenantAnd = [(&'static str, String); 2];

struct Counters {
    registry: Registry,
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
}

/// The histogram's bounds, in seconds: from what an answer takes at rest to what a client waits.
fn latency() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("workspaces");
        let mut counters = Counters {
            registry: Registry::default(),
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
        };
        registry.register("requests", "Requests answered, by tenant and status", counters.requests.clone());
        registry.register_with_unit("latency", "From head to answer", Unit::Seconds, counters.latency.clone());
        registry.register_with_unit("sandbox", "Processor time in sandboxes", Unit::Seconds, counters.sandbox.clone());
        registry.register("faults", "Faults of components, by kind", counters.faults.clone());
        registry.register("rollbacks", "New components that were taken back", counters.rollbacks.clone());
        registry.register("limit", "A tenant's limits, in the unit of their name", counters.limits.clone());
        registry.register("sandboxes_running", "Sandboxes in use", counters.running.clone());
        registry.register("sandboxes_waiting", "Requests that wait for a sandbox", counters.waiting.clone());
        registry.register("components", "Components loaded, the same bytes counted once", counters.components.clone());
        registry.register("components_bytes", "Compiled code and data in memory", counters.component_bytes.clone());
        registry.register("pool", "The limits of all sandboxes together", counters.pool.clone());
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

    /// What counts for one tenant.
    pub(crate) fn meter(&self, tenant: &str) -> Meter {
        let of_tenant = [("tenant", tenant.to_owned())];
        let Counters { latency, sandbox, rollbacks, .. } = &*self.0;
        Meter {
            latency: latency.get_or_create(&of_tenant).clone(),
            sandbox: sandbox.get_or_create(&of_tenant).clone(),
            rollbacks: rollbacks.get_or_create(&of_tenant).clone(),
            metrics: self.clone(),
            tenant: tenant.into(),
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
    latency: Histogram,
    sandbox: Counter<f64, AtomicU64>,
    rollbacks: Counter,
}

impl Meter {
    /// A request got its answer.
    pub(crate) fn answered(&self, status: u16, latency: Duration) {
        self.metrics.0.requests.get_or_create(&self.and("status", status.to_string())).inc();
        self.latency.observe(latency.as_secs_f64());
    }

    /// A sandbox was on the processor for so long.
    pub(crate) fn ran(&self, time: Duration) {
        self.sandbox.inc_by(time.as_secs_f64());
    }

    /// The component failed.
    pub(crate) fn faulted(&self, kind: &'static str) {
        self.metrics.0.faults.get_or_create(&self.and("kind", kind.to_owned())).inc();
    }

    /// A new component was taken back.
    pub(crate) fn rolled_back(&self) {
        self.rollbacks.inc();
    }

    /// Shows what the tenant is held to.
    pub(crate) fn limited(&self, limits: &Limits, concurrency: usize, rate: Option<u32>) {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        for (name, value) in [
            ("memory_bytes", signed(limits.memory)),
            ("table_elements", signed(limits.table_elements)),
            ("cpu_milliseconds", millis(limits.cpu)),
            ("wall_clock_milliseconds", millis(limits.wall_clock)),
            ("host_calls", limits.host_calls.into()),
            ("hostcall_bytes", signed(limits.hostcall_bytes)),
            ("handles", signed(limits.handles)),
            ("faults_logged_per_second", limits.faults_logged.get().into()),
            ("requests_at_once", signed(concurrency)),
            ("requests_per_second", rate.map_or(i64::MAX, i64::from)),
        ] {
            self.metrics.0.limits.get_or_create(&self.and("limit", name.to_owned())).set(value);
        }
    }

    fn and(&self, label: &'static str, value: String) -> OfTenantAnd {
        [("tenant", self.tenant.clone()), (label, value)]
    }
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
