//! Limits of a sandbox's memory and tables, and the most memory that it has had.

use wasmtime::{ResourceLimiter, StoreLimits};

/// The limits of a store, with the peak of its linear memory.
pub(super) struct Memory {
    limits: StoreLimits,
    /// Largest size of the linear memory so far, in bytes.
    peak: usize,
}

impl Memory {
    pub(super) fn new(limits: StoreLimits) -> Self {
        Self { limits, peak: 0 }
    }

    /// Returns the largest size of the linear memory so far, in bytes.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let is_allowed = self.limits.memory_growing(current, desired, maximum)?;
        if is_allowed {
            self.peak = self.peak.max(desired);
        }
        Ok(is_allowed)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.memory_grow_failed(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, maximum)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}
