//! SQLite: one file, one writer.
//!
//! Two threads own a connection each: one writes, one only reads, from when it is first asked. Creates
//! go to the writer over a bounded queue; it takes what has gathered there into one transaction, syncs
//! it, and answers.

mod create;
mod maintenance;
mod open;
mod operator;
mod session;
mod worker;

use std::{
    path::{self, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::{sync::OnceCell, task::spawn_blocking};
use uuid::Uuid;

pub use self::open::Options;
use self::{create::Creation, session::Session, worker::Worker};
use super::{Claim, Created, DatabaseError, Error, Storage};
use crate::{
    Workspace,
    auth::{
        Grant,
        access::{Facts, Question},
        api_key::{Directory, StoredKey},
    },
};

/// A database in one file, or in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct Sqlite {
    writer: Worker,
    reader: Arc<Reader>,
}

/// What reads a file. Opened by the first who asks: a tenant that nobody asks costs half as much.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    options: Options,
    worker: OnceCell<Worker>,
}

impl Sqlite {
    /// Opens the file with the default [`Options`]: makes it where there is none.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        Self::open_with(path, &Options::default())
    }

    /// Opens the file and brings it to this version's schema.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is no file and none is to be made;
    /// [`DatabaseError::Unusable`] where it can't be opened or written, is no database, or was made by
    /// a newer version.
    pub fn open_with(path: &Path, options: &Options) -> Result<Self, DatabaseError> {
        let writer = Session::new(open::writer(path, options)?, options)?;
        let writer = Worker::start("sqlite-writer", writer, options.batch)?;
        // The same file, wherever the process works by then.
        let path = path::absolute(path)
            .map_err(|error| DatabaseError::Unusable(format!("{} can't be found: {error}", path.display())))?;
        let reader = Reader { path, options: options.clone(), worker: OnceCell::new() };
        Ok(Self { writer, reader: Arc::new(reader) })
    }

    /// A database that lives as long as this value and its clones.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Unusable`] where SQLite can't make it.
    pub fn in_memory() -> Result<Self, DatabaseError> {
        let (path, options) = (PathBuf::from(":memory:"), Options::default());
        let session = Session::new(open::writer(&path, &options)?, &options)?;
        let only = Worker::start("sqlite", session, options.batch)?;
        let reader = Reader { path, options, worker: OnceCell::new_with(Some(only.clone())) };
        Ok(Self { writer: only, reader: Arc::new(reader) })
    }

    async fn reader(&self) -> Result<&Worker, Error> {
        let open = || async {
            let (path, options) = (self.reader.path.clone(), self.reader.options.clone());
            let start = move || {
                let session = Session::new(open::reader(&path)?, &options)?;
                Worker::start("sqlite-reader", session, options.batch)
            };
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
    async fn create_workspace(&self, grant: &Grant, name: &str, claim: Option<&Claim>) -> Result<Created, Error> {
        let workspace = Workspace { id: Uuid::now_v7(), name: name.to_owned(), account_id: grant.account_id };
        self.writer.create(Creation { workspace, grant: grant.clone(), claim: claim.cloned() }).await
    }

    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
        let claim = claim.clone();
        self.reader().await?.run(move |session| create::find_claimed(&session.connection, &claim)).await
    }

    async fn ready(&self) -> Result<(), Error> {
        self.writer.run(Session::require_writable).await
    }
}

#[async_trait]
impl Directory for Sqlite {
    async fn find_key(&self, hash: &str) -> Result<Option<StoredKey>, Error> {
        let hash = hash.to_owned();
        self.reader()
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
            .await
    }

    async fn facts(&self, question: &Question) -> Result<Facts, Error> {
        let question = *question;
        self.reader().await?.run(move |session| Ok(facts(&session.connection, &question)?)).await
    }
}

/// The facts that bear on a question, in the transaction that the connection is in.
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
