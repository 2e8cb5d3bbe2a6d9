//! SQLite: one file, one writer.
//!
//! Two threads own a connection each: one writes, one only reads, from when it is first asked. Creates
//! go to the writer over a bounded queue; it takes what has gathered there into one transaction, syncs
//! it, and answers. In between it forgets old claims. Dropping the last clone of a database waits until the writer
//! has copied the log into the database's file and closed it. A database in memory has one connection and no thread:
//! callers run their calls themselves, a few microseconds each.

mod clock;
mod copy;
mod create;
mod failure;
mod maintenance;
mod open;
mod operator;
mod place;
mod quota;
mod session;
mod subject;
mod sweep;
mod worker;

use std::{
    path::{self, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::{sync::OnceCell, task::spawn_blocking, time::timeout};
use uuid::Uuid;

pub use self::open::{Access, SqliteOptions};
use self::{create::Creation, quota::Allowance, session::Session, worker::Worker};
use super::{Claim, Created, DatabaseError, Error, Storage};
use crate::{
    Workspace,
    auth::{
        Grant, LookUpError,
        access::{Facts, Question},
        api_key::{Directory, StoredKey},
    },
};

/// SQLite's name for a database in memory.
const MEMORY: &str = ":memory:";

/// Time that the writer has to say that it could write. It takes longer where another process holds the write lock.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// A database in one file, or in memory. Clones share it. Dropping the last one closes it: it waits for the calls in
/// progress, and until the file alone holds everything.
#[derive(Debug, Clone)]
pub struct Sqlite {
    /// Before the writer, to be closed before it.
    reader: Arc<Reader>,
    writer: Worker,
    /// Number of keys that were revoked.
    revocations: Arc<AtomicU64>,
}

/// The connection that reads a file. The first call opens it: a tenant without requests costs half as much.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    options: SqliteOptions,
    worker: OnceCell<Worker>,
}

impl Sqlite {
    /// Opens the file with the default [`SqliteOptions`]: makes it where there is none.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        Self::open_with(path, &SqliteOptions::default())
    }

    /// Opens the file, and brings it to this version's schema where the options say so.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is no file and none is to be made;
    /// [`DatabaseError::Unusable`] where it can't be opened or written, is no database, has an earlier schema that is
    /// not to be changed, or was made by a newer version.
    pub fn open_with(path: &Path, options: &SqliteOptions) -> Result<Self, DatabaseError> {
        if path == Path::new(MEMORY) {
            return Self::in_memory();
        }
        // The same file, wherever the process works by then.
        let path = path::absolute(path)
            .map_err(|error| DatabaseError::Unusable(format!("{} can't be found: {error}", path.display())))?;
        if options.access == Access::Read {
            let session = Session::reader(open::only_reader(&path)?);
            return Ok(Self::with_one(Worker::start("sqlite", session, options.batch)?, path, options));
        }
        let (connection, place) = open::writer(&path, options)?;
        let writer = Worker::start("sqlite-writer", Session::writer(connection, place, options)?, options.batch)?;
        let reader = Reader { path, options: options.clone(), worker: OnceCell::new() };
        Ok(Self { reader: Arc::new(reader), writer, revocations: Arc::default() })
    }

    /// Returns the version of a file's schema, and this program's. The file stays as it is.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with), for reading alone.
    #[cfg(feature = "cli")]
    pub(crate) fn schema(path: &Path) -> Result<(usize, usize), DatabaseError> {
        Ok((open::version(&open::only_reader(path)?)?, open::NEWEST))
    }

    /// Returns a database that lives as long as this value and its clones.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Unusable`] where SQLite can't make it.
    pub fn in_memory() -> Result<Self, DatabaseError> {
        let (path, options) = (PathBuf::from(MEMORY), SqliteOptions::default());
        let (connection, place) = open::writer(&path, &options)?;
        let only = Worker::in_place(Session::writer(connection, place, &options)?);
        Ok(Self::with_one(only, path, &options))
    }

    /// Returns a database on one connection.
    fn with_one(only: Worker, path: PathBuf, options: &SqliteOptions) -> Self {
        let reader = Reader { path, options: options.clone(), worker: OnceCell::new_with(Some(only.clone())) };
        Self { reader: Arc::new(reader), writer: only, revocations: Arc::default() }
    }

    /// Creates a workspace, which counts for a tenant's quota if it has one.
    async fn create(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
        allowance: Option<Arc<Allowance>>,
    ) -> Result<Created, Error> {
        let workspace = Workspace { id, name: name.to_owned(), account_id: grant.account_id };
        self.writer.create(Creation { workspace, grant: grant.clone(), claim: claim.cloned(), allowance }).await
    }

    async fn reader(&self) -> Result<&Worker, Error> {
        let open = || async {
            let (path, options) = (self.reader.path.clone(), self.reader.options.clone());
            let start = move || Worker::start("sqlite-reader", Session::reader(open::reader(&path)?), options.batch);
            match spawn_blocking(start).await {
                Ok(Err(DatabaseError::Storage(error))) => Err(error),
                Ok(started) => started.map_err(|error| Error::Unavailable(error.to_string())),
                Err(error) => Err(Error::Unavailable(error.to_string())),
            }
        };
        self.reader.worker.get_or_try_init(open).await
    }
}

