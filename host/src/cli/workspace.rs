use anyhow::Result;
use clap::Subcommand;
use uuid::Uuid;

use super::{DatabaseArguments, print_all, require_account};
use crate::storage::WorkspaceRow;

#[derive(Subcommand)]
pub(super) enum Workspace {
    /// List workspaces, oldest first: id, account, organization, name
    List {
        /// Only those of this account
        #[arg(long)]
        account: Option<Uuid>,
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

impl Workspace {
    pub(super) async fn run(self, json: bool) -> Result<()> {
        let Self::List { account, database } = self;
        let database = database.open_to_read().await?;
        let workspaces = database.workspaces(account).await?;
        if let (Some(account), true) = (account, workspaces.is_empty()) {
            require_account(&*database, account).await?;
        }
        print_all(json, &workspaces, line)
    }
}

fn line(workspace: &WorkspaceRow) -> String {
    let organization = workspace.organization_id.map_or("-".into(), |id| id.to_string());
    let name = workspace.name.as_deref().unwrap_or_default();
    format!("{}  account {}  organization {organization}  {name}", workspace.id, workspace.account_id)
}
