//! What one request's sandbox may use, and how many sandboxes the host has.

use std::{
    num::{NonZero, NonZeroU32},
    thread::available_parallelism,
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{LoadError, admission::REHEARSALS};

/// Limits of each sandbox of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory, in bytes; a component has one. The default component needs under 2 MiB.
    pub memory: usize,
    /// Elements in each table.
    pub table_elements: usize,
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
}

impl Limits {
    /// Whether sandboxes of a pool can be held to them.
    ///
    /// # Errors
    ///
    /// [`LoadError::Limits`] naming the one that is over the pool's.
    pub(crate) fn fit(&self, pool: &Pool) -> Result<(), LoadError> {
        for (name, own, most) in
            [("memory", self.memory, pool.memory), ("table elements", self.table_elements, pool.table_elements)]
        {
            if own > most {
                return Err(LoadError::Limits(format!("{name}, {own}, where the pool has {most}")));
            }
        }
        Ok(())
    }
}

/// How often the processor's clock ticks, and so the longest that a component keeps its thread from
/// the others at a time.
pub const TICK: Duration = Duration::from_millis(1);

/// Core instances, memories and tables of one component: room for what toolchains emit beside the
/// guest itself (adapters, shims).
pub(super) const CORE_INSTANCES: u32 = 8;
pub(super) const MEMORIES: u32 = 1;
pub(super) const TABLES: u32 = 4;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 16 << 20,       // a hundred times what a small guest needs
            table_elements: 10_000, // a guest's function table has tens
            cpu: 10 * TICK,         // five hundred times what the default component takes
            wall_clock: Duration::from_secs(10),
            host_calls: 64,          // the default component makes four
            hostcall_bytes: 1 << 20, // wasmtime's default lets one call pin 128 MiB of the host
            handles: 16,
            faults_logged: NonZeroU32::MIN.saturating_add(9), // ten
        }
    }
}

/// The sandboxes that all components of a host share.
///
/// Each request in progress can have a sandbox, so that the memory of all of them together is at most
/// `concurrency + queue` times [`Limits::memory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Maximum number of sandboxes that run at once. A sandbox that waits for its host does not run. By
    /// default 16 a processor.
    pub concurrency: usize,
    /// Maximum number of further requests in progress, which wait for a sandbox or for the host; requests
    /// beyond are refused without delay. By default 48 a processor: what comes beyond would be late for its
    /// client. A tenant that competes with others holds no more places than it leaves free, so that overloaded
    /// tenants settle at equal parts and a tenant without a request in progress finds a place.
    pub queue: usize,
    /// Maximum time that a request waits for a sandbox before it is refused.
    pub admission_wait: Duration,
    /// The most that [`Limits::memory`] may be, in bytes.
    pub memory: usize,
    /// The most that [`Limits::table_elements`] may be.
    pub table_elements: usize,
    /// Largest component file, in bytes.
    pub component_size: usize,
    /// Largest compiled component, in bytes: machine code, tables and data, kept in memory as long as the
    /// component is loaded.
    pub compiled_size: usize,
}

impl Pool {
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
    /// Returns how many requests may be in progress at once.
    pub(crate) fn places(&self) -> usize {
        self.concurrency.saturating_add(self.queue).min(Semaphore::MAX_PERMITS)
    }

    /// Returns how many sandboxes can exist at once: one for each request in progress, and those of
    /// rehearsals.
    pub(super) fn slots(&self) -> usize {
        self.places().saturating_add(REHEARSALS)
    }
}

impl Default for Pool {
    fn default() -> Self {
        let Limits { memory, table_elements, .. } = Limits::default();
        let processors = available_parallelism().map_or(1, NonZero::get);
        Self {
            concurrency: 16 * processors,
            queue: 48 * processors,
            admission_wait: Duration::from_secs(1),
            memory,
            table_elements,
            component_size: 16 << 20, // eight hundred times the default component
            compiled_size: 64 << 20,  // machine code takes three to four times the bytes of WebAssembly
        }
    }
}
