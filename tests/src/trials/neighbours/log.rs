//! A log that nobody reads.

use anyhow::Result;

use super::{Adversary, Scene, Setup, stranger};

/// Clients whose every request is a line.
const CLIENTS: usize = 16;

pub(super) fn all() -> Vec<Box<dyn Adversary>> {
    vec![Box::new(Unread)]
}

/// Standard error that is a pipe without a reader.
struct Unread;

impl Adversary for Unread {
    fn name(&self) -> String {
        "log: a pipe that nobody reads".into()
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        setup.unread = true;
        setup.tenant("talks", "")?;
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        scene.create(CLIENTS, "/talks", &stranger::made_up_key)
    }
}
