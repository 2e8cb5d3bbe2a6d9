//! What one request's sandbox may use.

use std::time::Duration;

/// Limits of each sandbox, and how many there are at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Linear memory, in bytes; a component has one. The default component needs under 2 MiB.
    pub memory: usize,
    /// Elements in all of a table.
    pub table_elements: usize,
    /// Time on the processor, looked at every [`TICK`]; time spent waiting, for the host or for the
    /// processor itself, is not in it.
    pub cpu: Duration,
    /// Time from start to answer, host calls included: the processor's limit never interrupts those.
    pub wall_clock: Duration,
    /// Bytes that one host call may copy out of the sandbox.
    pub hostcall_bytes: usize,
    /// Grants and other handles held at once.
    pub handles: usize,
    /// Sandboxes at once; further requests wait.
    pub concurrency: usize,
    /// Requests that wait for a sandbox at once; further ones are refused without delay.
    pub queue: usize,
    /// How long a request waits for a sandbox before it is refused.
    pub admission_wait: Duration,
}

/// How often the processor's clock ticks.
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
            cpu: 20 * TICK,         // a thousand times what the default component takes
            wall_clock: Duration::from_secs(10),
            hostcall_bytes: 1 << 20, // wasmtime's default lets one call pin 128 MiB of the host
            handles: 16,
            concurrency: 128,
            queue: 128, // as many again: what comes beyond would be late for its client
            admission_wait: Duration::from_secs(1),
        }
    }
}
