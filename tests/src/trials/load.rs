//! Clients that create as fast as they can.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use serde_json::json;
use uuid::Uuid;

use super::{World, ledger};
use crate::Client;

/// Clients at once.
const CLIENTS: usize = 64;

/// How long a client waits before it tries again at a server that could not answer.
const PAUSE: Duration = Duration::from_millis(10);

/// Clients of one or more servers, until they are stopped.
pub(super) struct Load {
    servers: Vec<SocketAddr>,
    key: String,
    organization: String,
    ids: Mutex<Vec<Uuid>>,
    /// How many were acknowledged by each server.
    acknowledged: Vec<AtomicU64>,
    wrong: Mutex<Option<String>>,
    stopped: AtomicBool,
}

impl Load {
    pub(super) fn new(servers: Vec<SocketAddr>, world: &World) -> Self {
        Self {
            acknowledged: servers.iter().map(|_| AtomicU64::new(0)).collect(),
            servers,
            key: world.key.clone(),
            organization: world.organization.clone(),
            ids: Mutex::default(),
            wrong: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn start<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        for client in 0..CLIENTS {
            scope.spawn(move || self.create(client));
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Waits until each server has acknowledged so many more, or an answer was wrong.
    pub(super) fn wait_for_more(&self, more: u64) {
        for acknowledged in &self.acknowledged {
            let before = acknowledged.load(Relaxed);
            while acknowledged.load(Relaxed) < before + more && !self.stopped.load(Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn create(&self, client: usize) {
        let server = client % self.servers.len();
        let connect = || Client::new(self.servers[server], &self.key);
        let mut connection = connect();
        while !self.stopped.load(Relaxed) {
            let (body, claim) = match client % 3 {
                0 => (json!({"name": ledger::LINKED, "organization_id": self.organization}), None),
                1 => (json!({"name": ledger::CLAIMED}), Some(Uuid::new_v4().to_string())),
                _ => (json!({"name": "Plain"}), None),
            };
            match connection.create(&body.to_string(), claim.as_deref()) {
                Ok(answer) if answer.status == 201 => {
                    let id = answer.json().ok().and_then(|body| body["workspace"]["id"].as_str()?.parse().ok());
                    match id {
                        Some(id) => lock(&self.ids).push(id),
                        None => self.fail(format!("201 without an id: {answer:?}")),
                    }
                    self.acknowledged[server].fetch_add(1, Relaxed);
                }
                // The database is down, or has just gone: nothing was written, or nobody knows.
                Ok(answer) if matches!(answer.status, 500 | 503) => thread::sleep(PAUSE),
                Ok(answer) => self.fail(format!("{answer:?}")),
                // The server is gone.
                Err(_) => {
                    thread::sleep(PAUSE);
                    connection = connect();
                }
            }
        }
    }

    fn fail(&self, seen: String) {
        *lock(&self.wrong) = Some(seen);
        self.stop();
    }

    /// The ids of what was acknowledged.
    pub(super) fn into_acknowledged(self) -> Result<Vec<Uuid>> {
        if let Some(seen) = &*lock(&self.wrong) {
            bail!("an answer that no client may get: {seen}");
        }
        Ok(std::mem::take(&mut *lock(&self.ids)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
