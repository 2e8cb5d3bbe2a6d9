//! Scripted imports: a component's calls are answered by a script instead of auth and storage, and each exchange is
//! recorded.

mod text;

use std::{
    future::pending,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    select,
    sync::oneshot,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{
    Component, SandboxLimits, Sandboxes,
    calls::Calls,
    host_imports::bindings::{
        exports::recoup::workspaces::workspaces as wit,
        recoup::workspaces::{auth as wit_auth, storage as wit_storage},
    },
    instance::Instance,
    outcome::{self, Fault},
    turn::Turn,
};
use crate::CreateWorkspaceRequest;

/// Call of an import by a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Call {
    /// `auth.authorize`.
    #[serde(rename_all = "snake_case")]
    Authorize {
        /// The account that the component asks for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account_id: Option<Uuid>,
        /// The organization that the component asks for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        organization_id: Option<Uuid>,
    },
    /// `grant.account-id`.
    AccountId,
    /// `grant.organization-id`.
    OrganizationId,
    /// Drop of a grant.
    DropGrant,
    /// `storage.create-workspace`.
    CreateWorkspace {
        /// The name to store.
        name: String,
    },
}

/// Answer of a script to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// A grant, from `authorize`.
    #[serde(rename_all = "snake_case")]
    Grant {
        /// Account that it is for.
        account_id: Uuid,
        /// Organization that it is for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        organization_id: Option<Uuid>,
    },
    /// A denial, from `authorize`.
    Denied(Denial),
    /// An account, from `grant.account-id`.
    Account(Uuid),
    /// An organization, from `grant.organization-id`.
    Organization(Option<Uuid>),
    /// The id of a workspace, from `storage.create-workspace`.
    Created(Uuid),
    /// An error of `storage.create-workspace`.
    Failed(StorageError),
    /// The end of a grant.
    Dropped,
    /// The import traps.
    Trap,
    /// The import does not return, and the host gives the call up.
    Hang,
    /// The caller goes away during the call.
    Leave,
}

/// Cases of the contract's `denial`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the cases are those of the WIT interface, which documents them")]
pub enum Denial {
    Unauthenticated,
    AccountForbidden,
    OrganizationForbidden,
    Unavailable,
}

/// Cases of the contract's storage `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the cases are those of the WIT interface, which documents them")]
pub enum StorageError {
    GrantUsed,
    AccessLost,
    InvalidName,
    Unavailable,
    Unknown,
}

/// Cases of the contract's `create-workspace-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the cases are those of the WIT interface, which documents them")]
pub enum ErrorCase {
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    Unavailable,
    Unknown,
}

/// A call with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The call.
    pub call: Call,
    /// The answer.
    pub reply: Reply,
}

/// Answer of a component, as it made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A workspace.
    #[serde(rename_all = "snake_case")]
    Created {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// The account that it was created for.
        account_id: String,
        /// The field `is-workspace`.
        is_workspace: bool,
    },
    /// An error.
    Refused {
        /// Its case.
        case: ErrorCase,
        /// Its message.
        message: String,
    },
}

/// End of a component's call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// An answer.
    Answered(Answer),
    /// A trap, a limit or a broken contract.
    Fault {
        /// Kind, as the metrics name it.
        kind: String,
        /// Cause, with the functions in which it happened.
        cause: String,
    },
    /// An end by the script: [`Reply::Trap`], [`Reply::Hang`] or [`Reply::Leave`].
    Stopped,
}

/// Cost of a component's call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Instructions of WebAssembly; `None` where the [sandboxes](Sandboxes::counting) do not count them.
    pub instructions: Option<u64>,
    /// Most linear memory, in bytes.
    pub memory: u64,
    /// Calls of imports, drops of grants included.
    pub host_calls: u64,
    /// Bytes of request, answer, calls and replies: text, and 16 for each id.
    pub bytes: u64,
}

/// Component's call with scripted imports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Played {
    /// Calls of imports with their answers, in order.
    pub exchanges: Vec<Exchange>,
    /// End of the call.
    pub ending: Ending,
    /// Cost of the call.
    pub cost: Cost,
}

