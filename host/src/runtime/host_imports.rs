//! The component's imports over the host's traits; the only file with WIT types.

use std::mem;

use uuid::Uuid;
use wasmtime::component::{Resource, ResourceTable};

use self::bindings::recoup::workspaces::{auth as wit_auth, storage as wit_storage, types};
use super::{
    calls::Calls,
    memory::Memory,
    script::{self, Call, Reply, Script},
    turn::Turn,
    wasi::Written,
};
use crate::{
    MAX_NAME_CHARACTERS,
    auth::{self, Basis},
    storage,
};

pub(super) mod bindings {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "recoup:workspaces/auth.grant": super::Grant },
    });
}

/// A grant in a component's hands.
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Grant {
    grant: auth::Grant,
    used: bool,
}

/// State of a sandbox: one request's share of the host.
pub(super) struct State {
    /// Calls to auth and storage, over all sandboxes of the request.
    pub(super) calls: Calls,
    /// The right to run.
    pub(super) turn: Turn,
    pub(super) memory: Memory,
    pub(super) grants: ResourceTable,
    /// Output of the component in this call.
    pub(super) written: Written,
    /// Number of calls to the host that are left to it.
    pub(super) host_calls: u32,
    /// Answers calls in place of auth and storage, where a component is judged.
    pub(super) script: Option<Script>,
}

impl State {
    /// Writes down a call, where the request may be recorded.
    fn begin(&mut self, call: impl FnOnce() -> Call) {
        if let Some(tape) = &mut self.calls.tape {
            tape.begin(call());
        }
    }

    /// Writes down the answer to the last call.
    fn end(&mut self, reply: impl FnOnce() -> Reply) {
        if let Some(tape) = &mut self.calls.tape {
            tape.end(reply());
        }
    }

    /// Counts a call to the host.
    pub(super) fn count(&mut self) -> Result<(), TooManyHostCalls> {
        self.host_calls = self.host_calls.checked_sub(1).ok_or(TooManyHostCalls)?;
        Ok(())
    }
}

/// The component has made all the calls to the host that it may make.
#[derive(Debug, thiserror::Error)]
#[error("more calls to the host than its limit")]
pub(super) struct TooManyHostCalls;

/// The component wants to create for another account or organization than the request names.
#[derive(Debug, thiserror::Error)]
#[error("a workspace for another account or organization than the request names")]
pub(super) struct NotAsked;

impl types::Host for State {}

impl wit_auth::Host for State {
    async fn authorize(
        &mut self,
        account: Option<types::Uuid>,
        organization: Option<types::Uuid>,
    ) -> wasmtime::Result<Result<Resource<Grant>, wit_auth::Denial>> {
        self.count()?;
        if let Some(script) = &mut self.script {
            let (account_id, organization_id) = (account.map(Uuid::from), organization.map(Uuid::from));
            return match script.answer(Call::Authorize { account_id, organization_id }).await? {
                Reply::Grant { account_id, organization_id } => {
                    let caller_id = account_id;
                    let grant =
                        auth::Grant { caller_id, account_id, organization_id, key_id: None, basis: Basis::Auth };
                    Ok(Ok(self.grants.push(Grant { grant, used: false })?))
                }
                Reply::Denied(denial) => Ok(Err(denial.into())),
                other => Err(script.unfit(other)),
            };
        }
        let (account_id, organization_id) = (account.map(Uuid::from), organization.map(Uuid::from));
        self.begin(|| Call::Authorize { account_id, organization_id });
        Ok(match self.calls.authorize(account_id, organization_id).await? {
            Ok(grant) => {
                self.end(|| Reply::Grant { account_id: grant.account_id, organization_id: grant.organization_id });
                Ok(self.grants.push(Grant { grant, used: false })?)
            }
            Err(denial) => {
                let denial = wit_auth::Denial::from(denial);
                self.end(|| Reply::Denied(denial.into()));
                Err(denial)
            }
        })
    }
}

impl wit_auth::HostGrant for State {
    async fn account_id(&mut self, grant: Resource<Grant>) -> wasmtime::Result<types::Uuid> {
        self.count()?;
        let account = self.grants.get(&grant)?.grant.account_id;
        if let Some(script) = &mut self.script {
            return match script.answer(Call::AccountId).await? {
                Reply::Account(id) => Ok(id.into()),
                other => Err(script.unfit(other)),
            };
        }
        self.begin(|| Call::AccountId);
        self.end(|| Reply::Account(account));
        Ok(account.into())
    }

    async fn organization_id(&mut self, grant: Resource<Grant>) -> wasmtime::Result<Option<types::Uuid>> {
        self.count()?;
        let organization = self.grants.get(&grant)?.grant.organization_id;
        if let Some(script) = &mut self.script {
            return match script.answer(Call::OrganizationId).await? {
                Reply::Organization(id) => Ok(id.map(Into::into)),
                other => Err(script.unfit(other)),
            };
        }
        self.begin(|| Call::OrganizationId);
        self.end(|| Reply::Organization(organization));
        Ok(organization.map(Into::into))
    }

