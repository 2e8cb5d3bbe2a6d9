use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::Serialize;
use uuid::Uuid;

use super::{DatabaseArguments, PepperArguments, print, print_all};
use crate::{
    auth::api_key::generate,
    now,
    storage::{ApiKey, NewKey},
};

#[derive(Subcommand)]
pub(super) enum Key {
    /// Make a key for an account and print it, this once
    Create {
        /// The account's id
        account: Uuid,
        /// What the key is for
        #[arg(long, default_value = "workspaces key create")]
        name: String,
        /// How long it is valid, such as 12h or 30d; for ever by default
        #[arg(long, value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArguments,
        #[command(flatten)]
        pepper: PepperArguments,
    },
    /// List the keys of an account: id, name, when made, when they expire
    List {
        /// The account's id
        account: Uuid,
        /// Print JSON
        #[arg(long)]
        json: bool,
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
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Self::Create { account, name, expires_in, json, database, pepper } => {
                let pepper = pepper.pepper()?;
                let key = generate().context("no random bytes for a key")?;
                let expires_at = expires_in.map(expiry).transpose()?;
                let new = NewKey { name, hash: pepper.hash(&key), pepper: pepper.check(), expires_at };
                let stored = database.open().await?.create_key(account, new).await?;
                #[derive(Serialize)]
                struct Created<'a> {
                    key: &'a str,
                    #[serde(flatten)]
                    stored: ApiKey,
                }
                print(json, &Created { key: &key, stored }, &key)
            }
            Self::List { account, json, database } => {
                print_all(json, &database.open_existing().await?.keys(account).await?, line)
            }
            Self::Revoke { key, database } => Ok(database.open_existing().await?.revoke_key(key).await?),
        }
    }
}

/// When a key that is valid so long from now expires, in milliseconds since the Unix epoch.
fn expiry(valid: Duration) -> Result<i64> {
    let valid = i64::try_from(valid.as_millis()).ok();
    // Dates are printed with four digits of the year.
    const YEAR_9999: i64 = 253_370_764_800_000;
    valid
        .and_then(|valid| now().checked_add(valid))
        .filter(|expiry| *expiry < YEAR_9999)
        .context("--expires-in is too long")
}

fn line(key: &ApiKey) -> String {
    let expires = key.expires_at.map_or("never".into(), date);
    format!("{}  {}  made {}  expires {expires}", key.id, key.name, date(key.created_at))
}

fn date(milliseconds: i64) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    humantime::format_rfc3339_seconds(time).to_string()
}
