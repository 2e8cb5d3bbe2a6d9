//! The conformance suite of storage, held to storages that are wrong: each case notices its fault.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use uuid::Uuid;
use workspaces_host::{
    Workspace,
    auth::{Basis, Grant},
    storage::{
        Claim, Created, Error, Storage,
        conformance::{self, Subject},
        sqlite::Sqlite,
    },
};
use workspaces_tests::conformance::{Fixture, forget_member};

/// Way in which a storage breaks the contract.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    OrganizationsAreForgotten,
    NamesAreCut,
    IdsAreOne,
    LostAccessIsUnknown,
    MembershipsAreNotAsked,
    AuthIsNotBelieved,
    KeysAreNotChecked,
    ClaimsAreNotFound,
    OtherRequestsAreReplayed,
    ClaimsAreEverybodys,
    FailuresClaim,
    ClaimsAreIgnored,
}

/// Storage with a fault, around one without.
struct Faulty {
    inner: Arc<dyn Storage>,
    fault: Fault,
    /// First workspace that was created, with a claim or any.
    first: Arc<Mutex<Option<Workspace>>>,
    failed: Arc<Mutex<bool>>,
}

fn locked<T: Clone>(mutex: &Mutex<T>) -> T {
    mutex.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[async_trait]
impl Storage for Faulty {
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
    ) -> Result<Created, Error> {
        let mut grant = grant.clone();
        let (mut name, mut claim) = (name.to_owned(), claim);
        match self.fault {
            Fault::OrganizationsAreForgotten => grant.organization_id = None,
            Fault::NamesAreCut => name = name.chars().take(100).collect(),
            Fault::MembershipsAreNotAsked => grant.basis = Basis::Auth,
            Fault::AuthIsNotBelieved if grant.basis == Basis::Auth => {
                grant.basis = Basis::Memberships { administrators: None };
            }
            Fault::KeysAreNotChecked => grant.key_id = None,
            Fault::ClaimsAreIgnored => claim = None,
            Fault::FailuresClaim if claim.is_some() && locked(&self.failed) => return Err(Error::AccessLost),
            Fault::ClaimsAreEverybodys if claim.is_some() => {
                if let Some(workspace) = locked(&self.first) {
                    return Ok(Created { workspace, replayed: true });
                }
            }
            _ => {}
        }
        let outcome = self.inner.create_workspace(id, &grant, &name, claim).await;
        match (self.fault, outcome) {
            (Fault::LostAccessIsUnknown, Err(Error::AccessLost)) => Err(Error::Unknown("lost".into())),
            (Fault::OtherRequestsAreReplayed, Err(Error::KeyReused)) => {
                let workspace = Workspace { id: Uuid::now_v7(), name, account_id: grant.account_id };
                Ok(Created { workspace, replayed: true })
            }
            (Fault::FailuresClaim, Err(error)) if claim.is_some() => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = true;
                Err(error)
            }
            (fault, Ok(mut created)) => {
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                let first = first.get_or_insert_with(|| created.workspace.clone());
                if fault == Fault::IdsAreOne {
                    created.workspace.id = first.id;
                }
                Ok(created)
            }
            (_, Err(error)) => Err(error),
        }
    }

    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
        match self.fault {
            Fault::ClaimsAreNotFound | Fault::ClaimsAreIgnored => Ok(None),
            _ => self.inner.find_claimed(claim).await,
        }
    }
}

/// Database whose storage has a fault.
struct FaultySubject<'a> {
    fixture: Fixture<'a>,
    fault: Fault,
    first: Arc<Mutex<Option<Workspace>>>,
    failed: Arc<Mutex<bool>>,
}

#[async_trait]
impl Subject for FaultySubject<'_> {
    fn storage(&self) -> Arc<dyn Storage> {
        let (first, failed) = (self.first.clone(), self.failed.clone());
        Arc::new(Faulty { inner: self.fixture.storage(), fault: self.fault, first, failed })
    }

    async fn make_account(&self) -> Uuid {
        self.fixture.make_account().await
    }

    async fn add_member(&self, organization: Uuid, account: Uuid) {
        self.fixture.add_member(organization, account).await;
    }

    async fn remove_member(&self, organization: Uuid, account: Uuid) {
        self.fixture.remove_member(organization, account).await;
    }

    async fn make_key(&self, account: Uuid, expires_at: Option<i64>) -> Uuid {
        self.fixture.make_key(account, expires_at).await
    }

    async fn revoke_key(&self, key: Uuid) {
        self.fixture.revoke_key(key).await;
    }

    async fn workspaces_of(&self, account: Uuid) -> Vec<(Uuid, String, Option<Uuid>)> {
        self.fixture.workspaces_of(account).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_notices_its_fault_and_says_what_it_expected_and_what_it_saw() -> Result<()> {
    for (fault, case, expected) in [
        (Fault::OrganizationsAreForgotten, "a workspace is stored as it was asked for", "these rows in any order"),
        (Fault::NamesAreCut, "a name is kept to the letter", "a row ("),
        (Fault::IdsAreOne, "ids are distinct and of version 7", "64 distinct ids"),
        (
            Fault::LostAccessIsUnknown,
            "an account or organization that does not exist is access lost",
            "Err(AccessLost)",
        ),
        (Fault::MembershipsAreNotAsked, "memberships are asked for again", "Err(AccessLost)"),
        (Fault::AuthIsNotBelieved, "what rests on auth alone is not", "a new workspace"),
        (Fault::KeysAreNotChecked, "an API key is checked again", "Err(CredentialLost)"),
        (Fault::ClaimsAreNotFound, "a claim gives the same workspace again", "Ok(Some("),
        (Fault::OtherRequestsAreReplayed, "a claim for another request is refused", "Err(KeyReused)"),
        (Fault::ClaimsAreEverybodys, "a claim is its caller's own", "a new workspace"),
        (Fault::FailuresClaim, "a create that failed claims nothing", "a new workspace"),
        (Fault::ClaimsAreIgnored, "one claim at once from many gives one workspace", "one new workspace"),
    ] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("workspaces.db");
        let database = Sqlite::open(&path)?;
        let remove = Box::new(move |organization, account| forget_member(&path, organization, account));
        let fixture = Fixture { database: Arc::new(database), remove };
        let subject = FaultySubject { fixture, fault, first: Arc::default(), failed: Arc::default() };
        let failures = conformance::run(&subject).await;
        let (_, said) =
            failures.iter().find(|(name, _)| *name == case).with_context(|| format!("{fault:?}: {failures:#?}"))?;
        assert!(said.contains(&format!("expected {expected}")) && said.contains(", saw "), "{fault:?}: {said}");
    }
    Ok(())
}
