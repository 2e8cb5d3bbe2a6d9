//! A component is tried on a stage, with an auth that grants and a storage that keeps nothing, before
//! requests come to it.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Component, Outcome, Runtime, World, judge};
use crate::{
    CreateWorkspaceRequest, Workspace,
    auth::{Auth, Basis, Caller, Credential, Denial, Grant},
    storage::{self, Claim, Created, Storage},
};

impl Runtime {
    /// Has a component answer some requests on a stage, within this runtime's limits.
    ///
    /// # Errors
    ///
    /// What it did wrong: a fault, or that it created nothing at all.
    pub(crate) async fn rehearse(&self, component: &Component) -> Result<(), String> {
        let world = World::stage();
        let mut created = 0;
        for request in requests() {
            let (_slot, turn) = self.admission.rehearsal().await.map_err(|error| error.to_string())?;
            let caller = Caller::new(Uuid::now_v7());
            let ran = self.run(component, &world, turn, caller, request.clone(), None).await;
            match judge(ran.answer, ran.write) {
                Outcome { fault: Some(fault), .. } => return Err(format!("{request:?}: {}", fault.cause)),
                Outcome { result, .. } => created += usize::from(result.is_ok()),
            }
        }
        match created {
            0 => Err("it creates no workspace, whatever it is asked".into()),
            _ => Ok(()),
        }
    }
}

impl World {
    /// One in which nobody is real.
    pub(super) fn stage() -> Self {
        Self { auth: Arc::new(Stage), storage: Arc::new(Stage) }
    }
}

/// What every component of the world will be asked sooner or later.
fn requests() -> [CreateWorkspaceRequest; 4] {
    let id = || Some(Uuid::now_v7().to_string());
    let none = CreateWorkspaceRequest::default();
    [
        none.clone(),
        CreateWorkspaceRequest { name: Some("Rehearsal".into()), account_id: id(), organization_id: id() },
        CreateWorkspaceRequest { name: Some("\u{0}".repeat(1000)), ..none.clone() },
        CreateWorkspaceRequest { account_id: Some("no id".into()), ..none },
    ]
}

/// Grants everything and keeps nothing.
struct Stage;

#[async_trait]
impl Auth for Stage {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Err(Denial::Unauthenticated("rehearsal"))
    }

    async fn authorize(
        &self,
        caller: &Caller,
        account: Option<Uuid>,
        organization: Option<Uuid>,
    ) -> Result<Grant, Denial> {
        Ok(Grant {
            caller_id: caller.account_id,
            account_id: account.unwrap_or(caller.account_id),
            organization_id: organization,
            key_id: None,
            basis: Basis::Auth,
        })
    }
}

#[async_trait]
impl Storage for Stage {
    async fn create_workspace(&self, grant: &Grant, name: &str, _: Option<&Claim>) -> Result<Created, storage::Error> {
        let workspace = Workspace { id: Uuid::now_v7(), name: name.to_owned(), account_id: grant.account_id };
        Ok(Created { workspace, replayed: false })
    }

    async fn find_claimed(&self, _: &Claim) -> Result<Option<Workspace>, storage::Error> {
        Ok(None)
    }
}
