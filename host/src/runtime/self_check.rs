//! Proof, on this machine and with these settings, that what stops a hostile component does.

use std::{fmt, time::Duration};

use tokio::time::timeout;
use wasmtime::{
    PoolConcurrencyLimitError, Store, Trap,
    component::{Component, ComponentNamedList, Instance, Lift, Linker, Lower},
};

use super::{LoadError, SandboxLimits, Sandboxes, TICK, calls::Calls, cause::cause, host_imports::State, turn::Turn};

/// The component that tries them: `self_check.wat`, assembled. A test holds that it is.
const CHECK: &[u8] = include_bytes!("self_check.wasm");

/// A page of linear memory, in bytes.
const PAGE: usize = 64 << 10;

/// Maximum time on a busy machine for what should end in some ticks.
const PATIENCE: Duration = Duration::from_secs(5);

impl Sandboxes {
    /// Runs components that loop, recurse and take memory, and as many at once as there are slots and
    /// one more: the clock, the limits and the pool have to stop each. Meant for the start of a program.
    ///
    /// That happens in a pool of its own with the same settings. One whose slots have all been used would go around among
    /// them from then on, and find each in no cache of the processor.
    ///
    /// # Errors
    ///
    /// [`LoadError::Unprotected`], naming what was not stopped.
    pub async fn self_check(&self) -> Result<(), LoadError> {
        let of_its_own = Self::new(self.pool().clone())?;
        let pool = of_its_own.pool();
        let own = SandboxLimits::default();
        let limits = SandboxLimits {
            // On a busy machine a call may take long: only the check of the clock has little time.
            cpu: PATIENCE,
            memory: own.memory.min(pool.memory),
            table_elements: own.table_elements.min(pool.table_elements),
            ..pool.largest()
        };
        let component =
            Component::from_binary(of_its_own.engine(), CHECK).map_err(|error| unprotected(cause(&error)))?;
        let check = Check { sandboxes: &of_its_own, limits, component };
        check.clock().await?;
        check.stack().await?;
        check.memory().await?;
        check.pool(pool.slots()).await
    }
}

struct Check<'a> {
    sandboxes: &'a Sandboxes,
    limits: SandboxLimits,
    component: Component,
}

impl Check<'_> {
    async fn clock(&self) -> Result<(), LoadError> {
        let limits = SandboxLimits { cpu: 2 * TICK, ..self.limits.clone() };
        match timeout(PATIENCE, self.call::<_, ()>(&limits, "spin", ())).await {
            Ok(Err(trap)) if trap.downcast_ref() == Some(&Trap::Interrupt) => Ok(()),
            Ok(ending) => Err(unprotected(format!("an endless loop is not stopped: {}", text(ending)))),
            Err(_) => Err(unprotected(format!("an endless loop is not stopped within {PATIENCE:?}"))),
        }
    }

    async fn stack(&self) -> Result<(), LoadError> {
        match self.call::<_, ()>(&self.limits, "recurse", ()).await {
            Err(trap) if trap.downcast_ref() == Some(&Trap::StackOverflow) => Ok(()),
            ending => Err(unprotected(format!("endless recursion is not stopped: {}", text(ending)))),
        }
    }

    async fn memory(&self) -> Result<(), LoadError> {
        // One page, one element is there from the start.
        let pages = u32::try_from(self.limits.memory / PAGE).unwrap_or(u32::MAX);
        let elements = u32::try_from(self.limits.table_elements).unwrap_or(u32::MAX);
        for (function, more, allowed) in [
            ("grow", pages.saturating_sub(1), true),
            ("grow", pages, false),
            ("extend", elements.saturating_sub(1), true),
            ("extend", elements, false),
        ] {
            match self.call::<_, (bool,)>(&self.limits, function, (more,)).await {
                Ok((got,)) if got == allowed => {}
                ending => return Err(unprotected(format!("{function} by {more} ends with {}", text(ending)))),
            }
        }
        Ok(())
    }

    async fn pool(&self, slots: usize) -> Result<(), LoadError> {
        let mut held = Vec::new();
        for _ in 0..slots {
            held.push(self.instance(&self.limits).await.map_err(|error| unprotected(cause(&error)))?);
        }
        match self.instance(&self.limits).await {
            Err(error) if error.is::<PoolConcurrencyLimitError>() => Ok(()),
            Err(error) => {
                let cause = cause(&error);
                Err(unprotected(format!("a sandbox more than {slots} is refused for another reason: {cause}")))
            }
            Ok(_) => Err(unprotected(format!("there are more than {slots} sandboxes"))),
        }
    }

    async fn call<P, R>(&self, limits: &SandboxLimits, function: &str, parameters: P) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let (mut store, instance) = self.instance(limits).await?;
        let function = instance.get_typed_func::<P, R>(&mut store, function)?;
        let cpu = store.data().calls.cpu.clone();
        cpu.count(function.call_async(&mut store, parameters)).await
    }

    async fn instance(&self, limits: &SandboxLimits) -> wasmtime::Result<(Store<State>, Instance)> {
        let turn = Turn::free(self.sandboxes.clone());
        let mut store = self.sandboxes.new_store(limits, Calls::stage(), turn);
        let linker = Linker::new(self.sandboxes.engine());
        let instance = linker.instantiate_async(&mut store, &self.component).await?;
        Ok((store, instance))
    }
}

/// Returns how a call ended.
fn text<T: fmt::Debug>(ending: wasmtime::Result<T>) -> String {
    match ending {
        Ok(result) => format!("it returns {result:?}"),
        Err(error) => cause(&error),
    }
}

fn unprotected(what: impl ToString) -> LoadError {
    LoadError::Unprotected(what.to_string())
}
