//! The engine: how components are compiled and where their memory comes from.

use std::thread;

use rustix::io::Errno;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::{
    LoadError, Pool, TICK,
    cause::{FRAMES, cause},
};

/// Kept resident and cleared by hand between uses of a memory slot: just above what the default
/// component touches. Much more costs more than giving the pages back.
const KEEP_RESIDENT: usize = 128 << 10;

/// The stack that host calls and the guest's code run on; the guest's share is `MAX_WASM_STACK`.
const ASYNC_STACK: usize = 1 << 20;
const MAX_WASM_STACK: usize = 256 << 10;

/// Address space that the engine reserves for a linear memory, in GiB, for code without bounds checks: wasmtime's default of 64-bit
/// systems.
const RESERVED: u64 = 4;

const TOO_MANY: &str = "too many sandboxes: lower pool.concurrency and pool.slow";

/// Returns an engine that runs untrusted components in the slots of a pool, with its clock running. It can count the
/// instructions of components.
pub(super) fn running(pool: &Pool, counts_instructions: bool) -> Result<Engine, LoadError> {
    let slots = u32::try_from(pool.slots()).map_err(|_| LoadError::Engine(TOO_MANY.into()))?;
    let mut allocation = PoolingAllocationConfig::new();
    allocation
        .total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(pool.core_instances))
        .total_memories(slots.saturating_mul(pool.memories))
        .total_tables(slots.saturating_mul(pool.tables))
        .total_stacks(slots)
        .max_core_instances_per_component(pool.core_instances)
        .max_memories_per_component(pool.memories)
        .max_tables_per_component(pool.tables)
        .max_memories_per_module(pool.memories)
        .max_tables_per_module(pool.tables)
        .max_memory_size(pool.memory)
        .table_elements(pool.table_elements)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(4 << 10)
        .max_unused_warm_slots(slots);
    let mut config = config();
    config.consume_fuel(counts_instructions);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(allocation));
    let engine = Engine::new(&config).map_err(|error| {
        if !error.chain().any(|link| link.downcast_ref() == Some(&Errno::NOMEM)) {
            return LoadError::Engine(cause(&error));
        }
        let reserved = u64::from(slots).saturating_mul(pool.memories.into()).saturating_mul(RESERVED);
        LoadError::Engine(format!(
            "{slots} sandboxes reserve {reserved} GiB of address space, more than this process can have: raise its limit (ulimit -v), or lower pool.concurrency, pool.slow or pool.memories: {}",
            cause(&error)
        ))
    })?;
    start_clock(&engine)?;
    Ok(engine)
}

/// Returns an engine that compiles for the other and runs nothing: it reserves no memory for sandboxes, so
/// that its process can be held to little.
pub(super) fn compiling() -> Result<Engine, LoadError> {
    Engine::new(&config()).map_err(|error| LoadError::Engine(cause(&error)))
}

/// Returns the settings of both engines, on which compiled code depends.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .async_stack_size(ASYNC_STACK)
        .max_wasm_stack(MAX_WASM_STACK)
        .wasm_backtrace_max_frames(Some(FRAMES))
        // The debugging information of a component is its own: a trap would have the host parse it. The
        // default is to read an environment variable.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Proposals that no component here needs are so much less to attack.
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false);
    config
}

/// Ticks until the engine is gone.
fn start_clock(engine: &Engine) -> Result<(), LoadError> {
    let engine = engine.weak();
    thread::Builder::new()
        .name("sandbox-clock".into())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        })
        .map(drop)
        .map_err(|error| LoadError::Engine(format!("no thread for the sandbox clock: {error}")))
}
