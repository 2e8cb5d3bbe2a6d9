//! The connections of this process to one database.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_postgres::{Client, Config, Row, config::Host};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DatabaseError,
    address::{self, Server},
    failure::{Failure, describe, is_of_the_password},
    session::{Durability, LOCK_TIMEOUT, STATEMENT_TIMEOUT, Session, Statement, Values},
};

/// Maximum time that a request waits for one of the connections.
const WAIT: Duration = Duration::from_secs(2);

/// Time that a server has to react to the cancellation of a statement, before its other connections count as
/// lost too.
const REACTION: Duration = Duration::from_secs(1);

/// Time for which a host is tried alone before the next one is tried beside it: more than a session takes to open.
const HEAD_START: Duration = Duration::from_millis(250);

/// The connections of this process to one database. Clones share them.
///
/// There are never more than the maximum at the server: a connection whose statement was given up keeps its
/// permit until the server's process has ended.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    servers: Vec<Server>,
    tls: MakeRustlsConnect,
    maximum: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    /// Index of the host that took the last session.
    serving: AtomicUsize,
    /// There is a pooler in between that gives each transaction another session.
    pooler: AtomicBool,
    /// The settings that were last warned of.
    warned: Mutex<Option<&'static str>>,
}

/// A connection in use, which goes back when it is dropped.
pub(super) struct Lease {
    session: Option<Session>,
    permit: Option<OwnedSemaphorePermit>,
    connections: Connections,
    /// A statement runs, or a transaction is open: it can't go back as it is.
    busy: bool,
}

impl Connections {
    pub(super) fn new(address: &str, maximum: usize) -> Result<Self, DatabaseError> {
        let (servers, tls) = address::parse(address)?;
        Ok(Self(Arc::new(Inner {
            servers,
            tls,
            maximum,
            permits: Arc::new(Semaphore::new(maximum)),
            idle: Mutex::default(),
            serving: AtomicUsize::new(0),
            pooler: AtomicBool::new(false),
            warned: Mutex::default(),
        })))
    }

