//! Limits of a sandbox's memories and tables, and the most memory that it has had.

use wasmtime::ResourceLimiter;

use super::SandboxLimits;

/// Limits of a store, with the use of all its memories and all its tables together.
///
/// A growth that the limiter allows and that fails all the same stays counted: the engine does not tell it from others.
/// Only a system without memory fails like that.
pub(super) struct Memory {
    limits: SandboxLimits,
    /// Bytes of all linear memories.
    bytes: usize,
    /// The most that they have been.
    peak: usize,
    /// Elements of all tables.
    elements: usize,
}

impl Memory {
    pub(super) fn new(limits: SandboxLimits) -> Self {
        Self { limits, bytes: 0, peak: 0, elements: 0 }
    }

    /// Returns the most bytes that all linear memories together have had.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }
}

/// Returns the sum after a growth; `None` where it is over the limit, or the growth over its own `maximum`.
fn grown(sum: usize, limit: usize, current: usize, desired: usize, maximum: Option<usize>) -> Option<usize> {
    let sum = sum.saturating_add(desired.saturating_sub(current));
    (sum <= limit && maximum.is_none_or(|maximum| desired <= maximum)).then_some(sum)
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = grown(self.bytes, self.limits.memory, current, desired, maximum);
        self.bytes = grown.unwrap_or(self.bytes);
        self.peak = self.peak.max(self.bytes);
        Ok(grown.is_some())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = grown(self.elements, self.limits.table_elements, current, desired, maximum);
        self.elements = grown.unwrap_or(self.elements);
        Ok(grown.is_some())
    }

    fn instances(&self) -> usize {
        self.limits.core_instances as usize
    }

    fn tables(&self) -> usize {
        self.limits.tables as usize
    }

    fn memories(&self) -> usize {
        self.limits.memories as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_for_the_sum_and_failed_growths_are_not_counted() {
        let mut memory = Memory::new(SandboxLimits { memory: 100, table_elements: 10, ..SandboxLimits::default() });
        let mut grow = |current, desired, maximum| memory.memory_growing(current, desired, maximum).ok();
        assert_eq!(grow(0, 60, None), Some(true));
        assert_eq!(grow(0, 41, None), Some(false), "of a second memory");
        assert_eq!(grow(0, 30, None), Some(true));
        assert_eq!(grow(30, 40, Some(35)), Some(false), "over its own maximum");
        assert_eq!(grow(30, 40, Some(40)), Some(true), "all of it is used");
        assert_eq!(grow(60, 61, None), Some(false));
        assert_eq!(memory.peak(), 100);
        let mut grow = |current, desired, maximum| memory.table_growing(current, desired, maximum).ok();
        assert_eq!(grow(0, 10, None), Some(true));
        assert_eq!(grow(0, 1, None), Some(false), "of a second table");
    }
}
