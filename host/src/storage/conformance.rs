//! Holds a [`Storage`] to its contract: one suite for the backends here, for wrappers around them, and
//! for those that others write.
//!
//! ```no_run
//! # use workspaces_host::storage::conformance::{self, Subject};
//! # async fn test(subject: impl Subject) {
//! let failures = conformance::run(&subject).await;
//! assert!(failures.is_empty(), "{failures:#?}");
//! # }
//! ```
//!
//! What it can't show is durability: for that, see the trials of this project, which cut the power.

use std::{collections::HashSet, fmt::Debug, future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;
use uuid::Uuid;

use super::{Claim, Created, Error, IdempotencyKey, Storage};
use crate::{
    CreateWorkspaceRequest, Workspace,
    auth::{Basis, Caller, Grant},
    now,
};

/// A storage to hold to the contract, and the ways around it that the suite needs to set the scene and
/// to see what was written. They may panic: a scene that can't be set is a failed test.
#[async_trait]
pub trait Subject: Sync {
    /// Returns the storage; a clone of it for each call, and all of them the same database.
    fn storage(&self) -> Arc<dyn Storage>;
    /// Makes an account, or an organization, which is one too.
    async fn make_account(&self) -> Uuid;
    /// Makes an account a member of an organization.
    async fn add_member(&self, organization: Uuid, account: Uuid);
    /// Takes that back.
    async fn remove_member(&self, organization: Uuid, account: Uuid);
    /// Stores an API key for an account, and returns its id. It expires at this time, in milliseconds since the Unix
    /// epoch; never where `None`.
    async fn make_key(&self, account: Uuid, expires_at: Option<i64>) -> Uuid;
    /// Revokes an API key.
    async fn revoke_key(&self, key: Uuid);
    /// Returns what is stored of an account's workspaces: id, name, and the organization each is linked
    /// to. Panics where one of them is there in part.
    async fn workspaces_of(&self, account: Uuid) -> Vec<(Uuid, String, Option<Uuid>)>;
}

type Verdict = Result<(), String>;
type Case<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// Runs every case and returns those that failed: the case's name, and what was expected beside what was seen.
pub async fn run(subject: &dyn Subject) -> Vec<(&'static str, String)> {
    let cases: [(&'static str, Case<'_>); 12] = [
        ("a workspace is stored as it was asked for", Box::pin(stored_as_asked(subject))),
        ("a name is kept to the letter", Box::pin(names_are_kept(subject))),
        ("ids are distinct and of version 7", Box::pin(ids_are_distinct(subject))),
        ("an account or organization that does not exist is access lost", Box::pin(missing_accounts(subject))),
        ("memberships are asked for again", Box::pin(memberships_are_asked_again(subject))),
        ("what rests on auth alone is not", Box::pin(auth_alone_is_not_asked(subject))),
        ("an API key is checked again", Box::pin(keys_are_checked_again(subject))),
        ("a claim gives the same workspace again", Box::pin(claims_replay(subject))),
        ("a claim for another request is refused", Box::pin(claims_of_other_requests(subject))),
        ("a claim is its caller's own", Box::pin(claims_are_the_callers(subject))),
        ("a create that failed claims nothing", Box::pin(failures_claim_nothing(subject))),
        ("one claim at once from many gives one workspace", Box::pin(claims_race(subject))),
    ];
    let mut failures = Vec::new();
    for (name, case) in cases {
        if let Err(seen) = case.await {
            failures.push((name, seen));
        }
    }
    failures
}

/// Checks a condition, which `expected` says in words.
fn expect(holds: bool, expected: &str, seen: impl Debug) -> Verdict {
    if holds { Ok(()) } else { Err(format!("expected {expected}, saw {seen:?}")) }
}

/// Checks that a value is the expected one. `of` says what it is the outcome of.
fn equal<T: Debug + PartialEq>(of: impl Debug, seen: &T, expected: &T) -> Verdict {
    if seen == expected { Ok(()) } else { Err(format!("{of:?}: expected {expected:?}, saw {seen:?}")) }
}

/// Returns a grant for the caller's own account.
fn own(account: Uuid) -> Grant {
    let basis = Basis::Memberships { administrators: None };
    Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis }
}

