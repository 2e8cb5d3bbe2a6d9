//! PostgreSQL: the deployment's own tables, in schema `public`, and the host's in schema `workspaces`.

mod connect;
mod failure;
mod maintenance;
mod operator;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Row, error::SqlState, types::Type};
use uuid::Uuid;

use self::{
    connect::{Connections, Parameter},
    failure::Failure,
};
use super::{Claim, Created, DatabaseError, Error, Storage};
use crate::{
    Workspace,
    auth::{
        Grant,
        access::{Facts, Question},
        api_key::{Directory, StoredKey},
    },
    now,
};

/// How long a create goes on trying, through a failover for one, before it says that it could not.
/// Below the patience of a request, which has an answer then.
const WRITE_PATIENCE: Duration = Duration::from_secs(8);
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// The pause before another try.
const PAUSE: Duration = Duration::from_millis(50);

/// How a database is reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many connections this process holds at most. A statement needs one only while it runs:
    /// more than a few for each core of the server make it slower.
    pub connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 8 }
    }
}

/// A database on a PostgreSQL server. Clones share its connections.
#[derive(Clone)]
pub struct Postgres {
    connections: Connections,
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
    /// version, or commits are answered before they are on a disk; [`Error::Unavailable`] where no server answers.
    pub async fn connect(address: &str, options: &Options) -> Result<Self, DatabaseError> {
        let database = Self { connections: Connections::new(address, options.connections.max(1))? };
        maintenance::require_schema(&database.connections).await?;
        maintenance::require_durability(&database.connections).await?;
        Ok(database)
    }

