use anyhow::{Result, bail, ensure};
use clap::Subcommand;
use serde::Serialize;
use uuid::Uuid;

use super::{DatabaseArguments, account, print_all, print_done, require_account};
use crate::storage::{Database, DatabaseError, Membership};

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
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

impl Organization {
    pub(super) async fn run(self, json: bool) -> Result<()> {
        match self {
            Self::Create(create) => create.run(json).await,
            Self::AddMember { organization, account, database } => {
                let database = database.open().await?;
                ensure!(
                    !are_swapped(&*database, organization, account).await?,
                    "{account} has members and {organization} has none: give the organization first, then the account"
                );
                database.add_member(organization, account).await?;
                print_done(json, &Member { organization_id: organization, account_id: account })
            }
            Self::RemoveMember { organization, account, database } => {
                let database = database.open_existing().await?;
                match database.remove_member(organization, account).await {
                    Err(DatabaseError::NotFound(_)) if is_member(&*database, account, organization).await? => {
                        bail!("{organization} is a member of {account}: give the organization first, then the account")
                    }
                    removed => removed?,
                }
                print_done(json, &Member { organization_id: organization, account_id: account })
            }
            Self::List { organization, database } => {
                let database = database.open_to_read().await?;
                let memberships = database.memberships(organization).await?;
                if let (Some(organization), true) = (organization, memberships.is_empty()) {
                    require_account(&*database, organization).await?;
                }
                print_all(json, &memberships, line)
            }
        }
    }
}

/// Membership that was made or ended, as it is printed.
#[derive(Serialize)]
struct Member {
    organization_id: Uuid,
    account_id: Uuid,
}

/// Returns whether an account is a member of an organization.
async fn is_member(database: &dyn Database, organization: Uuid, account: Uuid) -> Result<bool> {
    Ok(database.memberships(Some(organization)).await?.iter().any(|membership| membership.account_id == account))
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
