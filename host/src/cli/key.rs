use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use serde::Serialize;
use uuid::Uuid;

use super::{DatabaseArguments, Explained as _, PepperArguments, print, print_all, print_done, time::Time};
use crate::{
    auth::api_key::{Pepper, generate},
    now,
    server::pepper::{NO_PEPPER, key_names},
    storage::{ApiKey, NewKey},
};

#[derive(Subcommand)]
pub(super) enum Key {
    /// Make a key for an account and print it, this once
    Create {
        /// The account's id
        account: Uuid,
        /// Name of the key, such as its use
        #[arg(long, default_value = "workspaces key create")]
        name: String,
        /// Time for which it is valid, such as 12h or 30d; for ever by default
        #[arg(long, value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        #[command(flatten)]
        database: DatabaseArguments,
        #[command(flatten)]
        pepper: PepperArguments,
    },
    /// List keys: id, account, name, when made, when they expire
    List {
        /// Only those of this account
        account: Option<Uuid>,
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Revoke a key: it is refused from now on
    Revoke {
        /// The key's id, as `key list` prints it
        key: Uuid,
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

impl Key {
    pub(super) async fn run(self, json: bool) -> Result<()> {
        match self {
            Self::Create { account, name, expires_in, database, pepper } => {
                let secret = database.pepper(&pepper)?.context(NO_PEPPER)?;
                let (pepper, database) = (Pepper::new(secret.as_bytes()), database.open().await?);
                let others = database.keys_of_another_pepper(&pepper.check()).await?;
                ensure!(
                    others.is_empty(),
                    "the database has keys of another pepper, with which this one would not work: {}: give the pepper that they were made with, or revoke them first",
                    key_names(&others)
                );
                let key = generate().context("no random bytes for a key")?;
                let expires_at = expires_in.map(expiry).transpose()?;
                let new = NewKey { name, hash: pepper.hash(&key), pepper: pepper.check(), expires_at };
                let stored = database.create_key(account, new).await.explained(&*database, account).await?;
                #[derive(Serialize)]
                struct Created<'a> {
                    key: &'a str,
                    #[serde(flatten)]
                    stored: Row,
                }
                print(json, &Created { key: &key, stored: stored.into() }, &key)
            }
            Self::List { account, database } => {
                let database = database.open_to_read().await?;
                let keys = database.keys(account).await;
                let keys = match account {
                    Some(account) => keys.explained(&*database, account).await?,
                    None => keys?,
                };
                print_all(json, &keys.into_iter().map(Row::from).collect::<Vec<_>>(), Row::line)
            }
            Self::Revoke { key, database } => {
                let database = database.open_existing().await?;
                database.revoke_key(key).await.explained(&*database, key).await?;
                #[derive(Serialize)]
                struct Revoked {
                    id: Uuid,
                }
                print_done(json, &Revoked { id: key })
            }
        }
    }
}

/// A key as it is printed.
#[derive(Serialize)]
struct Row {
    id: Uuid,
    name: String,
    account_id: Uuid,
    created_at: Time,
    expires_at: Option<Time>,
}

impl From<ApiKey> for Row {
    fn from(key: ApiKey) -> Self {
        let ApiKey { id, name, account_id, created_at, expires_at } = key;
        Self { id, name, account_id, created_at: Time(created_at), expires_at: expires_at.map(Time) }
    }
}

impl Row {
    fn line(&self) -> String {
        let expires = self.expires_at.map_or("never".into(), |time| time.to_string());
        let Self { id, account_id, name, created_at, .. } = self;
        format!("{id}  account {account_id}  {name}  made {created_at}  expires {expires}")
    }
}

/// Returns the expiry of a key that is valid so long from now, in milliseconds since the Unix epoch.
fn expiry(valid: Duration) -> Result<i64> {
    let valid = i64::try_from(valid.as_millis()).ok();
    // Times are printed with four digits of the year.
    const YEAR_9999: i64 = 253_370_764_800_000;
    valid
        .and_then(|valid| now().checked_add(valid))
        .filter(|expiry| *expiry < YEAR_9999)
        .context("--expires-in is too long")
}
