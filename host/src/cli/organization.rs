use anyhow::{Result, ensure};
use clap::Subcommand;
use uuid::Uuid;

use super::{DatabaseArguments, account, print_all};
use crate::storage::{Database, Membership};

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
    /// End an account's membership in an organization
    RemoveMember {
        /// The organization's id
        organization: Uuid,
        /// The account's id
        account: Uuid,
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// List organizations that have members: organization, account, and their names
    List {
        /// Only this organization
        organization: Option<Uuid>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

impl Organization {
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Self::Create(create) => create.run().await,
            Self::AddMember { organization, account, database } => {
                let database = database.open().await?;
                ensure!(
                    !are_swapped(&*database, organization, account).await?,
                    "{account} has members and {organization} has none: give the organization first, then the account"
                );
                Ok(database.add_member(organization, account).await?)
            }
            Self::RemoveMember { organization, account, database } => {
                Ok(database.open_existing().await?.remove_member(organization, account).await?)
            }
            Self::List { organization, json, database } => {
                print_all(json, &database.open_to_read().await?.memberships(organization).await?, line)
            }
        }
    }
}

/// Returns whether the arguments look swapped: an organization as the member of an account that is none so far.
async fn are_swapped(database: &dyn Database, organization: Uuid, account: Uuid) -> Result<bool> {
    let has_no_members = database.memberships(Some(organization)).await?.is_empty();
    Ok(has_no_members && organization != account && !database.memberships(Some(account)).await?.is_empty())
}

fn line(membership: &Membership) -> String {
    let Membership { organization_id, organization_name, account_id, account_name } = membership;
    let [organization, account] = [organization_name, account_name].map(|name| name.as_deref().unwrap_or("-"));
    format!("{organization_id}  {account_id}  {organization}  {account}")
}