/// Time for which an import hangs before the host gives the call up. It is not the sandbox's own limit: a machine that is
/// busy may take so long for the calls before.
const HANG: Duration = Duration::from_millis(10);

/// Script that answers a component's calls.
pub trait Replies: Send {
    /// Returns the answer to a call, after those that came before it.
    ///
    /// A reply of another kind than the call's is a trap.
    fn reply(&mut self, call: &Call, before: &[Exchange]) -> Reply;
}

/// Script of a sandbox, with what was exchanged so far.
pub(super) struct Script {
    replies: Box<dyn Replies>,
    exchanges: Vec<Exchange>,
    /// Signal that ends the call: the caller goes away, or an import hangs.
    leave: Option<oneshot::Sender<()>>,
    stopped: bool,
}

/// An import traps because the script says so, or because the script has no such answer.
#[derive(Debug, thiserror::Error)]
#[error("the script ends the call of an import: {0:?}")]
struct Stopped(Reply);

impl Script {
    /// Returns the script's answer to a call, and keeps both.
    pub(super) async fn answer(&mut self, call: Call) -> wasmtime::Result<Reply> {
        let reply = self.replies.reply(&call, &self.exchanges);
        self.exchanges.push(Exchange { call, reply: reply.clone() });
        match reply {
            Reply::Trap => Err(self.unfit(Reply::Trap)),
            Reply::Hang | Reply::Leave => {
                self.stopped = true;
                if reply == Reply::Hang {
                    sleep(HANG).await;
                }
                if let Some(leave) = self.leave.take() {
                    // The receiver is gone only when the call is.
                    let _ = leave.send(());
                }
                pending().await
            }
            reply => Ok(reply),
        }
    }

    /// Returns the trap for a reply that does not fit its call.
    pub(super) fn unfit(&mut self, reply: Reply) -> wasmtime::Error {
        self.stopped = true;
        Stopped(reply).into()
    }
}

impl Sandboxes {
    /// Calls a component with scripted imports, in a sandbox with these limits. It needs a slot of the pool, and waits
    /// for no turn.
    pub async fn play(
        &self,
        component: &Component,
        limits: &SandboxLimits,
        request: &CreateWorkspaceRequest,
        replies: impl Replies + 'static,
    ) -> Played {
        self.play_in_turn(Turn::free(self.clone()), component, limits, request, Box::new(replies)).await
    }

    /// Makes an instance of a component and drops it. Returns the time that took; `None` where it can't be made.
    pub async fn time_instance(&self, component: &Component, limits: &SandboxLimits) -> Option<Duration> {
        let turn = Turn::free(self.clone());
        let start = Instant::now();
        let mut store = self.new_store(limits, Calls::stage(), turn);
        let cpu = store.data().calls.cpu.clone();
        cpu.count(component.pre().instantiate_async(&mut store)).await.ok()?;
        drop(store);
        Some(start.elapsed())
    }

    pub(super) async fn play_in_turn(
        &self,
        turn: Turn,
        component: &Component,
        limits: &SandboxLimits,
        request: &CreateWorkspaceRequest,
        replies: Box<dyn Replies>,
    ) -> Played {
        let mut instance = Instance::new(self.new_store(limits, Calls::stage(), turn), component);
        let (leave, left) = oneshot::channel();
        let state = instance.store.data_mut();
        state.script = Some(Script { replies, exchanges: Vec::new(), leave: Some(leave), stopped: false });
        let cpu = state.calls.cpu.clone();
        let request_of_it = request.clone().into();
        let call = cpu.count(instance.call(&request_of_it));
        let answer = select! {
            biased;
            answer = timeout(limits.wall_clock, call) => match answer {
                Ok(answer) => answer.map_err(Fault::from),
                Err(_) => Err(Fault::late(limits.wall_clock)),
            },
            Ok(()) = left => Err(Fault::late(limits.wall_clock)),
        };
        let Instance { store, .. } = instance;
        let instructions = store.get_fuel().ok().map(|left| u64::MAX - left);
        let state = store.into_data();
        let memory = state.memory.peak() as u64;
        let answer = answer.map_err(|fault| fault.after_writing(&state.written));
        let (exchanges, stopped) = state.script.map(|script| (script.exchanges, script.stopped)).unwrap_or_default();
        let ending = if answer.is_err() && stopped { Ending::Stopped } else { answer.into() };
        let cost = Cost::of(request, &exchanges, &ending, instructions, memory);
        Played { exchanges, ending, cost }
    }
}

