//! The component in use, and the one before it.

use std::sync::{PoisonError, RwLock};

use super::component::Component;

/// Number of calls for which a new component is watched, and number of faults among them that roll it back:
/// [`FAULTS`] at least, and one call in [`RATIO`] so far.
const WATCHED: u64 = 1000;
const FAULTS: u64 = 5;
const RATIO: u64 = 10;

/// Holds the component that requests get.
pub(super) struct Rollout(RwLock<Held>);

struct Held {
    current: Component,
    /// While the current one is new.
    before: Option<Before>,
}

/// The component to go back to, and how the new one does.
struct Before {
    component: Component,
    calls: u64,
    faults: u64,
}

impl Rollout {
    pub(super) fn new(component: Component) -> Self {
        Self(RwLock::new(Held { current: component, before: None }))
    }

    pub(super) fn current(&self) -> Component {
        self.0.read().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// Puts another in its place, and watches it.
    pub(super) fn swap(&self, component: Component) {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if held.current.digest() != component.digest() {
            let before = std::mem::replace(&mut held.current, component);
            // One that is watched itself has not shown that it is any good: the one before it stays.
            let component = held.before.take().map_or(before, |earlier| earlier.component);
            held.before = Some(Before { component, calls: 0, faults: 0 });
        }
    }

    /// Counts a call that a component made. Returns whether that brought back the one before it.
    pub(super) fn watch(&self, component: &Component, is_fault: bool) -> bool {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).before.is_none() {
            return false;
        }
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // A call that began before the swap says nothing of the new one.
        if held.current.digest() != component.digest() {
            return false;
        }
        let Some(before) = &mut held.before else { return false };
        before.calls += 1;
        before.faults += u64::from(is_fault);
        if before.faults >= FAULTS && before.faults * RATIO >= before.calls {
            let Some(before) = held.before.take() else { return false };
            held.current = before.component;
            return true;
        }
        if before.calls >= WATCHED {
            held.before = None;
        }
        false
    }
}
