//! Clients that create as fast as they can.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::json;
use uuid::Uuid;

use super::{Scene, ledger};
use crate::{Client, PATIENCE};

/// Clients at once.
const CLIENTS: usize = 64;

/// Pause of a client before it tries again at a server that could not answer.
const PAUSE: Duration = Duration::from_millis(10);

/// Clients of one or more servers, until they are stopped.
pub(super) struct Load {
    servers: Vec<SocketAddr>,
    key: String,
    organization: String,
    ids: Mutex<Vec<Uuid>>,
    /// Acknowledged creates with an idempotency key.
    keyed: Mutex<Vec<(String, Uuid)>>,
    /// Number of creates that each server acknowledged.
    acknowledged: Vec<AtomicU64>,
    wrong: Mutex<Option<String>>,
    stopped: AtomicBool,
}

impl Load {
    pub(super) fn new(servers: Vec<SocketAddr>, world: &Scene) -> Self {
        Self {
            acknowledged: servers.iter().map(|_| AtomicU64::new(0)).collect(),
            servers,
            key: world.key.clone(),
            organization: world.organization.clone(),
            ids: Mutex::default(),
            keyed: Mutex::default(),
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
            let (before, deadline) = (acknowledged.load(Relaxed), Instant::now() + PATIENCE);
            while acknowledged.load(Relaxed) < before + more && !self.stopped.load(Relaxed) {
                if Instant::now() > deadline {
                    self.fail(format!("none of {more} in {PATIENCE:?}"));
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Creates until the load is stopped. A request with an idempotency key is sent again under it, to each server in
    /// turn, until its outcome is known.
    fn create(&self, client: usize) {
        let mut server = client % self.servers.len();
        let connect = |server: usize| Client::new(self.servers[server], &self.key);
        let (mut connection, mut key) = (connect(server), None);
        while !self.stopped.load(Relaxed) {
            let claim = (client % 3 == 1).then(|| key.get_or_insert_with(|| Uuid::new_v4().to_string()).clone());
            let body = match client % 3 {
                0 => json!({"name": ledger::LINKED, "organization_id": self.organization}).to_string(),
                1 => Self::claimed_body(),
                _ => json!({"name": "Plain"}).to_string(),
            };
            match connection.create(&body, claim.as_deref()) {
                Ok(answer) if answer.status == 201 => {
                    let id = answer.json().ok().and_then(|body| body["workspace"]["id"].as_str()?.parse().ok());
                    match id {
                        Some(id) => {
                            lock(&self.ids).push(id);
                            lock(&self.keyed).extend(key.take().map(|key| (key, id)));
                        }
                        None => self.fail(format!("201 without an id: {answer:?}")),
                    }
                    self.acknowledged[server].fetch_add(1, Relaxed);
                }
                // The database is down, or has just gone: nothing was written, or the outcome is not known.
                Ok(answer) if matches!(answer.status, 500 | 503) => {
                    thread::sleep(PAUSE);
                    if claim.is_some() {
                        server = (server + 1) % self.servers.len();
                        connection = connect(server);
                    }
                }
                // The server that was asked before is still at it.
                Ok(answer) if answer.status == 409 && claim.is_some() => thread::sleep(PAUSE),
                Ok(answer) => self.fail(format!("{answer:?}")),
                // The server is gone.
                Err(_) => {
                    thread::sleep(PAUSE);
                    connection = connect(server);
                }
            }
        }
    }

    /// Returns the body of the requests with an idempotency key.
    pub(super) fn claimed_body() -> String {
        json!({"name": ledger::CLAIMED}).to_string()
    }

    fn fail(&self, seen: String) {
        *lock(&self.wrong) = Some(seen);
        self.stop();
    }

    fn require_right_answers(&self) -> Result<()> {
        match &*lock(&self.wrong) {
            Some(seen) => bail!("an answer that no client may get: {seen}"),
            None => Ok(()),
        }
    }

    /// Returns the ids that were acknowledged until now.
    pub(super) fn acknowledged_so_far(&self) -> Result<Vec<Uuid>> {
        self.require_right_answers()?;
        Ok(lock(&self.ids).clone())
    }

    /// Returns the ids that were acknowledged under an idempotency key until now.
    pub(super) fn acknowledged_by_key(&self) -> Vec<(String, Uuid)> {
        lock(&self.keyed).clone()
    }

    /// Returns the ids of what was acknowledged.
    pub(super) fn into_acknowledged(self) -> Result<Vec<Uuid>> {
        self.require_right_answers()?;
        Ok(std::mem::take(&mut *lock(&self.ids)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
