use anyhow::Result;
use clap::Subcommand;
use uuid::Uuid;

use super::{DatabaseArguments, print_all};
use crate::storage::WorkspaceRow;

#[derive(Subcommand)]
pub(super) enum Workspace {
    /// List workspaces, oldest first: id, account, organization, name
    List {
        /// Only those of this account
        #[arg(long)]
        account: Option<Uuid>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

impl Workspace {
    pub(super) async fn run(self) -> Result<()> {
        let Self::List { account, json, database } = self;
        print_all(json, &database.open_to_read().await?.workspaces(account).await?, line)
    }
}

fn line(workspace: &WorkspaceRow) -> String {
    let organization = workspace.organization_id.map_or("-".into(), |id| id.to_string());
    let name = workspace.name.as_deref().unwrap_or_default();
    format!("{}  account {}  organization {organization}  {name}", workspace.id, workspace.account_id)
}