fn claim(caller: Uuid, key: &str, name: &str) -> Result<Claim, String> {
    let key = IdempotencyKey::new(key).map_err(|error| error.to_string())?;
    let request = CreateWorkspaceRequest { name: Some(name.into()), ..Default::default() };
    Ok(Claim::new(&Caller::new(caller), key, &request))
}

async fn create(subject: &dyn Subject, grant: &Grant, name: &str) -> Result<Workspace, String> {
    let id = Uuid::now_v7();
    let created = subject
        .storage()
        .create_workspace(id, grant, name, None)
        .await
        .map_err(|error| format!("expected a new workspace, saw {error:?}"))?;
    expect(!created.replayed && created.workspace.id == id, &format!("a new workspace with the id {id}"), &created)?;
    Ok(created.workspace)
}

async fn stored_as_asked(subject: &dyn Subject) -> Verdict {
    let (account, organization) = (subject.make_account().await, subject.make_account().await);
    subject.add_member(organization, account).await;
    let plain = create(subject, &own(account), "Plain").await?;
    let linked = create(subject, &Grant { organization_id: Some(organization), ..own(account) }, "Linked").await?;
    expect(plain.account_id == account && plain.name == "Plain", &format!("Plain of the account {account}"), &plain)?;
    expect(
        linked.account_id == account && linked.name == "Linked",
        &format!("Linked of the account {account}"),
        &linked,
    )?;
    let stored = subject.workspaces_of(account).await;
    let expected = [(plain.id, "Plain".to_owned(), None), (linked.id, "Linked".to_owned(), Some(organization))];
    let holds = stored.len() == 2 && expected.iter().all(|row| stored.contains(row));
    expect(holds, &format!("these rows in any order: {expected:?}"), stored)
}

async fn names_are_kept(subject: &dyn Subject) -> Verdict {
    let account = subject.make_account().await;
    for name in ["x", "Ünï 🎸", "'; DROP TABLE accounts; --", "a\u{2028}b", &"é".repeat(255)] {
        let workspace = create(subject, &own(account), name).await?;
        let stored = subject.workspaces_of(account).await;
        let expected = (workspace.id, name.to_owned(), None);
        expect(stored.contains(&expected), &format!("a row {expected:?}"), stored)?;
    }
    Ok(())
}

async fn ids_are_distinct(subject: &dyn Subject) -> Verdict {
    const CREATES: usize = 64;
    let account = subject.make_account().await;
    let ids = at_once(subject, CREATES, own(account), |_| None).await?;
    let distinct: HashSet<_> = ids.iter().map(|created| created.workspace.id).collect();
    expect(distinct.len() == CREATES, &format!("{CREATES} distinct ids"), &ids)?;
    expect(distinct.iter().all(|id| id.get_version_num() == 7), "ids of version 7 alone", &distinct)?;
    equal("number of stored workspaces", &subject.workspaces_of(account).await.len(), &CREATES)
}

/// Creates at the same time, and the workspaces that come of it.
async fn at_once(
    subject: &dyn Subject,
    creates: usize,
    grant: Grant,
    claim: impl Fn(usize) -> Option<Claim>,
) -> Result<Vec<Created>, String> {
    let tasks: Vec<_> = (0..creates)
        .map(|number| {
            let (storage, grant, claim) = (subject.storage(), grant.clone(), claim(number));
            tokio::spawn(
                async move { storage.create_workspace(Uuid::now_v7(), &grant, "At once", claim.as_ref()).await },
            )
        })
        .collect();
    let mut created = Vec::new();
    for task in tasks {
        let outcome = task.await.map_err(|error| error.to_string())?;
        created.push(outcome.map_err(|error| format!("expected a workspace, saw {error:?}"))?);
    }
    Ok(created)
}

