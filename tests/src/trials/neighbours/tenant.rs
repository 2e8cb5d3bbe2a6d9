//! Other tenants with many clients.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Adversary, Scene, Setup};
use crate::hostile_components;

/// Clients of another tenant.
const CLIENTS: usize = 64;

/// Requests a second that the other tenant may make, and times as many that it makes.
const RATE: u32 = 100;
const TIMES: u32 = 10;

pub(super) fn all() -> Vec<Box<dyn Adversary>> {
    vec![Box::new(Loops::default()), Box::new(OverItsRate::default())]
}

/// Many clients of a component that loops.
#[derive(Default)]
struct Loops {
    key: String,
}

impl Adversary for Loops {
    fn name(&self) -> String {
        format!("tenant: {CLIENTS} clients of a component that loops")
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        setup.tenants.write("loops.wasm", hostile_components::two_faced("(call $spin)")?)?;
        self.key = setup.tenant("loops", "component = \"loops.wasm\"")?;
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        scene.create(CLIENTS, "/loops", &|| self.key.clone())
    }
}

/// Clients that send ten times what their tenant may.
#[derive(Default)]
struct OverItsRate {
    key: String,
}

impl Adversary for OverItsRate {
    fn name(&self) -> String {
        format!("tenant: {TIMES} times its rate of {RATE}/s")
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        self.key = setup.tenant("fast", &format!("limits = {{ rate = {RATE} }}"))?;
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        const SENDERS: u32 = 16;
        let period = Duration::from_secs(1) * SENDERS / (RATE * TIMES);
        scene.many(SENDERS as usize, |_| {
            let (mut client, mut times) = (scene.client("/fast", &self.key), Vec::new());
            while !scene.is_over() {
                let sent = Instant::now();
                times.extend(scene.create_once(&mut client, &[201, 429])?.map(|(_, time)| time));
                thread::sleep(period.saturating_sub(sent.elapsed()));
            }
            Ok(times)
        })
    }
}
