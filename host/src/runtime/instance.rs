//! An instance of a component, and the instances that tenants keep for their next requests.

use std::{
    collections::VecDeque,
    mem,
    num::NonZeroU32,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use wasmtime::Store;

use super::{
    Component, SandboxLimits, Sandboxes,
    calls::Calls,
    host_imports::{
        State,
        bindings::{Plugin, exports::recoup::workspaces::workspaces as wit},
    },
    outcome::Answer,
    turn::Turn,
};

/// An instance of a component in its store, which is the sandbox.
pub(super) struct Instance {
    pub(super) store: Store<State>,
    component: Component,
    /// `None` before the first call.
    plugin: Option<Plugin>,
    /// Number of calls that it has answered.
    answered: u32,
}

impl Instance {
    pub(super) fn new(store: Store<State>, component: &Component) -> Self {
        Self { store, component: component.clone(), plugin: None, answered: 0 }
    }

    /// Calls the component.
    ///
    /// # Errors
    ///
    /// Its trap, or that it can't be instantiated. The instance can't be used again.
    pub(super) async fn call(&mut self, request: &wit::CreateWorkspaceRequest) -> wasmtime::Result<Answer> {
        let Self { store, component, plugin, answered } = self;
        let plugin = match plugin {
            Some(plugin) => plugin,
            None => plugin.insert(component.pre().instantiate_async(&mut *store).await?),
        };
        let answer = plugin.recoup_workspaces_workspaces().call_create_workspace(store, request).await?;
        *answered = answered.saturating_add(1);
        Ok(answer)
    }
}

/// Instances that have answered and wait for another request, of all tenants. The one that waits longest makes room
/// for others.
#[derive(Default)]
pub(super) struct Idle(Mutex<VecDeque<(u64, Instance)>>);

impl Idle {
    fn instances(&self) -> MutexGuard<'_, VecDeque<(u64, Instance)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tenant's share of the [`Idle`] instances. Empty where its limits give each request a
/// [fresh one](SandboxLimits::requests_per_instance). Dropping it drops the tenant's instances.
pub(super) struct Instances {
    owner: u64,
    sandboxes: Sandboxes,
    /// Maximum number of requests that an instance answers.
    most: NonZeroU32,
}

impl Instances {
    pub(super) fn new(sandboxes: Sandboxes, limits: &SandboxLimits) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { owner: NEXT.fetch_add(1, Relaxed), sandboxes, most: limits.requests_per_instance }
    }

    /// Returns an instance for a request: one that is kept, or a fresh one.
    pub(super) fn get(&self, component: &Component, limits: &SandboxLimits, calls: Calls, turn: Turn) -> Instance {
        match self.take(component) {
            Some(mut instance) => {
                self.sandboxes.begin(&mut instance.store, limits, calls, turn);
                instance
            }
            None => Instance::new(self.sandboxes.new_store(limits, calls, turn), component),
        }
    }

    fn take(&self, component: &Component) -> Option<Instance> {
        if self.most == NonZeroU32::MIN {
            return None;
        }
        let mut instances = self.sandboxes.idle().instances();
        // Those of a component that was swapped out are of no use any more.
        instances.retain(|(owner, instance)| *owner != self.owner || instance.component == *component);
        // The newest: its memory is in the processor's cache.
        let newest = instances.iter().rposition(|(owner, _)| *owner == self.owner)?;
        instances.remove(newest).map(|(_, instance)| instance)
    }

    /// Takes the request out of an instance. Keeps the instance for another request if it `has_answered` this one, which one
    /// that trapped has not, holds no grant, and has not answered the maximum of requests.
    pub(super) fn put(&self, mut instance: Instance, has_answered: bool) -> (Calls, Turn) {
        let state = instance.store.data_mut();
        let is_kept = has_answered && instance.answered < self.most.get() && state.grants.is_empty();
        if !is_kept {
            let State { calls, turn, .. } = instance.store.into_data();
            return (calls, turn);
        }
        let turn = state.turn.another();
        let request = (mem::replace(&mut state.calls, Calls::stage()), mem::replace(&mut state.turn, turn));
        let mut instances = self.sandboxes.idle().instances();
        let oldest = (instances.len() >= self.sandboxes.pool().idle()).then(|| instances.pop_front());
        instances.push_back((self.owner, instance));
        drop(instances);
        // Its memory is cleared outside of the lock.
        drop(oldest);
        request
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        self.sandboxes.idle().instances().retain(|(owner, _)| *owner != self.owner);
    }
}
