//! An auth that denies nothing.

use async_trait::async_trait;
use uuid::Uuid;
use workspaces_host::auth::{Auth, Basis, Caller, Credential, Denial, Grant};

/// Grants what it is asked, for the caller's own account.
pub struct Open;

#[async_trait]
impl Auth for Open {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Err(Denial::Unauthenticated("no credential is valid here"))
    }

    async fn authorize(&self, caller: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        let own = caller.account_id;
        Ok(Grant { caller_id: own, account_id: own, organization_id: None, key_id: None, basis: Basis::Auth })
    }
}
