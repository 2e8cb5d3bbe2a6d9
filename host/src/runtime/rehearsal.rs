//! A component is tried on a stage, with an auth that grants and a storage that keeps nothing, before
//! requests come to it.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Component, Input, Instances, Reconciled, Runtime, Services, reconcile};
use crate::{
    CreateWorkspaceRequest, Workspace,
    auth::{Auth, Basis, Caller, Credential, Denial, Grant},
    excerpt::clipped,
    storage::{self, Claim, Created, Storage},
};

/// Longest request in an error, in bytes.
const MAX_REQUEST: usize = 200;

impl Runtime {
    /// Has a component answer some requests on a stage, within this runtime's limits.
    ///
    /// # Errors
    ///
    /// What it did wrong: a fault, or that it created nothing at all.
    pub(crate) async fn rehearse(&self, component: &Component) -> Result<(), String> {
        let services = Services::stage();
        let instances = Instances::new(self.capacity.sandboxes().clone(), &self.limits);
        let mut created = 0;
        for request in requests() {
            let (_slot, turn) = self.capacity.rehearsal().await.map_err(|error| error.to_string())?;
            let caller = Caller::new(Uuid::now_v7());
            let input = Input { caller, request: request.clone(), claim: None, tape: None };
            let ran = self.run(component, &instances, &services, turn, input).await;
            match reconcile(ran.answer, ran.write) {
                Reconciled { fault: Some(fault), .. } => {
                    let request = clipped(format_args!("{request:?}"), MAX_REQUEST);
                    return Err(format!("{request}: {}", fault.cause));
                }
                Reconciled { result, .. } => created += usize::from(result.is_ok()),
            }
        }
        match created {
            0 => Err("it creates no workspace, whatever it is asked".into()),
            _ => Ok(()),
        }
    }
}

impl Services {
    /// Returns the stage: an auth that grants everything, and a storage that keeps nothing.
    pub(super) fn stage() -> Self {
        Self { auth: Arc::new(Stage), storage: Arc::new(Stage) }
    }
}

/// Returns requests such as every component will get sooner or later.
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
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        _: Option<&Claim>,
    ) -> Result<Created, storage::Error> {
        let workspace = Workspace { id, name: name.to_owned(), account_id: grant.account_id };
        Ok(Created { workspace, replayed: false })
    }

    async fn find_claimed(&self, _: &Claim) -> Result<Option<Workspace>, storage::Error> {
        Ok(None)
    }
}
