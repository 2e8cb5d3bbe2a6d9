use anyhow::Result;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{DatabaseArguments, print, print_all};

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

impl Account {
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List { json, database } => {
                print_all(json, &database.open_to_read().await?.accounts().await?, |account| {
                    format!("{}  {}", account.id, account.name.as_deref().unwrap_or_default())
                })
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