    async fn drop(&mut self, grant: Resource<Grant>) -> wasmtime::Result<()> {
        self.count()?;
        self.grants.delete(grant)?;
        if let Some(script) = &mut self.script {
            return match script.answer(Call::DropGrant).await? {
                Reply::Dropped => Ok(()),
                other => Err(script.unfit(other)),
            };
        }
        self.begin(|| Call::DropGrant);
        self.end(|| Reply::Dropped);
        Ok(())
    }
}

impl wit_storage::Host for State {
    async fn create_workspace(
        &mut self,
        handle: Resource<Grant>,
        name: String,
    ) -> wasmtime::Result<Result<types::Uuid, wit_storage::Error>> {
        self.count()?;
        // A handle that is none is a trap, and no call.
        self.grants.get(&handle)?;
        if let Some(script) = &mut self.script {
            return match script.answer(Call::CreateWorkspace { name }).await? {
                Reply::Created(id) => Ok(Ok(id.into())),
                Reply::Failed(error) => Ok(Err(error.into())),
                other => Err(script.unfit(other)),
            };
        }
        self.begin(|| Call::CreateWorkspace { name: name.clone() });
        let stored = self.store(handle, name).await;
        self.end(|| match &stored {
            Ok(Ok(id)) => Reply::Created((*id).into()),
            Ok(Err(error)) => Reply::Failed((*error).into()),
            Err(_) => Reply::Trap,
        });
        stored
    }
}

impl State {
    /// Has storage create the workspace of a grant.
    async fn store(
        &mut self,
        handle: Resource<Grant>,
        name: String,
    ) -> wasmtime::Result<Result<types::Uuid, wit_storage::Error>> {
        let grant = self.grants.get_mut(&handle)?;
        // One workspace a request: a second grant is no way to a second one.
        if mem::replace(&mut grant.used, true) || !self.calls.may_create() {
            return Ok(Err(wit_storage::Error::GrantUsed));
        }
        // The component would answer for another account than the client named.
        if !self.calls.asked.is_for(&grant.grant) {
            return Err(NotAsked.into());
        }
        if name.is_empty() || name.chars().count() > MAX_NAME_CHARACTERS || name.chars().any(char::is_control) {
            return Ok(Err(wit_storage::Error::InvalidName));
        }
        let stored = self.calls.create(grant.grant.clone(), name).await?;
        Ok(stored.map(Into::into).map_err(|error| (&error).into()))
    }
}

impl From<wit_auth::Denial> for script::Denial {
    fn from(denial: wit_auth::Denial) -> Self {
        match denial {
            wit_auth::Denial::Unauthenticated => Self::Unauthenticated,
            wit_auth::Denial::AccountForbidden => Self::AccountForbidden,
            wit_auth::Denial::OrganizationForbidden => Self::OrganizationForbidden,
            wit_auth::Denial::Unavailable => Self::Unavailable,
        }
    }
}

impl From<wit_storage::Error> for script::StorageError {
    fn from(error: wit_storage::Error) -> Self {
        match error {
            wit_storage::Error::GrantUsed => Self::GrantUsed,
            wit_storage::Error::AccessLost => Self::AccessLost,
            wit_storage::Error::InvalidName => Self::InvalidName,
            wit_storage::Error::Unavailable => Self::Unavailable,
            wit_storage::Error::Unknown => Self::Unknown,
        }
    }
}

impl From<types::Uuid> for Uuid {
    fn from(id: types::Uuid) -> Self {
        Self::from_u64_pair(id.high, id.low)
    }
}

impl From<Uuid> for types::Uuid {
    fn from(id: Uuid) -> Self {
        let (high, low) = id.as_u64_pair();
        Self { high, low }
    }
}

impl From<auth::Denial> for wit_auth::Denial {
    fn from(denial: auth::Denial) -> Self {
        match denial {
            auth::Denial::Unauthenticated(_) => Self::Unauthenticated,
            auth::Denial::NoAccount | auth::Denial::AccountForbidden => Self::AccountForbidden,
            auth::Denial::OrganizationForbidden => Self::OrganizationForbidden,
            // The contract has no case for the first: the host answers the client itself, see `Write::Refused`.
            auth::Denial::Misconfigured | auth::Denial::Unavailable => Self::Unavailable,
        }
    }
}

impl From<&storage::Error> for wit_storage::Error {
    fn from(error: &storage::Error) -> Self {
        match error {
            storage::Error::AccessLost => Self::AccessLost,
            storage::Error::Unknown(_) => Self::Unknown,
            // The contract has no case for the others: the host answers the client itself, see `Write::Refused`.
            storage::Error::CredentialLost
            | storage::Error::KeyReused
            | storage::Error::QuotaReached(_)
            | storage::Error::Refused(_)
            | storage::Error::Misconfigured(_)
            | storage::Error::Unavailable(_) => Self::Unavailable,
        }
    }
}
