use anyhow::Result;
use clap::Subcommand;
use uuid::Uuid;

use super::{DatabaseArguments, account};

#[derive(Subcommand)]
pub(super) enum Organization {
    /// Make an organization and print its id
    Create(account::Create),
    /// Make an account a member of an organization
    AddMember {
        /// The organization's id
        organization: Uuid,
        /// The account's id
        account: Uuid,
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

impl Organization {
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Self::Create(create) => create.run().await,
            Self::AddMember { organization, account, database } => {
                Ok(database.open().await?.add_member(organization, account).await?)
            }
        }
    }
}
