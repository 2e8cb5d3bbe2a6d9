//! Limits of one request's sandbox, and of all sandboxes of the host together.

use std::{
    num::{NonZero, NonZeroU32},
    thread::available_parallelism,
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{LoadError, capacity::REHEARSALS};

/// Limits of each sandbox of a component.
///
/// ```
/// use std::time::Duration;
/// use workspaces_host::runtime::SandboxLimits;
///
/// let strict = SandboxLimits { memory: 4 << 20, wall_clock: Duration::from_secs(2), ..SandboxLimits::default() };
/// assert_eq!(strict.host_calls, 64);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxLimits {
    /// Bytes of all linear memories together. The default component needs under 2 MiB.
    pub memory: usize,
    /// Number of linear memories. A component has one; one that is composed of several has one for each of them.
    pub memories: u32,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// Number of tables.
    pub tables: u32,
    /// Number of core instances: modules that an instance of the component consists of.
    pub core_instances: u32,
    /// Time on the processor, the host's work in the component's calls included, looked at every
    /// [`TICK`]; time spent waiting, for the host or for the processor itself, is not in it.
    pub cpu: Duration,
    /// Time from start to answer, host calls included: the processor's limit never interrupts those.
    pub wall_clock: Duration,
    /// Calls to the host.
    pub host_calls: u32,
    /// Bytes that one host call may copy out of the sandbox.
    pub hostcall_bytes: usize,
    /// Grants and other handles held at once.
    pub handles: usize,
    /// Faults of the component that are logged, a second; all are counted.
    pub faults_logged: NonZeroU32,
    /// Maximum number of requests that an instance answers, one after the other. By default one: each request gets a
    /// fresh instance, and no request finds what another one left.
    ///
    /// More of them cost less, and one request of the tenant can then change what the component does with its next
    /// ones: what a fault or an attack leaves in its memory stays there. An instance is never shared with another
    /// tenant, never used after a trap, and never used while it holds a grant.
    pub requests_per_instance: NonZeroU32,
    /// WASI that a component may import.
    pub wasi: Wasi,
}

/// WASI that a component may import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Wasi {
    /// No WASI: a component that imports it is refused.
    #[default]
    None,
    /// Imports that are there and give nothing: no environment, no arguments, no folders, an empty input. What the component
    /// writes to its output is logged, the first [`MAX_WRITTEN`] bytes of each call. A call of all else (clocks, random
    /// numbers, files, sockets, exit) is a trap.
    Deny,
}

/// Bytes of a component's output that are kept, of each call.
pub const MAX_WRITTEN: usize = 2 << 10;

