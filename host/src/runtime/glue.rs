//! The component's imports over the host's traits; the only file with WIT types.

use std::sync::Arc;

use uuid::Uuid;
use wasmtime::{
    StoreLimits,
    component::{Resource, ResourceTable},
};

use self::bindings::recoup::workspaces::{auth as wit_auth, storage as wit_storage, types};
use super::{admission::Turn, cpu::CpuTime};
use crate::{
    auth::{self, Auth, Caller},
    storage::{self, Claim, Created, Storage},
};

pub(super) mod bindings {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "recoup:workspaces/auth.grant": super::Grant },
    });
}

/// The longest name that is handed to storage, in characters; a component may be stricter.
const MAX_NAME_CHARACTERS: usize = 255;

/// A grant in a component's hands.
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Grant {
    grant: auth::Grant,
    used: bool,
}

/// What a sandbox can reach: one request's share of the host.
pub(super) struct State {
    pub(super) auth: Arc<dyn Auth>,
    pub(super) storage: Arc<dyn Storage>,
    /// The right to run, which it gives back while it waits for the two above.
    pub(super) turn: Turn,
    pub(super) caller: Caller,
    pub(super) limits: StoreLimits,
    pub(super) grants: ResourceTable,
    /// The request's claim, if it came with an idempotency key; the component knows nothing of it.
    pub(super) claim: Option<Claim>,
    /// What storage did in this request, the measure of the component's answer.
    pub(super) write: Write,
    /// The component's time on the processor.
    pub(super) cpu: Arc<CpuTime>,
    /// How many calls to the host are left to it.
    pub(super) host_calls: u32,
    /// Storage failed in this request, which is logged once: a component may ask it again and again.
    pub(super) storage_failed: bool,
}

/// What is known of a request's write.
#[derive(Debug)]
pub(super) enum Write {
    /// Nothing was written.
    None,
    /// Storage was asked, and has not said that it wrote nothing.
    Begun,
    /// Storage has the workspace.
    Done(Created),
    /// Storage wrote nothing, for a reason that the contract has no case for. The host answers the client itself.
    Refused(storage::Error),
}

impl State {
    /// Counts a call to the host.
    fn count(&mut self) -> Result<(), TooManyHostCalls> {
        self.host_calls = self.host_calls.checked_sub(1).ok_or(TooManyHostCalls)?;
        Ok(())
    }
}

/// The component has made all the calls to the host that it may make.
#[derive(Debug, thiserror::Error)]
#[error("more calls to the host than its limit")]
pub(super) struct TooManyHostCalls;

impl types::Host for State {}

impl wit_auth::Host for State {
    async fn authorize(
        &mut self,
        account: Option<types::Uuid>,
        organization: Option<types::Uuid>,
    ) -> wasmtime::Result<Result<Resource<Grant>, wit_auth::Denial>> {
        self.count()?;
        let answer = self.auth.authorize(&self.caller, account.map(Uuid::from), organization.map(Uuid::from));
        Ok(match self.turn.lend_during(answer).await {
            Ok(grant) => Ok(self.grants.push(Grant { grant, used: false })?),
            Err(denial) => {
                if denial == auth::Denial::Misconfigured && matches!(self.write, Write::None) {
                    self.write = Write::Refused(storage::Error::Misconfigured(denial.to_string()));
                }
                Err(denial.into())
            }
        })
    }
}

impl wit_auth::HostGrant for State {
    async fn account_id(&mut self, grant: Resource<Grant>) -> wasmtime::Result<types::Uuid> {
        self.count()?;
        Ok(self.grants.get(&grant)?.grant.account_id.into())
    }

    async fn organization_id(&mut self, grant: Resource<Grant>) -> wasmtime::Result<Option<types::Uuid>> {
        self.count()?;
        Ok(self.grants.get(&grant)?.grant.organization_id.map(Into::into))
    }

    async fn drop(&mut self, grant: Resource<Grant>) -> wasmtime::Result<()> {
        self.count()?;
        self.grants.delete(grant)?;
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
        let grant = self.grants.get_mut(&handle)?;
        // One workspace a request: a second grant is no way to a second one.
        if std::mem::replace(&mut grant.used, true) || !matches!(self.write, Write::None) {
            return Ok(Err(wit_storage::Error::GrantUsed));
        }
        if name.is_empty() || name.chars().count() > MAX_NAME_CHARACTERS || name.chars().any(char::is_control) {
            return Ok(Err(wit_storage::Error::InvalidName));
        }
        let answer = self.storage.create_workspace(&grant.grant, &name, self.claim.as_ref());
        self.write = Write::Begun;
        Ok(match self.turn.lend_during(answer).await {
            Ok(created) => {
                let id = created.workspace.id.into();
                self.write = Write::Done(created);
                Ok(id)
            }
            Err(error) => {
                match error {
                    _ if std::mem::replace(&mut self.storage_failed, true) => {}
                    // The database logs it once as an error.
                    storage::Error::Misconfigured(_) => tracing::warn!(%error, "storage created no workspace"),
                    storage::Error::Unknown(_) | storage::Error::Unavailable(_) => {
                        tracing::error!(%error, "storage created no workspace")
                    }
                    _ => tracing::info!(%error, "storage created no workspace"),
                }
                let known = (&error).into();
                self.write = match error {
                    storage::Error::Unknown(_) => Write::Begun,
                    storage::Error::AccessLost | storage::Error::Unavailable(_) => Write::None,
                    refused => Write::Refused(refused),
                };
                Err(known)
            }
        })
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