async fn missing_accounts(subject: &dyn Subject) -> Verdict {
    let account = subject.make_account().await;
    let missing = Uuid::now_v7();
    for basis in [Basis::Auth, Basis::Memberships { administrators: None }] {
        for grant in [Grant { basis, ..own(missing) }, Grant { basis, organization_id: Some(missing), ..own(account) }]
        {
            let outcome = subject.storage().create_workspace(Uuid::now_v7(), &grant, "x", None).await;
            equal(grant, &outcome, &Err(Error::AccessLost))?;
        }
    }
    let stored = subject.workspaces_of(account).await;
    expect(stored.is_empty(), "no stored workspace", stored)
}

async fn memberships_are_asked_again(subject: &dyn Subject) -> Verdict {
    let (caller, account) = (subject.make_account().await, subject.make_account().await);
    let (shared, administrators) = (subject.make_account().await, subject.make_account().await);
    let shares = Grant { caller_id: caller, ..own(account) };
    let administers = Grant { basis: Basis::Memberships { administrators: Some(administrators) }, ..shares.clone() };
    let links = Grant { organization_id: Some(shared), ..own(account) };
    for (grant, organization, members) in [
        (&shares, shared, [caller, account]),
        (&administers, administrators, [caller, caller]),
        (&links, shared, [account, account]),
    ] {
        for member in members {
            subject.add_member(organization, member).await;
        }
        create(subject, grant, "Within reach").await?;
        for member in members {
            subject.remove_member(organization, member).await;
        }
        let outcome = subject.storage().create_workspace(Uuid::now_v7(), grant, "x", None).await;
        equal(grant, &outcome, &Err(Error::AccessLost))?;
    }
    let stored = subject.workspaces_of(account).await;
    expect(stored.len() == 3, "three stored workspaces", stored)
}

async fn auth_alone_is_not_asked(subject: &dyn Subject) -> Verdict {
    let (caller, account) = (subject.make_account().await, subject.make_account().await);
    let organization = subject.make_account().await;
    let grant = Grant {
        caller_id: caller,
        account_id: account,
        organization_id: Some(organization),
        key_id: None,
        basis: Basis::Auth,
    };
    let workspace = create(subject, &grant, "Elsewhere").await?;
    let stored = subject.workspaces_of(account).await;
    equal("what is stored", &stored, &vec![(workspace.id, "Elsewhere".to_owned(), Some(organization))])
}

async fn keys_are_checked_again(subject: &dyn Subject) -> Verdict {
    let (account, other) = (subject.make_account().await, subject.make_account().await);
    let grant = |key| Grant { key_id: Some(key), ..own(account) };
    let live = subject.make_key(account, None).await;
    let lasting = subject.make_key(account, Some(now() + 3_600_000)).await;
    for key in [live, lasting] {
        create(subject, &grant(key), "With a key").await?;
    }
    let first = claim(account, "key", "A")?;
    let created = subject.storage().create_workspace(Uuid::now_v7(), &grant(live), "A", Some(&first)).await;
    let Ok(Created { workspace, replayed: false }) = created else { return expect(false, "a new workspace", created) };

    let revoked = subject.make_key(account, None).await;
    for key in [live, revoked] {
        subject.revoke_key(key).await;
    }
    let lost = [
        ("revoked after a create", live),
        ("revoked before a create", revoked),
        ("expired", subject.make_key(account, Some(now() - 1)).await),
        ("another account's", subject.make_key(other, None).await),
        ("never stored", Uuid::now_v7()),
    ];
    for (number, (which, key)) in lost.into_iter().enumerate() {
        let claim = claim(account, &format!("key-{number}"), "x")?;
        for claim in [None, Some(&claim)] {
            let outcome = subject.storage().create_workspace(Uuid::now_v7(), &grant(key), "x", claim).await;
            equal(which, &outcome, &Err(Error::CredentialLost))?;
        }
        let found = subject.storage().find_claimed(&claim).await;
        equal(which, &found, &Ok(None))?;
    }
    // Access and key are both lost: the credential comes first, as it does in a request.
    let both = Grant { organization_id: Some(Uuid::now_v7()), ..grant(live) };
    let outcome = subject.storage().create_workspace(Uuid::now_v7(), &both, "x", None).await;
    equal("access and key lost", &outcome, &Err(Error::CredentialLost))?;
    // A replay writes nothing.
    let again = subject.storage().create_workspace(Uuid::now_v7(), &grant(live), "A", Some(&first)).await;
    equal("the claim again", &again, &Ok(Created { workspace, replayed: true }))?;
    let stored = subject.workspaces_of(account).await;
    expect(stored.len() == 3, "three stored workspaces", stored)
}

