//! Not for use: the guest's logic without a sandbox, which benchmarks compare the sandbox with.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use uuid::Uuid;
use workspaces_guest::create::{self, Imports, Request};

use super::{
    Ended, Services,
    calls::Calls,
    host_imports::bindings::{
        exports::recoup::workspaces::workspaces as wit,
        recoup::workspaces::{auth as wit_auth, storage as wit_storage},
    },
    outcome::{Answer, Fault},
    turn::Turn,
    wasi::Written,
};
use crate::{
    auth::{Auth, Grant},
    storage::Storage,
};

static IS_SET: AtomicBool = AtomicBool::new(false);

/// Sets whether hosts of this process that are built from now on call the guest's logic without a sandbox.
pub fn set(is_native: bool) {
    IS_SET.store(is_native, Relaxed);
}

/// Returns a storage that keeps nothing and an auth that grants everything. Neither waits.
pub fn stage() -> (Arc<dyn Storage>, Arc<dyn Auth>) {
    let Services { auth, storage } = Services::stage();
    (storage, auth)
}

/// Returns whether hosts call the guest's logic without a sandbox.
pub(super) fn is_set() -> bool {
    IS_SET.load(Relaxed)
}

/// Calls the guest's logic on this thread.
pub(super) async fn run(request: &wit::CreateWorkspaceRequest, mut calls: Calls, turn: Turn) -> Ended {
    let cpu = calls.cpu.clone();
    let answer = cpu.count(poll_fn(|context| Poll::Ready(answer(request, &mut calls, context)))).await;
    Ended { answer: Some(answer), calls, turn, memory: 0, written: Written::default() }
}

fn answer(
    request: &wit::CreateWorkspaceRequest,
    calls: &mut Calls,
    context: &mut Context<'_>,
) -> Result<Answer, Fault> {
    let wit::CreateWorkspaceRequest { name, account_id, organization_id } = request.clone();
    let mut host = Host { calls, context, end: None };
    let answer = create::create_workspace(&mut host, Request { name, account_id, organization_id });
    match host.end {
        Some(end) => Err(end.into()),
        None => Ok(answer.map(Into::into).map_err(Into::into)),
    }
}

/// The imports.
struct Host<'a, 'b> {
    calls: &'a mut Calls,
    context: &'a mut Context<'b>,
    /// The end of the call by the host.
    end: Option<wasmtime::Error>,
}

impl Host<'_, '_> {
    /// Returns the answer to a call, which is always there; `None` where the host ends the component's.
    fn answer<T>(&mut self, call: impl AsyncFnOnce(&mut Calls) -> wasmtime::Result<T>) -> Option<T> {
        match pin!(call(self.calls)).poll(self.context) {
            Poll::Ready(Ok(answer)) => return Some(answer),
            Poll::Ready(Err(end)) => self.end = Some(end),
            Poll::Pending => {}
        }
        None
    }
}

impl Imports for Host<'_, '_> {
    type Grant = Grant;

    fn authorize(&mut self, account: Option<Uuid>, organization: Option<Uuid>) -> Result<Grant, create::Denial> {
        match self.answer(async |calls| calls.authorize(account, organization).await) {
            Some(answer) => answer.map_err(|denial| wit_auth::Denial::from(denial).into()),
            None => Err(create::Denial::Unavailable),
        }
    }

    fn account_of(&mut self, grant: &Grant) -> Uuid {
        grant.account_id
    }

    fn create(&mut self, grant: &Grant, name: &str) -> Result<Uuid, create::StorageError> {
        match self.answer(async |calls| calls.create(grant.clone(), name.to_owned()).await) {
            Some(answer) => answer.map_err(|error| wit_storage::Error::from(&error).into()),
            None => Err(create::StorageError::Unavailable),
        }
    }
}

impl From<wit_auth::Denial> for create::Denial {
    fn from(denial: wit_auth::Denial) -> Self {
        match denial {
            wit_auth::Denial::Unauthenticated => Self::Unauthenticated,
            wit_auth::Denial::AccountForbidden => Self::AccountForbidden,
            wit_auth::Denial::OrganizationForbidden => Self::OrganizationForbidden,
            wit_auth::Denial::Unavailable => Self::Unavailable,
        }
    }
}

impl From<wit_storage::Error> for create::StorageError {
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

impl From<create::Workspace> for wit::CreateWorkspaceResponse {
    fn from(workspace: create::Workspace) -> Self {
        let create::Workspace { id, name, account_id } = workspace;
        let workspace =
            wit::Workspace { id: id.to_string(), name, account_id: account_id.to_string(), is_workspace: true };
        Self { workspace }
    }
}

impl From<create::Error> for wit::CreateWorkspaceError {
    fn from(error: create::Error) -> Self {
        match error {
            create::Error::InvalidRequest(message) => Self::InvalidRequest(message),
            create::Error::Unauthenticated(message) => Self::Unauthenticated(message),
            create::Error::Forbidden(message) => Self::Forbidden(message),
            create::Error::Unavailable(message) => Self::Unavailable(message),
            create::Error::Unknown(message) => Self::Unknown(message),
        }
    }
}