    /// Makes the tables that are missing, all or none: the deployment's where there are none, and the
    /// host's own.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn migrate(address: &str) -> Result<(), DatabaseError> {
        maintenance::migrate(&Connections::new(address, 1)?).await
    }

    /// Runs a statement that may be run twice until there is an answer.
    async fn read(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let deadline = Instant::now() + READ_PATIENCE;
        loop {
            match self.connections.query(sql, parameters).await {
                Ok(rows) => return Ok(rows),
                Err(failure @ Failure::Refused(..)) => return Err(Error::Unavailable(failure.to_string())),
                Err(failure) if Instant::now() + PAUSE >= deadline => {
                    return Err(Error::Unavailable(failure.to_string()));
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Whether a workspace of this id was committed. It writes, to the row's own values: the answer
    /// then waits for the standby as the workspace's own commit did, and is as durable.
    async fn is_committed(&self, id: Uuid) -> Result<bool, Failure> {
        const SQL: &str = r#"UPDATE public.accounts SET "timestamp" = "timestamp" WHERE id = $1 RETURNING id"#;
        Ok(!self.connections.query(SQL, &[(&id, Type::UUID)]).await?.is_empty())
    }

    /// One try to create the workspace.
    async fn try_create(&self, workspace: &Workspace, grant: &Grant, claim: Option<&Claim>) -> Result<Row, Failure> {
        let question = Question::behind(grant);
        // What is the caller's own rests on its account alone, to which the rows refer.
        let again = question.is_some_and(|question| !question.is_own());
        let administrators = question.and_then(|question| question.administrators);
        let key = claim.map(|claim| claim.key.as_str());
        let fingerprint = claim.map(|claim| claim.fingerprint.as_slice());
        let now = now();
        let [id, name, account, organization]: [Parameter<'_>; 4] = [
            (&workspace.id, Type::UUID),
            (&workspace.name, Type::TEXT),
            (&workspace.account_id, Type::UUID),
            (&grant.organization_id, Type::UUID),
        ];
        let rows = if again || claim.is_some() {
            let parameters = [
                id,
                name,
                account,
                organization,
                (&grant.caller_id, Type::UUID),
                (&administrators, Type::UUID),
                (&again, Type::BOOL),
                (&now, Type::INT8),
                (&Claim::ROUTE, Type::TEXT),
                (&key, Type::TEXT),
                (&fingerprint, Type::BYTEA),
            ];
            self.connections.query(include_str!("create.sql"), &parameters).await?
        } else {
            let parameters = [id, name, account, organization, (&now, Type::INT8)];
            self.connections.query(include_str!("create_own.sql"), &parameters).await?
        };
        rows.into_iter().next().ok_or_else(|| Failure::Refused(None, "the statement returned no row".into()))
    }

    /// What the row of a create says.
    async fn outcome(&self, row: &Row, workspace: &Workspace, claim: Option<&Claim>) -> Result<Created, Error> {
        // Its own id is there where an earlier try of this call was committed unheard.
        let found = |found: Workspace| Created { replayed: found.id != workspace.id, workspace: found };
        if let Some(claim) = claim {
            if column(row, "earlier")? {
                // Read again in a way that waits for the standby.
                return self
                    .find_claimed(claim)
                    .await?
                    .map(found)
                    .ok_or_else(|| Error::Unavailable("the claim was forgotten at this moment".into()));
            }
            if column(row, "allowed")? {
                return Ok(found(claimed(row, claim)?));
            }
        }
        match column(row, "allowed")? {
            true => Ok(Created { workspace: workspace.clone(), replayed: false }),
            false => Err(Error::AccessLost),
        }
    }
}

#[async_trait]
impl Storage for Postgres {
    /// The id is made before the first try, and is the same in each: a try that comes after one that
    /// was committed unheard meets its own id, and makes no second workspace.
    async fn create_workspace(&self, grant: &Grant, name: &str, claim: Option<&Claim>) -> Result<Created, Error> {
        let workspace = Workspace { id: Uuid::now_v7(), name: name.to_owned(), account_id: grant.account_id };
        let deadline = Instant::now() + WRITE_PATIENCE;
        let mut may_be_committed = false;
        loop {
            let attempt = match may_be_committed {
                true => self.is_committed(workspace.id).await,
                false => Ok(false),
            };
            let attempt = match attempt {
                Ok(true) => return Ok(Created { workspace, replayed: false }),
                Ok(false) => self.try_create(&workspace, grant, claim).await,
                Err(failure) => Err(failure),
            };
            let cause = match attempt {
                Ok(row) => match self.outcome(&row, &workspace, claim).await {
                    Err(error) if may_be_committed => return Err(Error::Unknown(error.to_string())),
                    outcome => return outcome,
                },
                // Its own id: an earlier try was committed.
                Err(Failure::Refused(Some(SqlState::UNIQUE_VIOLATION), cause)) => {
                    may_be_committed = true;
                    cause
                }
                Err(Failure::Refused(_, cause)) if may_be_committed => return Err(Error::Unknown(cause)),
                Err(Failure::Refused(Some(SqlState::FOREIGN_KEY_VIOLATION), _)) => return Err(Error::AccessLost),
                Err(Failure::Refused(_, cause)) => return Err(Error::Unavailable(cause)),
                Err(Failure::Lost(cause)) => {
                    may_be_committed = true;
                    cause
                }
                Err(Failure::Unreached(cause) | Failure::RolledBack(cause)) => cause,
            };
            tracing::warn!(%cause, "a create is tried again");
            if Instant::now() + PAUSE >= deadline {
                return Err(match may_be_committed {
                    true => Error::Unknown(cause),
                    false => Error::Unavailable(cause),
                });
            }
            sleep(PAUSE).await;
        }
    }

    /// Writes the row it finds, to its own values: what it answers then waits for the standby, and is
    /// as durable as the first answer.
    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
        const SQL: &str = "UPDATE workspaces.idempotency_keys SET route = route
            WHERE caller_id = $1 AND route = $2 AND key = $3
            RETURNING fingerprint, workspace_id, name, account_id";
        let key = claim.key.as_str();
        let parameters: [Parameter<'_>; 3] =
            [(&claim.caller_id, Type::UUID), (&Claim::ROUTE, Type::TEXT), (&key, Type::TEXT)];
        let rows = self.read(SQL, &parameters).await?;
        rows.first().map(|row| claimed(row, claim)).transpose()
    }

    async fn ready(&self) -> Result<(), Error> {
        self.read("SELECT 1", &[]).await.map(drop)
    }
}

/// The workspace of a claim's row.
fn claimed(row: &Row, claim: &Claim) -> Result<Workspace, Error> {
    match column::<&[u8]>(row, "fingerprint")? == claim.fingerprint {
        true => Ok(Workspace {
            id: column(row, "workspace_id")?,
            name: column(row, "name")?,
            account_id: column(row, "account_id")?,
        }),
        false => Err(Error::KeyReused),
    }
}

/// A value of a row; a table of another shape than this version's is no reason to panic.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, Error> {
    row.try_get(name).map_err(|error| Error::Unavailable(failure::describe(&error)))
}

#[async_trait]
impl Directory for Postgres {
    async fn find_key(&self, hash: &str) -> Result<Option<StoredKey>, Error> {
        const SQL: &str = "SELECT id, account, CASE
                WHEN isfinite(expires_at) THEN floor(extract(epoch FROM expires_at) * 1000)::bigint
                WHEN expires_at < 'now' THEN 0
            END AS expires_at
            FROM public.account_api_keys WHERE key_hash = $1 AND account IS NOT NULL LIMIT 1";
        let rows = self.read(SQL, &[(&hash, Type::TEXT)]).await?;
        let key = |row: &Row| {
            Ok(StoredKey {
                id: column(row, "id")?,
                account_id: column(row, "account")?,
                expires_at: column(row, "expires_at")?,
            })
        };
        rows.first().map(key).transpose()
    }

    async fn facts(&self, question: &Question) -> Result<Facts, Error> {
        const SQL: &str = "SELECT EXISTS (SELECT FROM public.accounts WHERE id = $2) AS account_exists,
            EXISTS (SELECT FROM public.account_organization_ids WHERE account_id = $1 AND organization_id = $4)
                AS caller_is_administrator,
            EXISTS (SELECT FROM public.account_organization_ids mine
                    JOIN public.account_organization_ids theirs USING (organization_id)
                    WHERE mine.account_id = $1 AND theirs.account_id = $2) AS shares_organization,
            EXISTS (SELECT FROM public.account_organization_ids WHERE account_id = $2 AND organization_id = $3)
                AS account_is_member";
        let parameters: [Parameter<'_>; 4] = [
            (&question.caller, Type::UUID),
            (&question.account, Type::UUID),
            (&question.organization, Type::UUID),
            (&question.administrators, Type::UUID),
        ];
        let rows = self.read(SQL, &parameters).await?;
        let row = rows.first().ok_or_else(|| Error::Unavailable("the statement returned no row".into()))?;
        Ok(Facts {
            account_exists: column(row, "account_exists")?,
            caller_is_administrator: column(row, "caller_is_administrator")?,
            shares_organization: column(row, "shares_organization")?,
            account_is_member: column(row, "account_is_member")?,
        })
    }
}