async fn claims_replay(subject: &dyn Subject) -> Verdict {
    let account = subject.make_account().await;
    let storage = subject.storage();
    let claim = claim(account, "replay", "A")?;
    equal("a claim before its create", &storage.find_claimed(&claim).await, &Ok(None))?;
    let first = storage.create_workspace(Uuid::now_v7(), &own(account), "A", Some(&claim)).await;
    let Ok(Created { workspace, replayed: false }) = first else { return expect(false, "a new workspace", first) };
    let found = storage.find_claimed(&claim).await;
    equal("the look-up of the claim", &found, &Ok(Some(workspace.clone())))?;
    // Also where the grant would be refused by now.
    for grant in [own(account), Grant { organization_id: Some(Uuid::now_v7()), ..own(account) }] {
        let again = storage.create_workspace(Uuid::now_v7(), &grant, "B", Some(&claim)).await;
        equal(grant, &again, &Ok(Created { workspace: workspace.clone(), replayed: true }))?;
    }
    let stored = subject.workspaces_of(account).await;
    equal("what is stored", &stored, &vec![(workspace.id, "A".to_owned(), None)])
}

async fn claims_of_other_requests(subject: &dyn Subject) -> Verdict {
    let account = subject.make_account().await;
    let storage = subject.storage();
    let (mine, other) = (claim(account, "other", "A")?, claim(account, "other", "B")?);
    storage
        .create_workspace(Uuid::now_v7(), &own(account), "A", Some(&mine))
        .await
        .map_err(|error| format!("expected a new workspace, saw {error:?}"))?;
    let outcome = storage.create_workspace(Uuid::now_v7(), &own(account), "B", Some(&other)).await;
    equal("a create with the key of another request", &outcome, &Err(Error::KeyReused))?;
    let found = storage.find_claimed(&other).await;
    equal("a look-up with the key of another request", &found, &Err(Error::KeyReused))?;
    equal("number of stored workspaces", &subject.workspaces_of(account).await.len(), &1)
}

async fn claims_are_the_callers(subject: &dyn Subject) -> Verdict {
    for _ in 0..2 {
        let account = subject.make_account().await;
        let claim = claim(account, "own", "A")?;
        let outcome = subject.storage().create_workspace(Uuid::now_v7(), &own(account), "A", Some(&claim)).await;
        expect(outcome.as_ref().is_ok_and(|created| !created.replayed), "a new workspace", outcome)?;
    }
    Ok(())
}

async fn failures_claim_nothing(subject: &dyn Subject) -> Verdict {
    let account = subject.make_account().await;
    let storage = subject.storage();
    let claim = claim(account, "failed", "A")?;
    let refused = Grant { organization_id: Some(Uuid::now_v7()), ..own(account) };
    let outcome = storage.create_workspace(Uuid::now_v7(), &refused, "A", Some(&claim)).await;
    equal("a create without access", &outcome, &Err(Error::AccessLost))?;
    let found = storage.find_claimed(&claim).await;
    equal("the claim of a create that failed", &found, &Ok(None))?;
    let outcome = storage.create_workspace(Uuid::now_v7(), &own(account), "A", Some(&claim)).await;
    expect(outcome.as_ref().is_ok_and(|created| !created.replayed), "a new workspace", outcome)
}

async fn claims_race(subject: &dyn Subject) -> Verdict {
    let account = subject.make_account().await;
    let claim = claim(account, "race", "A")?;
    let created = at_once(subject, 16, own(account), |_| Some(claim.clone())).await?;
    let new = created.iter().filter(|created| !created.replayed).count();
    expect(new == 1, "one new workspace, replayed to the others", &created)?;
    let ids: HashSet<_> = created.iter().map(|created| created.workspace.id).collect();
    expect(ids.len() == 1, "one id", &created)?;
    equal("number of stored workspaces", &subject.workspaces_of(account).await.len(), &1)
}
