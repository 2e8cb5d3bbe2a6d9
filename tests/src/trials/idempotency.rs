//! Sends each idempotency key many times at once while the program is killed and started again.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Barrier, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use uuid::Uuid;

use super::{Backend, Scene, ledger};
use crate::{Answer, Client};

/// Number of times that each key is sent at once, and number of keys under way at the same time.
const COPIES: usize = 16;
const GROUPS: usize = 4;

/// The program lives for a random time below this.
const LIFE: Duration = Duration::from_secs(2);

/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(2);

/// Result of the trial.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyReport {
    /// Keys that were sent, each to 201 in all copies, and then with another payload to 422.
    pub keys: usize,
    /// Workspaces that came of them.
    pub workspaces: u64,
    /// Kills in between.
    pub kills: usize,
    /// Answers that said that a copy is in progress.
    pub in_flight: usize,
    /// Answers that were replayed.
    pub replayed: usize,
}

/// Runs the trial with so many keys.
///
/// # Errors
///
/// Where copies of a key get different workspaces, an altered request is not refused, or an answer is
/// none that a client may get.
pub fn run(program: &str, backend: Backend, keys: usize) -> Result<IdempotencyReport> {
    let world = Scene::new(program, backend)?;
    let mut server = world.deployment.serve(&["--log", "off"])?;
    let clients = Clients {
        address: Mutex::new(server.address()),
        key: world.key.clone(),
        in_flight: AtomicUsize::new(0),
        replayed: AtomicUsize::new(0),
    };
    let (done, kills, stopped) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let ids = Mutex::new(HashSet::new());
    thread::scope(|scope| -> Result<()> {
        let groups: Vec<_> = (0..GROUPS)
            .map(|group| {
                let (clients, done, ids, stopped) = (&clients, &done, &ids, &stopped);
                scope.spawn(move || -> Result<()> {
                    let mine = keys / GROUPS + usize::from(group < keys % GROUPS);
                    let worked = (0..mine).try_for_each(|_| {
                        ensure!(!stopped.load(Relaxed), "stopped by another's failure");
                        let id = clients.one_key()?;
                        ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                        done.fetch_add(1, Relaxed);
                        Ok(())
                    });
                    if worked.is_err() {
                        stopped.store(true, Relaxed);
                    }
                    worked
                })
            })
            .collect();
        while done.load(Relaxed) < keys && !stopped.load(Relaxed) {
            thread::sleep(LIFE.mul_f64(fastrand::f64()));
            server.kill()?;
            kills.fetch_add(1, Relaxed);
            server = world.deployment.serve(&["--log", "off"])?;
            *clients.address.lock().unwrap_or_else(PoisonError::into_inner) = server.address();
        }
        groups.into_iter().try_for_each(|group| group.join().unwrap_or_else(|_| bail!("a client panicked")))
    })?;
    let ids = ids.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(ids.len() == keys, "{keys} keys gave {} workspaces to their clients", ids.len());
    let audit = world.ledger().audit(&ids.into_iter().collect::<Vec<_>>())?;
    ensure!(audit.lost == 0 && audit.partial == 0, "{audit:?}");
    world.ledger().require_integrity()?;
    Ok(IdempotencyReport {
        keys,
        workspaces: audit.workspaces,
        kills: kills.into_inner(),
        in_flight: clients.in_flight.into_inner(),
        replayed: clients.replayed.into_inner(),
    })
}

struct Clients {
    /// Address of the program that lives now.
    address: Mutex<SocketAddr>,
    key: String,
    in_flight: AtomicUsize,
    replayed: AtomicUsize,
}

impl Clients {
    /// Sends a new key in all copies, each until it is answered, and then with another payload.
    fn one_key(&self) -> Result<Uuid> {
        let key = Uuid::new_v4().to_string();
        let body = json!({"name": ledger::CLAIMED}).to_string();
        let barrier = Barrier::new(COPIES);
        let answers: Vec<Result<Answer>> = thread::scope(|scope| {
            let copies: Vec<_> = (0..COPIES)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        self.until_answered(&body, &key)
                    })
                })
                .collect();
            copies.into_iter().map(|copy| copy.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
        });
        let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
        let first = &answers[0];
        for answer in &answers {
            ensure!(answer.status == 201 && answer.body == first.body, "{answer:?} and {first:?}");
        }
        let new = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count();
        ensure!(new <= 1, "{new} of {COPIES} answers say that they are the first");
        self.replayed.fetch_add(COPIES - new, Relaxed);

        let altered = self.until_answered(&json!({"name": "Altered"}).to_string(), &key)?;
        ensure!(altered.status == 422, "another payload: {altered:?}");
        first.json()?["workspace"]["id"].as_str().and_then(|id| id.parse().ok()).context("no id")
    }

    /// Sends a request until it has an answer other than to send it again.
    fn until_answered(&self, body: &str, key: &str) -> Result<Answer> {
        loop {
            let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
            match Client::new(address, &self.key).create(body, Some(key)) {
                Ok(answer) if answer.status == 409 => {
                    ensure!(answer.header("retry-after").is_some(), "409 without Retry-After");
                    self.in_flight.fetch_add(1, Relaxed);
                }
                Ok(answer) if matches!(answer.status, 500 | 503) => {}
                Ok(answer) => return Ok(answer),
                Err(_) => {}
            }
            thread::sleep(PAUSE);
        }
    }
}
