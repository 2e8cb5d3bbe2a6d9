//! Credentials and access rules of one's own: whoever knows the word may create for itself.
//!
//! `cargo run --package workspaces-host --example own_auth`
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest, Workspaces,
    auth::{Auth, Basis, Caller, Credential, Denial, Grant},
    storage::{Database as _, sqlite::Sqlite},
};

/// Account with a password.
struct Word {
    word: String,
    account: Uuid,
}

#[async_trait]
impl Auth for Word {
    async fn authenticate(&self, credential: &Credential) -> Result<Caller, Denial> {
        match credential {
            Credential::Bearer(word) if *word == self.word => Ok(Caller::new(self.account)),
            _ => Err(Denial::Unauthenticated("another word")),
        }
    }

    async fn authorize(
        &self,
        caller: &Caller,
        account: Option<Uuid>,
        organization: Option<Uuid>,
    ) -> Result<Grant, Denial> {
        if account.is_some_and(|account| account != caller.account_id) {
            return Err(Denial::AccountForbidden);
        }
        if organization.is_some() {
            return Err(Denial::OrganizationForbidden);
        }
        let account = caller.account_id;
        Ok(Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis: Basis::Auth })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let database = Arc::new(Sqlite::in_memory()?);
    let account = database.create_account(None, Some("Ada".into())).await?.id;
    let auth = Arc::new(Word { word: "mellon".into(), account });
    let workspaces = Workspaces::builder(database, auth).build()?;

    for word in ["mellon", "sesame"] {
        let request = CreateWorkspaceRequest { name: Some("Moria".into()), ..Default::default() };
        let answer = workspaces.create_workspace(&Credential::Bearer(word.into()), request, None).await;
        println!("{word}: {answer:?}");
    }
    Ok(())
}