#[async_trait]
impl Storage for Sqlite {
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
    ) -> Result<Created, Error> {
        self.create(id, grant, name, claim, None).await
    }

    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
        let claim = claim.clone();
        self.reader().await?.run(move |session| create::find_claimed(&session.connection, &claim)).await
    }

    async fn ready(&self) -> Result<(), Error> {
        match timeout(READY_TIMEOUT, self.writer.run(Session::require_ready)).await {
            Ok(ready) => ready,
            Err(_) => Err(Error::Unavailable(format!(
                "the database has not answered within {READY_TIMEOUT:?}: another process may hold its write lock"
            ))),
        }
    }
}

#[async_trait]
impl Directory for Sqlite {
    async fn find_key(&self, hash: &str) -> Result<Option<StoredKey>, LookUpError> {
        let hash = hash.to_owned();
        let found: Result<_, Error> = self
            .reader()
            .await?
            .run(move |session| {
                let mut statement = session
                    .connection
                    .prepare_cached("SELECT id, account, expires_at FROM account_api_keys WHERE key_hash = ?1")?;
                let key = statement.query_row([hash], |row| {
                    Ok(StoredKey { id: row.get(0)?, account_id: row.get(1)?, expires_at: row.get(2)? })
                });
                Ok(key.optional()?)
            })
            .await;
        Ok(found?)
    }

    async fn facts(&self, question: &Question) -> Result<Facts, LookUpError> {
        let question = *question;
        Ok(self.reader().await?.run(move |session| Ok::<_, Error>(facts(&session.connection, &question)?)).await?)
    }

    fn revocations(&self) -> u64 {
        self.revocations.load(Relaxed)
    }
}

/// Returns the facts that bear on a question, in the transaction that the connection is in.
fn facts(connection: &Connection, question: &Question) -> Result<Facts, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM accounts WHERE id = ?2),
                EXISTS (SELECT 1 FROM account_organization_ids WHERE account_id = ?1 AND organization_id = ?4),
                EXISTS (SELECT 1 FROM account_organization_ids mine
                        JOIN account_organization_ids theirs USING (organization_id)
                        WHERE mine.account_id = ?1 AND theirs.account_id = ?2),
                EXISTS (SELECT 1 FROM account_organization_ids WHERE account_id = ?2 AND organization_id = ?3)",
    )?;
    let ids = params![question.caller, question.account, question.organization, question.administrators];
    statement.query_row(ids, |row| {
        Ok(Facts {
            account_exists: row.get(0)?,
            caller_is_administrator: row.get(1)?,
            shares_organization: row.get(2)?,
            account_is_member: row.get(3)?,
        })
    })
}