    /// Runs one statement on one of the connections.
    pub(super) async fn query(&self, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Failure> {
        self.lease().await?.query(statement, values).await
    }

    /// Returns a connection for statements that belong together.
    pub(super) async fn lease(&self) -> Result<Lease, Failure> {
        let in_use = || Failure::Unreached(format!("all {} connections to the database are in use", self.0.maximum));
        let permit = timeout(WAIT, self.0.permits.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| in_use())?.map_err(|_| in_use())?;
        let idle = loop {
            match lock(&self.0.idle).pop() {
                Some(session) if session.is_closed() => {}
                other => break other,
            }
        };
        let session = match idle {
            Some(session) => session,
            None => self.connect().await?,
        };
        Ok(Lease { session: Some(session), permit: Some(permit), connections: self.clone(), busy: false })
    }

    /// Opens a session at the host that takes it first. The one that took the last session is tried first, and the
    /// others beside it where it does not answer soon: a machine that is down must not use up a request's time.
    async fn connect(&self) -> Result<Session, Failure> {
        let (hosts, first) = (self.0.servers.len(), self.0.serving.load(Relaxed));
        let mut untried = (0..hosts).map(|number| (first + number) % hosts).peekable();
        let (mut attempts, mut refusals) = (JoinSet::new(), Vec::new());
        loop {
            if let Some(host) = untried.next() {
                let connections = self.clone();
                attempts.spawn(async move { (host, connections.connect_in_time(host).await) });
            }
            let ended = match untried.peek() {
                Some(_) => timeout(HEAD_START, attempts.join_next()).await,
                None => Ok(attempts.join_next().await),
            };
            match ended {
                Ok(Some(Ok((host, Ok(session))))) => {
                    self.0.serving.store(host, Relaxed);
                    return Ok(session);
                }
                Ok(Some(Ok((_, Err(failure @ Failure::Misconfigured(..)))))) => return Err(failure),
                Ok(Some(Ok((_, Err(failure))))) => refusals.push(failure.to_string()),
                Ok(Some(Err(error))) => refusals.push(error.to_string()),
                Ok(None) => return Err(Failure::Unreached(refusals.join("; "))),
                // The next host is tried beside this one.
                Err(_) => {}
            }
        }
    }

    /// Opens a session at the host of this index. Errors name the host.
    async fn connect_in_time(&self, host: usize) -> Result<Session, Failure> {
        let server @ Server { config, .. } = &self.0.servers[host];
        let unreached = |reason: &dyn std::fmt::Display| Failure::Unreached(format!("{}: {reason}", place(config)));
        match timeout(address::connect_timeout(config), self.connect_to(server)).await {
            Ok(Err(failure @ Failure::Misconfigured(..))) => Err(failure),
            Ok(opened) => opened.map_err(|failure| unreached(&failure)),
            Err(_) => Err(unreached(&"no session in time")),
        }
    }

    async fn connect_to(&self, Server { config, password_from }: &Server) -> Result<Session, Failure> {
        let unreached = |error| {
            let mut text = describe(&error);
            if is_of_the_password(&error) {
                text = format!("{text}: {password_from}");
            }
            Failure::Unreached(text)
        };
        let mut session = None;
        if !self.0.pooler.load(Relaxed) {
            match Session::open_directly(config, self.0.tls.clone()).await {
                Ok(opened) => session = opened,
                Err(error) if Failure::is_from_a_pooler(&error) => {}
                Err(error) => return Err(unreached(error)),
            }
            if session.is_none() {
                self.found_pooler();
            }
        }
        let session = match session {
            Some(session) => session,
            None => Session::open_pooled(config, self.0.tls.clone()).await.map_err(unreached)?,
        };
        self.require_durability(session.durability().await.map_err(unreached)?)?;
        Ok(session)
    }

    fn found_pooler(&self) {
        if !self.0.pooler.swap(true, Relaxed) {
            tracing::warn!(
                "pooler detected: statements are not prepared, and the timeouts are those of the role (ALTER ROLE … SET statement_timeout)"
            );
        }
    }

    /// Asserts that a commit is on the disk, or on the standby's, before it is answered. Asked of each session:
    /// after a failover another server may have other settings. Settings that an operator may have chosen with
    /// open eyes are warned of once.
    fn require_durability(&self, durability: Durability) -> Result<(), Failure> {
        let warning = match (durability.synchronous_commit.as_str(), durability.fsync.as_str()) {
            ("off", _) => {
                return Err(Failure::Misconfigured(
                    None,
                    "the database answers before a commit is on its disk: ALTER ROLE … SET synchronous_commit = on"
                        .into(),
                ));
            }
            (_, "off") => Some("fsync is off at the database server: a power cut loses acknowledged workspaces"),
            ("local", _) => {
                Some("synchronous_commit is local: a standby that takes over may lack acknowledged workspaces")
            }
            _ => None,
        };
        let before = std::mem::replace(&mut *lock(&self.0.warned), warning);
        if let Some(warning) = warning.filter(|warning| before != Some(warning)) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Closes the connections that are idle: they are at a host that was lost.
    fn close_idle(&self) {
        lock(&self.0.idle).clear();
    }
}

impl Lease {
    /// Runs one statement, which is its own transaction unless [`begin`](Self::begin) was called.
    pub(super) async fn query(&mut self, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Failure> {
        let lost = || Failure::Lost("the connection was given up".into());
        let in_transaction = std::mem::replace(&mut self.busy, true);
        let session = self.session.as_mut().ok_or_else(lost)?;
        let outcome = timeout(STATEMENT_TIMEOUT + LOCK_TIMEOUT, session.run(statement, values)).await;
        if !session.is_direct() {
            self.connections.found_pooler();
        }
        match outcome {
            Ok(outcome) => {
                self.busy = in_transaction;
                if outcome.as_ref().is_err_and(Failure::ends_session) {
                    // Those that are idle are no better: the next statement looks for a host that serves.
                    self.session = None;
                    self.connections.close_idle();
                }
                outcome
            }
            Err(_) => {
                if let Some(reaction) = self.give_up() {
                    let _ = reaction.await;
                }
                Err(Failure::Lost("no answer in time".into()))
            }
        }
    }

    /// Begins a transaction. A lease that is dropped before the end of one rolls it back.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.query(&Statement { sql: "BEGIN", types: &[] }, &[]).await?;
        self.busy = true;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.query(&Statement { sql: "COMMIT", types: &[] }, &[]).await?;
        self.busy = false;
        Ok(())
    }

    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        self.query(&Statement { sql: "ROLLBACK", types: &[] }, &[]).await?;
        self.busy = false;
        Ok(())
    }

    /// Returns the connection itself, for commands with transactions of their own.
    pub(super) fn client(&mut self) -> Result<&mut Client, Failure> {
        let session = self.session.as_mut().ok_or_else(|| Failure::Unreached("the connection was given up".into()))?;
        Ok(session.client())
    }

    /// Ends the session, and gives its permit back when the server's process is gone. Where the server does not
    /// react, closes the idle connections too: they are no better. Returns what ends when that is decided.
    fn give_up(&mut self) -> Option<oneshot::Receiver<()>> {
        let (session, permit) = (self.session.take()?, self.permit.take());
        // Without a runtime the process is about to end, and its connections with it.
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (connections, (decided, reaction)) = (self.connections.clone(), oneshot::channel());
        runtime.spawn(async move {
            let mut ending = pin!(session.end());
            match timeout(REACTION, &mut ending).await {
                Ok(true) => drop(decided),
                reaction => {
                    connections.close_idle();
                    drop(decided);
                    if reaction.is_err() {
                        ending.await;
                    }
                }
            }
            drop(permit);
        });
        Some(reaction)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.busy {
            drop(self.give_up());
        } else if let Some(session) = self.session.take() {
            lock(&self.connections.0.idle).push(session);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the host and port of a configuration, for messages.
fn place(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first() {
        Some(Host::Tcp(host)) => format!("{host}:{port}"),
        Some(Host::Unix(folder)) => format!("{}:{port}", folder.display()),
        None => "no host".into(),
    }
}
