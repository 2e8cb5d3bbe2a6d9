use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use super::{DatabaseArguments, Explained as _, print, print_all, print_done};
use crate::auth::{jwt::MAX_SUBJECT, subject::Subject};

#[derive(Subcommand)]
pub(super) enum Account {
    /// Make an account and print its id
    Create(Create),
    /// List accounts but for workspaces, oldest first: id, name
    List {
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

impl SubjectArguments {
    /// Refuses an issuer and a subject that were swapped: an issuer is a URL (OpenID Connect Core, section 2), and few
    /// subjects are.
    fn require_order(&self) -> Result<()> {
        let is_url = |text: &str| text.starts_with("https://") || text.starts_with("http://");
        ensure!(
            is_url(&self.issuer) || !is_url(&self.subject),
            "the subject is a URL and the issuer is none: give the provider in --issuer and the person in --subject"
        );
        Ok(())
    }
}

/// Link that was made or removed, as it is printed.
#[derive(Serialize)]
struct Linked {
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<Uuid>,
    issuer: String,
    subject: String,
}

impl Linked {
    fn new(account_id: Option<Uuid>, SubjectArguments { issuer, subject }: &SubjectArguments) -> Self {
        Self { account_id, issuer: issuer.clone(), subject: subject.clone() }
    }
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
    pub(super) async fn run(self, json: bool) -> Result<()> {
        match self {
            Self::Create(create) => create.run(json).await,
            Self::List { database } => print_all(json, &database.open_existing().await?.accounts().await?, |account| {
                format!("{}  {}", account.id, account.name.as_deref().unwrap_or_default())
            }),
            Self::Link { account, subject, database } => {
                subject.require_order()?;
                let linked = Linked::new(Some(account), &subject);
                let database = database.open_existing().await?;
                database.link_subject(account, subject.into()).await.explained(&*database, account).await?;
                print_done(json, &linked)
            }
            Self::Unlink { account, subject, database } => {
                subject.require_order()?;
                let linked = Linked::new(account, &subject);
                database.open_existing().await?.unlink_subject(account, subject.into()).await?;
                print_done(json, &linked)
            }
        }
    }
}

impl Create {
    pub(super) async fn run(self, json: bool) -> Result<()> {
        let account = self.database.open().await?.create_account(self.id, self.name).await?;
        print(json, &account, account.id)
    }
}
