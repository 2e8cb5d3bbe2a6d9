use anyhow::Result;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{DatabaseArguments, print, print_all};
use crate::auth::{jwt::MAX_SUBJECT, subject::Subject};

#[derive(Subcommand)]
pub(super) enum Account {
    /// Make an account and print its id
    Create(Create),
    /// List accounts but for workspaces, oldest first: id, name
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Link a subject of an identity provider to an account, for which its tokens then stand
    Link {
        /// The account's id
        account: Uuid,
        #[command(flatten)]
        subject: SubjectArguments,
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Remove the link of a subject of an identity provider
    Unlink {
        /// The account's id, to remove a link to no other
        account: Option<Uuid>,
        #[command(flatten)]
        subject: SubjectArguments,
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

/// Options of a new account, which may be an organization.
#[derive(Args)]
pub(super) struct Create {
    /// Name of it
    #[arg(long)]
    name: Option<String>,
    /// The id to give it; a new one by default
    #[arg(long)]
    id: Option<Uuid>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArguments,
}

/// Subject of an identity provider.
#[derive(Args)]
pub(super) struct SubjectArguments {
    /// The `iss` of the provider's tokens, to the letter
    #[arg(long, value_name = "ISSUER")]
    issuer: String,
    /// The `sub` of the subject's tokens, such as auth0|507f1f77bcf86cd799439011
    #[arg(long, value_name = "SUBJECT", value_parser = subject)]
    subject: String,
}

/// Reads a subject of a length that a token can have.
fn subject(text: &str) -> Result<String, String> {
    match (1..=MAX_SUBJECT).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!("a subject has 1 to {MAX_SUBJECT} bytes")),
    }
}

impl From<SubjectArguments> for Subject {
    fn from(SubjectArguments { issuer, subject }: SubjectArguments) -> Self {
        Self { issuer, name: subject }
    }
}

impl Account {
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List { json, database } => {
                print_all(json, &database.open_existing().await?.accounts().await?, |account| {
                    format!("{}  {}", account.id, account.name.as_deref().unwrap_or_default())
                })
            }
            Self::Link { account, subject, database } => {
                Ok(database.open_existing().await?.link_subject(account, subject.into()).await?)
            }
            Self::Unlink { account, subject, database } => {
                Ok(database.open_existing().await?.unlink_subject(account, subject.into()).await?)
            }
        }
    }
}

impl Create {
    pub(super) async fn run(self) -> Result<()> {
        let account = self.database.open().await?.create_account(self.id, self.name).await?;
        print(self.json, &account, account.id)
    }
}
