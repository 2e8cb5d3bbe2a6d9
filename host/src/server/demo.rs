//! Demo: a throw-away database with an organization and two members.

use anyhow::{Context as _, Result};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    auth::api_key::{Pepper, generate},
    storage::{Database, NewKey},
};

/// Accounts and keys that `--demo` puts in its database.
#[derive(Serialize)]
pub(super) struct Demo {
    organization_id: Uuid,
    accounts: [Person; 2],
}

/// Member of the organization, with a key.
#[derive(Serialize)]
struct Person {
    name: &'static str,
    account_id: Uuid,
    api_key: String,
}

impl Demo {
    pub(super) async fn set_up(database: &dyn Database, pepper: &str) -> Result<Self> {
        let pepper = Pepper::new(pepper.as_bytes());
        let organization_id = database.create_account(None, Some("Demo organization".into())).await?.id;
        let person = async |name: &'static str| -> Result<Person> {
            let account_id = database.create_account(None, Some(name.into())).await?.id;
            database.add_member(organization_id, account_id).await?;
            let api_key = generate().context("no random bytes")?;
            let hash = pepper.hash(&api_key);
            let stored = NewKey { name: "demo".into(), hash, pepper: pepper.check(), expires_at: None };
            database.create_key(account_id, stored).await?;
            Ok(Person { name, account_id, api_key })
        };
        Ok(Self { organization_id, accounts: [person("Ada").await?, person("Grace").await?] })
    }

    /// Returns the lines that tell people what there is and what to try.
    pub(super) fn lines(&self, address: &str) -> Vec<String> {
        let Self { organization_id: organization, accounts: [ada, grace] } = self;
        let (ada_key, grace_key) = (&ada.api_key, &grace.api_key);
        let (ada, grace) = (ada.account_id, grace.account_id);
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
                "Idempotency-Key, or try the API in a browser. Ctrl-C stops the server.".to_owned(),
                format!("{address}/docs/"),
            ],
        ]
        .concat()
    }
}
