//! PostgreSQL: the deployment's own tables, in schema `public`, and the host's in schema `workspaces`.

mod address;
mod create;
mod directory;
mod encryption;
mod failure;
mod health;
mod maintenance;
mod operator;
mod parameters;
mod passfile;
mod pool;
mod quota;
mod requirements;
mod service;
mod session;
mod subject;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;

use self::{
    failure::Failure,
    health::Health,
    pool::Connections,
    quota::Tenant,
    session::{Statement, Values},
};
use super::{Claim, Created, DatabaseError, Error, Storage, sweep::Sweeping};
use crate::{Workspace, auth::Grant};

/// Maximum time for which a statement that only reads is tried again.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Options for connecting to a database.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Maximum number of connections of this process. A statement needs one only while it runs: more than a
    /// few for each core of the server make it slower.
    pub connections: usize,
    /// Check that the tables have the shape, and the role the rights, that creating workspaces needs. A create
    /// is tried and rolled back for it.
    pub check: bool,
    /// Delete idempotency keys that were kept for long enough, in the background. Without it nothing is written but
    /// what is asked for.
    pub sweep: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { connections: 8, check: true, sweep: true }
    }
}

/// A database on a PostgreSQL server. Clones share its connections.
#[derive(Clone)]
pub struct Postgres {
    connections: Connections,
    health: Health,
    tenant: Option<Tenant>,
    /// Number of keys that were revoked.
    revocations: Arc<AtomicU64>,
    /// Task that deletes old claims, until the last clone is dropped.
    _sweeping: Option<Arc<Sweeping>>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Postgres").finish_non_exhaustive()
    }
}

impl Postgres {
    /// Connects to a database that has the tables; `address` is a libpq URL, with several hosts where
    /// there are standbys: the one that takes writes is used, and looked for again when it is lost.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Unusable`] where the address can't be read, the tables are missing or of another
    /// version or shape, the role lacks rights, or commits are answered before they are on a disk;
    /// [`Error::Unavailable`] where no server answers.
    pub async fn connect(address: &str, options: &PostgresOptions) -> Result<Self, DatabaseError> {
        let connections = Connections::new(address, options.connections.max(1))?;
        match options.check {
            // In a box: a future in this deep one would be too deep for the compiler.
            true => Box::pin(requirements::check(&connections)).await?,
            false => maintenance::require_schema(&connections).await?,
        }
        let health = Health::default();
        let (swept, observer) = (connections.clone(), health.clone());
        let sweep = move |limit| {
            let (swept, observer) = (swept.clone(), observer.clone());
            async move {
                let forgotten = maintenance::forget_claims(&swept, limit).await;
                forgotten.inspect_err(|failure| observer.observe_error(&failure.clone().into()))
            }
        };
        let sweeping = options.sweep.then(|| Arc::new(Sweeping::start(sweep)));
        Ok(Self { connections, health, tenant: None, revocations: Arc::default(), _sweeping: sweeping })
    }

    /// Makes the tables that are missing, all or none: the deployment's where there are none, and the
    /// host's own.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn migrate(address: &str) -> Result<(), DatabaseError> {
        let connections = Connections::new(address, 1)?;
        maintenance::migrate(&connections).await?;
        Box::pin(requirements::check(&connections)).await
    }

    /// Runs a statement that may be run twice until there is an answer, and reads its rows.
    async fn read<T>(
        &self,
        statement: &Statement,
        values: Values<'_>,
        of: impl FnOnce(&[Row]) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let rows = self.rows(statement, values).await?;
        of(&rows).map_err(|failure| self.observed(failure))
    }

    /// Returns the error of a statement that only reads, of which the database's health takes note.
    fn observed(&self, failure: Failure) -> Error {
        let error = Error::from(failure);
        self.health.observe_error(&error);
        error
    }

    async fn rows(&self, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Error> {
        let deadline = Instant::now() + READ_TIMEOUT;
        loop {
            match self.connections.query(statement, values).await {
                Ok(rows) => return Ok(rows),
                Err(
                    failure @ (Failure::Unreached(_)
                    | Failure::RolledBack(_)
                    | Failure::Lost(_)
                    | Failure::NotReplicated),
                ) => {
                    if Instant::now() + create::PAUSE >= deadline {
                        return Err(failure.into());
                    }
                    sleep(create::PAUSE).await;
                }
                Err(failure) => return Err(self.observed(failure)),
            }
        }
    }
}

#[async_trait]
impl Storage for Postgres {
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
    ) -> Result<Created, Error> {
        if let Some(created) = self.answer_over_quota(claim).await? {
            return Ok(created);
        }
        let outcome = self.create(id, grant, name, claim).await;
        self.health.observe(&outcome);
        outcome
    }

    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
        self.find_claim(claim).await
    }

    /// Asks the server for an answer. After a write that failed, tries one and rolls it back.
    async fn ready(&self) -> Result<(), Error> {
        if !self.health.is_doubtful() {
            return self.rows(&Statement { sql: "SELECT 1", types: &[] }, &[]).await.map(drop);
        }
        requirements::check(&self.connections).await.map_err(|error| match error {
            DatabaseError::Storage(error) => error,
            error => Error::Misconfigured(error.to_string()),
        })?;
        self.health.clear();
        Ok(())
    }
}

/// Returns the row of a statement that always returns one.
fn only(rows: &[Row]) -> Result<&Row, Failure> {
    rows.first().ok_or_else(|| Failure::Failed("the statement returned no row".into()))
}

/// Returns a value of a row. A table of another shape than this version's is no reason to panic.
fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, Failure> {
    row.try_get(name).map_err(|error| Failure::Misconfigured(None, failure::describe(&error)))
}

impl From<Failure> for Error {
    /// Converts the failure of a statement that may be run twice.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Misconfigured(_, text) => Self::Misconfigured(text),
            Failure::Refused(_, text) => Self::Refused(text),
            failure => Self::Unavailable(failure.to_string()),
        }
    }
}
