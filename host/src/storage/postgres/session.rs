//! Sessions: one connection to a server each, with the settings and prepared statements on it.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, Row,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::{Failure, describe, ends_wait_for_standby};

/// Maximum time of a statement, and of its wait for a lock: far above the usual ones, and below the timeout
/// of a request.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time for which a transaction stays open between statements: this process hangs, if one does.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of attempts to cancel a statement, and the pause after each. A server that runs reacts to
/// the first; after the last it is taken for dead.
const CANCELS: u32 = 5;
const CANCEL_PAUSE: Duration = Duration::from_secs(1);

/// A statement, and the types of its parameters: named, so that no round trip is spent on asking for them.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: &'static str,
    pub(super) types: &'static [Type],
}

/// The values of a statement's parameters.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Session on a server.
pub(super) struct Session {
    client: Client,
    /// The task that moves its bytes.
    task: JoinHandle<()>,
    tls: MakeRustlsConnect,
    /// No pooler gives each transaction another connection to the server.
    direct: bool,
    prepared: HashMap<&'static str, tokio_postgres::Statement>,
    /// A wait for the standby was cancelled since this was last looked at.
    unreplicated: Arc<AtomicBool>,
}

/// Settings of a session that bear on what survives.
pub(super) struct Durability {
    pub(super) synchronous_commit: String,
    pub(super) fsync: String,
}

impl Session {
    /// Opens a session with the timeouts set; `None` where they do not arrive at the server.
    pub(super) async fn open_directly(config: &Config, tls: MakeRustlsConnect) -> Result<Option<Self>, Error> {
        let own = config.get_options().unwrap_or_default();
        let options = format!(
            "-c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={} -c workspaces.direct=on {own}",
            STATEMENT_TIMEOUT.as_millis(),
            LOCK_TIMEOUT.as_millis(),
            IDLE_IN_TRANSACTION_TIMEOUT.as_millis(),
        );
        let session = Self::open(config.clone().options(options), tls, true).await?;
        let row = session.client.query_typed_one("SELECT current_setting('workspaces.direct', true) = 'on'", &[]);
        let arrived: Option<bool> = row.await?.try_get(0)?;
        Ok((arrived == Some(true)).then_some(session))
    }

    /// Opens a session behind a pooler, which sets no timeouts.
    pub(super) async fn open_pooled(config: &Config, tls: MakeRustlsConnect) -> Result<Self, Error> {
        Self::open(config, tls, false).await
    }

    async fn open(config: &Config, tls: MakeRustlsConnect, direct: bool) -> Result<Self, Error> {
        let (client, mut connection) = config.connect(tls.clone()).await?;
        let unreplicated = Arc::new(AtomicBool::new(false));
        let noticed = unreplicated.clone();
        let task = tokio::spawn(async move {
            loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) if ends_wait_for_standby(&notice) => {
                        noticed.store(true, Relaxed);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(error = %describe(&error), "database connection ended");
                        break;
                    }
                    None => break,
                }
            }
        });
        Ok(Self { client, task, tls, direct, prepared: HashMap::new(), unreplicated })
    }

    /// Reads the settings that bear on durability.
    pub(super) async fn durability(&self) -> Result<Durability, Error> {
        const SQL: &str = "SELECT current_setting('synchronous_commit'), current_setting('fsync')";
        let row = self.client.query_typed_one(SQL, &[]).await?;
        Ok(Durability { synchronous_commit: row.try_get(0)?, fsync: row.try_get(1)? })
    }

    /// Runs a statement in one round trip: prepared once a session, or, behind a pooler, parsed each time.
    pub(super) async fn run(&mut self, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Failure> {
        self.unreplicated.store(false, Relaxed);
        let rows = self.rows(statement, values).await.map_err(|error| {
            if Failure::is_from_a_pooler(&error) {
                self.direct = false;
            }
            Failure::of(&error)
        })?;
        // The notice comes before the end of the answer.
        if self.unreplicated.load(Relaxed) { Err(Failure::NotReplicated) } else { Ok(rows) }
    }

    async fn rows(&mut self, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Error> {
        let Statement { sql, types } = statement;
        if !self.direct {
            let parameters: Vec<_> = values.iter().copied().zip(types.iter().cloned()).collect();
            return self.client.query_typed(sql, &parameters).await;
        }
        let prepared = match self.prepared.get(sql) {
            Some(prepared) => prepared.clone(),
            None => {
                let prepared = self.client.prepare_typed(sql, types).await?;
                self.prepared.insert(sql, prepared.clone());
                prepared
            }
        };
        self.client.query(&prepared, values).await
    }

    /// Returns whether it goes straight to the server.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Returns whether its connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Returns the connection itself, for commands with transactions of their own.
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Cancels the statement that runs, if any, and waits until the server's process has ended. Returns false
    /// for a server that does not react.
    pub(super) async fn end(self) -> bool {
        let Self { client, task, tls, direct, .. } = self;
        let (token, abort) = (client.cancel_token(), task.abort_handle());
        let mut ended = pin!(async move {
            if direct {
                // Sent now, run after the statement. The connection ends when the process is gone; without this
                // it would end a moment before.
                let _ = client.simple_query("ROLLBACK; SELECT pg_terminate_backend(pg_backend_pid())").await;
            }
            drop(client);
            let _ = task.await;
        });
        for _ in 0..CANCELS {
            let cancelled = async {
                let _ = timeout(CANCEL_PAUSE, token.cancel_query(tls.clone())).await;
                tokio::time::sleep(CANCEL_PAUSE).await;
            };
            tokio::select! {
                () = &mut ended => return true,
                () = cancelled => {}
            }
        }
        abort.abort();
        false
    }
}