impl Cost {
    /// Returns the cost of a call.
    pub(super) fn of(
        request: &CreateWorkspaceRequest,
        exchanges: &[Exchange],
        ending: &Ending,
        instructions: Option<u64>,
        memory: u64,
    ) -> Self {
        let bytes = bytes(request, exchanges, ending);
        Self { instructions, memory, host_calls: exchanges.len() as u64, bytes }
    }
}

/// Returns the bytes that cross the boundary.
fn bytes(request: &CreateWorkspaceRequest, exchanges: &[Exchange], ending: &Ending) -> u64 {
    const ID: usize = 16;
    let CreateWorkspaceRequest { name, account_id, organization_id } = request;
    let asked: usize = [name, account_id, organization_id].into_iter().flatten().map(String::len).sum();
    let exchanged = exchanges.iter().map(|Exchange { call, reply }| {
        let sent = match call {
            Call::Authorize { account_id, organization_id } => ids([account_id, organization_id]),
            Call::CreateWorkspace { name } => name.len(),
            Call::AccountId | Call::OrganizationId | Call::DropGrant => 0,
        };
        let got = match reply {
            Reply::Account(_) | Reply::Organization(Some(_)) | Reply::Created(_) => ID,
            _ => 0,
        };
        sent + got
    });
    fn ids(ids: [&Option<Uuid>; 2]) -> usize {
        ids.into_iter().flatten().count() * ID
    }
    let answered = match ending {
        Ending::Answered(Answer::Created { id, name, account_id, .. }) => id.len() + name.len() + account_id.len(),
        Ending::Answered(Answer::Refused { message, .. }) => message.len(),
        Ending::Fault { .. } | Ending::Stopped => 0,
    };
    (asked + exchanged.sum::<usize>() + answered) as u64
}

impl From<outcome::Answer> for Answer {
    fn from(answer: outcome::Answer) -> Self {
        use wit::CreateWorkspaceError as Error;
        let (case, message) = match answer {
            Ok(wit::CreateWorkspaceResponse { workspace }) => {
                let wit::Workspace { id, name, account_id, is_workspace } = workspace;
                return Self::Created { id, name, account_id, is_workspace };
            }
            Err(Error::InvalidRequest(message)) => (ErrorCase::InvalidRequest, message),
            Err(Error::Unauthenticated(message)) => (ErrorCase::Unauthenticated, message),
            Err(Error::Forbidden(message)) => (ErrorCase::Forbidden, message),
            Err(Error::Unavailable(message)) => (ErrorCase::Unavailable, message),
            Err(Error::Unknown(message)) => (ErrorCase::Unknown, message),
        };
        Self::Refused { case, message }
    }
}

impl From<Result<outcome::Answer, Fault>> for Ending {
    fn from(answer: Result<outcome::Answer, Fault>) -> Self {
        match answer {
            Ok(answer) => Self::Answered(answer.into()),
            Err(Fault { kind, cause }) => Self::Fault { kind: kind.to_owned(), cause },
        }
    }
}

impl From<Denial> for wit_auth::Denial {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Unauthenticated => Self::Unauthenticated,
            Denial::AccountForbidden => Self::AccountForbidden,
            Denial::OrganizationForbidden => Self::OrganizationForbidden,
            Denial::Unavailable => Self::Unavailable,
        }
    }
}

impl From<StorageError> for wit_storage::Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::GrantUsed => Self::GrantUsed,
            StorageError::AccessLost => Self::AccessLost,
            StorageError::InvalidName => Self::InvalidName,
            StorageError::Unavailable => Self::Unavailable,
            StorageError::Unknown => Self::Unknown,
        }
    }
}
