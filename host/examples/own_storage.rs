//! Storage of one's own: everything in memory, held to the contract by the conformance suite.
//!
//! `cargo run --package workspaces-host --example own_storage`
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use uuid::Uuid;
use workspaces_host::{
    Workspace,
    auth::{
        Basis, Grant,
        access::{Facts, Question},
    },
    storage::{
        self, Claim, Created, IdempotencyKey, Storage,
        conformance::{self, Subject},
    },
};

/// Storage that ends with the process. Clones share it.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    accounts: HashSet<Uuid>,
    /// Organization and member.
    memberships: HashSet<(Uuid, Uuid)>,
    /// Account and expiry by key, in milliseconds since the Unix epoch.
    keys: HashMap<Uuid, (Uuid, Option<i64>)>,
    /// Workspaces, with the organization that each is linked to.
    workspaces: Vec<(Workspace, Option<Uuid>)>,
    claims: HashMap<(Uuid, String), ([u8; 32], Workspace)>,
}

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// Returns the workspace that an earlier request created under this claim.
    fn claimed(&self, claim: &Claim) -> Result<Option<Workspace>, storage::Error> {
        match self.claims.get(&by_caller(claim.caller_id, &claim.key)) {
            None => Ok(None),
            Some((fingerprint, workspace)) if *fingerprint == claim.fingerprint => Ok(Some(workspace.clone())),
            Some(_) => Err(storage::Error::KeyReused),
        }
    }

    fn facts(&self, question: &Question) -> Facts {
        let is_member = |organization: Uuid, account: Uuid| self.memberships.contains(&(organization, account));
        let shares = |(organization, member): &(Uuid, Uuid)| {
            *member == question.caller && is_member(*organization, question.account)
        };
        Facts {
            account_exists: self.accounts.contains(&question.account),
            caller_is_administrator: question.administrators.is_some_and(|them| is_member(them, question.caller)),
            shares_organization: self.memberships.iter().any(shares),
            account_is_member: question.organization.is_some_and(|them| is_member(them, question.account)),
        }
    }

    /// Checks access and the API key again, as the contract asks of the transaction that writes.
    fn check(&self, grant: &Grant) -> Result<(), storage::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let is_valid = |key: Uuid| match self.keys.get(&key) {
            Some((account, expires_at)) => {
                *account == grant.caller_id && expires_at.is_none_or(|expiry| i128::from(expiry) > now as i128)
            }
            None => false,
        };
        if grant.key_id.is_some_and(|key| !is_valid(key)) {
            return Err(storage::Error::CredentialLost);
        }
        let exists = |account: Uuid| self.accounts.contains(&account);
        let has_access = match Question::behind(grant) {
            Some(question) => question.decide(self.facts(&question)).is_ok(),
            None => true,
        };
        match has_access && exists(grant.account_id) && grant.organization_id.is_none_or(exists) {
            true => Ok(()),
            false => Err(storage::Error::AccessLost),
        }
    }
}

fn by_caller(caller: Uuid, key: &IdempotencyKey) -> (Uuid, String) {
    (caller, key.as_str().to_owned())
}

#[async_trait]
impl Storage for Memory {
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
    ) -> Result<Created, storage::Error> {
        // One lock over all of it is the transaction.
        let mut tables = self.tables();
        if let Some(workspace) = claim.map(|claim| tables.claimed(claim)).transpose()?.flatten() {
            return Ok(Created { workspace, replayed: true });
        }
        tables.check(grant)?;
        let workspace = Workspace { id, name: name.to_owned(), account_id: grant.account_id };
        tables.workspaces.push((workspace.clone(), grant.organization_id));
        if let Some(claim) = claim {
            tables.claims.insert(by_caller(claim.caller_id, &claim.key), (claim.fingerprint, workspace.clone()));
        }
        Ok(Created { workspace, replayed: false })
    }

    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, storage::Error> {
        self.tables().claimed(claim)
    }
}

/// Ways around the storage, by which the suite sets its scenes.
#[async_trait]
impl Subject for Memory {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    async fn make_account(&self) -> Uuid {
        let account = Uuid::now_v7();
        self.tables().accounts.insert(account);
        account
    }

    async fn add_member(&self, organization: Uuid, account: Uuid) {
        self.tables().memberships.insert((organization, account));
    }

    async fn remove_member(&self, organization: Uuid, account: Uuid) {
        self.tables().memberships.remove(&(organization, account));
    }

    async fn make_key(&self, account: Uuid, expires_at: Option<i64>) -> Uuid {
        let key = Uuid::now_v7();
        self.tables().keys.insert(key, (account, expires_at));
        key
    }

    async fn revoke_key(&self, key: Uuid) {
        self.tables().keys.remove(&key);
    }

    async fn workspaces_of(&self, account: Uuid) -> Vec<(Uuid, String, Option<Uuid>)> {
        let tables = self.tables();
        let own = tables.workspaces.iter().filter(|(workspace, _)| workspace.account_id == account);
        own.map(|(workspace, organization)| (workspace.id, workspace.name.clone(), *organization)).collect()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let memory = Memory::default();
    let failures = conformance::run(&memory).await;
    println!("failures of the contract: {failures:#?}");

    let account = memory.make_account().await;
    let basis = Basis::Memberships { administrators: None };
    let grant = Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis };
    println!("{:?}", memory.create_workspace(Uuid::now_v7(), &grant, "Studio", None).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_storage_keeps_the_contract() {
        let failures = conformance::run(&Memory::default()).await;
        assert!(failures.is_empty(), "{failures:#?}");
    }
}
