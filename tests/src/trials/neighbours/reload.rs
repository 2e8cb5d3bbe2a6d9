//! Adversaries that are loaded into the running server.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{Adversary, Scene, Setup};

/// Sections that the configuration gets in turn.
pub(super) struct Reload {
    name: &'static str,
    make: fn(&Setup) -> Result<Vec<String>>,
    sections: Vec<String>,
    /// Number of the next section: what was refused in one round is remembered by its bytes in the next.
    next: AtomicUsize,
}

/// Pause between two reloads.
const BETWEEN: Duration = Duration::from_millis(100);

impl Reload {
    /// Makes one, whose sections are made before the server starts.
    pub(super) fn boxed(name: &'static str, make: fn(&Setup) -> Result<Vec<String>>) -> Box<dyn Adversary> {
        Box::new(Self { name, make, sections: Vec::new(), next: AtomicUsize::new(0) })
    }
}

impl Adversary for Reload {
    fn name(&self) -> String {
        self.name.into()
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        // A second is enough to give up at.
        setup.top += "compile.time = \"1s\"\n";
        self.sections = (self.make)(setup)?;
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Relaxed) % self.sections.len();
            times.push(scene.reload(&self.sections[number])?.0);
            if scene.is_over() {
                break;
            }
            scene.pause(BETWEEN);
        }
        let (_, answer) = scene.reload("")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "the reload without it fails: {answer}");
        Ok(times)
    }
}
