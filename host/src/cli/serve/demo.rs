//! A throw-away database with people in it.

use anyhow::{Context as _, Result};
use uuid::Uuid;

use crate::{
    auth::api_key::{Pepper, generate},
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

    /// Returns the lines that tell people what there is and what to try.
    pub(super) fn lines(&self, address: &str) -> Vec<String> {
        let [(ada, ada_key), (grace, grace_key)] = &self.accounts;
        let organization = self.organization;
        let curl = |key: &str, body: String| {
            vec![
                format!("curl -i {address}/api/workspaces \\"),
                format!("  -H 'x-api-key: {key}' \\"),
                "  -H 'Content-Type: application/json' \\".to_owned(),
                format!("  -d '{body}'"),
            ]
        };
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        [
            lines(
                "\nA database in memory, gone when this stops. It holds an organization and its\n\
                 members Ada and Grace. Each may create workspaces for itself, for the other and\n\
                 for the organization. An API key says who asks.",
            ),
            vec![
                String::new(),
                format!("  organization  {organization}"),
                format!("  Ada           {ada}"),
                format!("    API key     {ada_key}"),
                format!("  Grace         {grace}"),
                format!("    API key     {grace_key}"),
            ],
            lines("\nPaste this into another terminal. It creates a workspace of Ada's for the\norganization, and answers 201:\n\n"),
            curl(ada_key, format!("{{\"name\":\"First\",\"organization_id\":\"{organization}\"}}")),
            lines("\nThe same for an account that is not there, which answers 403:\n\n"),
            curl(grace_key, format!("{{\"account_id\":\"{}\"}}", Uuid::nil())),
            vec![
                String::new(),
                "Next: change the name, leave out the key, send a request twice with the same".to_owned(),
                "Idempotency-Key. The API is described here, and Ctrl-C stops the server:".to_owned(),
                format!("{address}/openapi.json"),
            ],
        ]
        .concat()
    }
}
