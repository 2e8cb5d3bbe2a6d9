//! A throw-away database with people in it.

use anyhow::{Context as _, Result};
use uuid::Uuid;

use crate::{
    auth::api_key::{Pepper, generate},
    cli::say,
    storage::{Database, NewKey},
};

/// What `--demo` puts in its database.
pub(super) struct Demo {
    organization: Uuid,
    accounts: [(Uuid, String); 2],
}

impl Demo {
    pub(super) async fn set_up(database: &dyn Database, pepper: &str) -> Result<Self> {
        let pepper = Pepper::new(pepper.as_bytes());
        let organization = database.create_account(None, Some("Demo organization".into())).await?.id;
        let mut accounts = [const { (Uuid::nil(), String::new()) }; 2];
        for (account, name) in accounts.iter_mut().zip(["Ada", "Grace"]) {
            let id = database.create_account(None, Some(name.into())).await?.id;
            database.add_member(organization, id).await?;
            let key = generate().context("no random bytes")?;
            let stored =
                NewKey { name: "demo".into(), hash: pepper.hash(&key), pepper: pepper.check(), expires_at: None };
            database.create_key(id, stored).await?;
            *account = (id, key);
        }
        Ok(Self { organization, accounts })
    }

    pub(super) fn print(&self, address: &str) -> Result<()> {
        let [(ada, key), (grace, other)] = &self.accounts;
        say(format_args!(
            "\nA throw-away database, gone when this stops:\n  organization {}\n  account      {ada}  key {key}\n  account      {grace}  key {other}\n",
            self.organization
        ))?;
        say("Paste this into another terminal:\n")?;
        say(format_args!(
            "curl -i {address}/api/workspaces -H 'x-api-key: {key}' -H 'Content-Type: application/json' -d '{{\"name\":\"My first workspace\",\"organization_id\":\"{}\"}}'\n",
            self.organization
        ))
    }
}