impl SandboxLimits {
    /// Returns the limits as numbers, under the names that metrics give them.
    pub(crate) fn numbers(&self) -> [(&'static str, u64); 12] {
        [
            ("memory_bytes", self.memory as u64),
            ("memories", self.memories.into()),
            ("table_elements", self.table_elements as u64),
            ("tables", self.tables.into()),
            ("core_instances", self.core_instances.into()),
            ("cpu_milliseconds", milliseconds(self.cpu)),
            ("wall_clock_milliseconds", milliseconds(self.wall_clock)),
            ("host_calls", self.host_calls.into()),
            ("hostcall_bytes", self.hostcall_bytes as u64),
            ("handles", self.handles as u64),
            ("faults_logged_per_second", self.faults_logged.get().into()),
            ("requests_per_instance", self.requests_per_instance.get().into()),
        ]
    }

    /// Checks that sandboxes of a pool can be held to the limits.
    ///
    /// # Errors
    ///
    /// [`LoadError::Limits`] naming the one that is over the pool's.
    pub(crate) fn fit(&self, pool: &Pool) -> Result<(), LoadError> {
        for (name, own, most) in [
            ("memory", self.memory, pool.memory),
            ("memories", self.memories as usize, pool.memories as usize),
            ("table elements", self.table_elements, pool.table_elements),
            ("tables", self.tables as usize, pool.tables as usize),
            ("core instances", self.core_instances as usize, pool.core_instances as usize),
        ] {
            if own > most {
                return Err(LoadError::Limits(format!("{name}, {own}, where the pool has {most}")));
            }
        }
        Ok(())
    }
}

/// Period of the processor's clock. A component keeps its thread from the others for two of them at most.
pub const TICK: Duration = Duration::from_millis(1);

impl Default for SandboxLimits {
    fn default() -> Self {
        Self {
            memory: 16 << 20,       // a hundred times what a small guest needs
            memories: 4,            // three components composed, and a library of theirs
            table_elements: 10_000, // a guest's function table has tens
            tables: 8,              // two for each memory: functions, and what toolchains add
            core_instances: 16, // toolchains add two or three to each module, the engine one for each two components
            cpu: 10 * TICK,     // five hundred times what the default component takes
            wall_clock: Duration::from_secs(10),
            host_calls: 64,          // the default component makes four
            hostcall_bytes: 1 << 20, // wasmtime's default lets one call pin 128 MiB of the host
            handles: 16,
            faults_logged: NonZeroU32::MIN.saturating_add(9), // ten
            requests_per_instance: NonZeroU32::MIN,
            wasi: Wasi::None,
        }
    }
}

/// The sandboxes that all components of a host share.
///
/// A request that waits, for its turn or for the host, has no sandbox. The memory of all sandboxes together is at most
/// `concurrency + slow` times [`SandboxLimits::memory`], and another `concurrency` times where instances are kept for
/// [further requests](SandboxLimits::requests_per_instance).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Maximum number of sandboxes that run at once. By default 16 a processor.
    pub concurrency: usize,
    /// Maximum number of sandboxes that have run for longer than a [`TICK`] and take turns. By default 48 a processor. A
    /// tenant that competes with others has no more of them than it leaves free; its further ones are ended with
    /// [`Error::Overloaded`](crate::Error::Overloaded).
    pub slow: usize,
    /// Maximum number of further requests in progress, which wait for a sandbox or for the host; requests
    /// beyond are refused without delay. By default 1024 a processor: it bounds memory, while
    /// [`target_delay`](Self::target_delay) bounds the wait. A tenant that competes with others holds no more places
    /// than it leaves free, so that overloaded tenants settle at equal parts and a tenant without a request in progress
    /// finds a place.
    pub queue: usize,
    /// Longest time that a request should wait for a sandbox. One that would wait for longer, by the time that the
    /// tenant's requests before it waited, is refused without delay. By default 250 ms.
    pub target_delay: Duration,
    /// Maximum time that a request waits for a sandbox before it is refused.
    pub admission_wait: Duration,
    /// The most that [`SandboxLimits::memory`] may be, in bytes.
    pub memory: usize,
    /// The most that [`SandboxLimits::memories`] may be. Each takes 4 GiB of address space a sandbox, which is reserved and
    /// not used.
    pub memories: u32,
    /// The most that [`SandboxLimits::table_elements`] may be.
    pub table_elements: usize,
    /// The most that [`SandboxLimits::tables`] may be.
    pub tables: u32,
    /// The most that [`SandboxLimits::core_instances`] may be.
    pub core_instances: u32,
    /// Largest component file, in bytes.
    pub component_size: usize,
    /// Largest compiled component, in bytes: machine code, tables and data, kept in memory as long as the
    /// component is loaded.
    pub compiled_size: usize,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Pool {
    /// Returns the limits as numbers, under the names that metrics give them.
    pub(super) fn numbers(&self) -> [(&'static str, u64); 7] {
        [
            ("sandboxes", self.concurrency as u64),
            ("slow_sandboxes", self.slow as u64),
            ("queue", self.queue as u64),
            ("target_delay_milliseconds", milliseconds(self.target_delay)),
            ("memory_bytes", self.memory as u64),
            ("component_size_bytes", self.component_size as u64),
            ("compiled_size_bytes", self.compiled_size as u64),
        ]
    }

    /// Checks the size of a component file.
    ///
    /// # Errors
    ///
    /// [`LoadError::TooLarge`] over [`Pool::component_size`].
    pub(super) fn fits_component(&self, size: usize) -> Result<(), LoadError> {
        fits("component-size", size, self.component_size)
    }

    /// Checks the size of a compiled component.
    ///
    /// # Errors
    ///
    /// [`LoadError::TooLarge`] over [`Pool::compiled_size`].
    pub(super) fn fits_compiled(&self, size: usize) -> Result<(), LoadError> {
        fits("compiled-size", size, self.compiled_size)
    }
}

fn fits(name: &'static str, size: usize, limit: usize) -> Result<(), LoadError> {
    if size > limit { Err(LoadError::TooLarge { name, size, limit }) } else { Ok(()) }
}

impl Pool {
    /// Returns the default with sandboxes that can be as large as these limits say.
    pub fn of(limits: &SandboxLimits) -> Self {
        let SandboxLimits { memory, memories, table_elements, tables, core_instances, .. } = *limits;
        Self { memory, memories, table_elements, tables, core_instances, ..Self::default() }
    }

    /// Returns the largest limits that sandboxes can have.
    pub(super) fn largest(&self) -> SandboxLimits {
        let Self { memory, memories, table_elements, tables, core_instances, .. } = *self;
        SandboxLimits {
            memory,
            memories,
            table_elements,
            tables,
            core_instances,
            wasi: Wasi::Deny,
            ..SandboxLimits::default()
        }
    }

    /// Returns how many requests may be in progress at once.
    pub(crate) fn places(&self) -> usize {
        self.concurrency.saturating_add(self.queue).min(Semaphore::MAX_PERMITS)
    }

    /// Returns how many sandboxes can exist at once: those that run, those that take long, those that wait for another
    /// request, and those of rehearsals.
    pub(super) fn slots(&self) -> usize {
        self.concurrency.max(1).saturating_add(self.slow).saturating_add(self.idle()).saturating_add(REHEARSALS)
    }

    /// Returns how many instances are kept for further requests.
    pub(super) fn idle(&self) -> usize {
        self.concurrency.max(1)
    }
}

/// Maximum number of processors for which the pool's defaults have room. Each sandbox has 4 GiB of address space for each of its
/// memories; those of 64 processors take 80 TiB of the 128 TiB that a process has.
const PROCESSORS: usize = 64;

impl Default for Pool {
    fn default() -> Self {
        let SandboxLimits { memory, memories, table_elements, tables, core_instances, .. } = SandboxLimits::default();
        let processors = available_parallelism().map_or(1, NonZero::get).min(PROCESSORS);
        Self {
            concurrency: 16 * processors,
            slow: 48 * processors,
            queue: 1024 * processors,
            target_delay: Duration::from_millis(250),
            admission_wait: Duration::from_secs(1),
            memory,
            memories,
            table_elements,
            tables,
            core_instances,
            component_size: 16 << 20, // eight hundred times the default component
            compiled_size: 64 << 20,  // machine code takes three to four times the bytes of WebAssembly
        }
    }
}
