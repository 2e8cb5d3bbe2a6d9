//! The fault matrix: every call of imports that a component makes, with every answer that the contract allows.

use serde::Serialize;
use uuid::Uuid;

use super::{host::Host, rule::Violation, stage::Stage};
use crate::{
    CreateWorkspaceRequest,
    runtime::script::{Call, Denial, Played, Reply, StorageError},
};

/// Cell of the matrix: one request, one of its calls, one answer to it.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Request.
    pub request: CreateWorkspaceRequest,
    /// Number of the call, from 0; `None` for the request without a fault.
    pub call: Option<usize>,
    /// Name of the call.
    pub calls: String,
    /// Answer to it, in words.
    pub reply: String,
    /// Rule that the component breaks.
    pub violation: Option<Violation>,
    /// The call of the component, with its answers.
    #[serde(skip)]
    pub(super) played: Played,
}

impl Cell {
    /// Returns a name that stays the same from run to run.
    pub(super) fn name(&self) -> String {
        let CreateWorkspaceRequest { name, account_id, organization_id } = &self.request;
        let fields = [("name", name), ("account", account_id), ("organization", organization_id)];
        let fields: Vec<_> = fields.iter().filter(|(_, value)| value.is_some()).map(|(field, _)| *field).collect();
        let request = if fields.is_empty() { "empty".into() } else { fields.join("+") };
        match self.call {
            None => format!("{request}/none"),
            Some(call) => format!("{request}/{call}:{}/{}", self.calls, self.reply),
        }
    }
}

/// Returns the requests of the matrix: each optional field is there and not.
fn requests() -> [CreateWorkspaceRequest; 4] {
    let id = |number| Some(Uuid::from_u128(number).to_string());
    let (account_id, organization_id) =
        (id(0x123e_4567_e89b_42d3_a456_4266_1417_4000), id(0x0190_a2b4_6f00_7abc_9def_0011_2233_4455));
    let none = CreateWorkspaceRequest::default();
    let name = Some("Studio".to_owned());
    [
        none.clone(),
        CreateWorkspaceRequest { name: name.clone(), organization_id: organization_id.clone(), ..none.clone() },
        CreateWorkspaceRequest { account_id: account_id.clone(), ..none },
        CreateWorkspaceRequest { name, account_id, organization_id },
    ]
}

/// Returns the answers to a call that the contract allows, but for the one on which all goes well.
fn answers(call: &Call) -> Vec<Reply> {
    const OTHER: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0bad);
    let grant = |account_id, organization_id| Reply::Grant { account_id, organization_id };
    let mut answers = match call {
        Call::Authorize { account_id, organization_id } => {
            let account = account_id.unwrap_or(super::host::CALLER);
            vec![
                Reply::Denied(Denial::Unauthenticated),
                Reply::Denied(Denial::AccountForbidden),
                Reply::Denied(Denial::OrganizationForbidden),
                Reply::Denied(Denial::Unavailable),
                grant(OTHER, *organization_id),
                grant(Uuid::nil(), *organization_id),
                grant(account, if organization_id.is_some() { None } else { Some(OTHER) }),
            ]
        }
        Call::AccountId => vec![Reply::Account(Uuid::nil()), Reply::Account(OTHER)],
        Call::OrganizationId => vec![Reply::Organization(None), Reply::Organization(Some(Uuid::nil()))],
        Call::DropGrant => Vec::new(),
        Call::CreateWorkspace { .. } => vec![
            Reply::Failed(StorageError::GrantUsed),
            Reply::Failed(StorageError::AccessLost),
            Reply::Failed(StorageError::InvalidName),
            Reply::Failed(StorageError::Unavailable),
            Reply::Failed(StorageError::Unknown),
            Reply::Created(Uuid::nil()),
            Reply::Created(Uuid::max()),
        ],
    };
    answers.extend([Reply::Trap, Reply::Hang, Reply::Leave]);
    answers
}

/// Fills the matrix. Calls `done` after each cell.
///
/// # Errors
///
/// Those of the [stage](Stage::play).
pub(super) async fn fill(stage: &Stage<'_>, mut done: impl FnMut(&Cell)) -> Result<Vec<Cell>, String> {
    let mut cells = Vec::new();
    for request in requests() {
        let (baseline, violation) = stage.judge(&request, Host::default()).await?;
        let calls: Vec<_> = baseline.exchanges.iter().map(|exchange| exchange.call.clone()).collect();
        let cell = Cell {
            request: request.clone(),
            call: None,
            calls: "none".into(),
            reply: "none".into(),
            violation,
            played: baseline,
        };
        done(&cell);
        cells.push(cell);
        for (number, call) in calls.iter().enumerate() {
            for reply in answers(call) {
                let text = reply.to_string();
                let (played, violation) = stage.judge(&request, Host::with(number, reply)).await?;
                let name = call.to_string();
                let calls = name.split('(').next().unwrap_or_default().to_owned();
                let cell = Cell { request: request.clone(), call: Some(number), calls, reply: text, violation, played };
                done(&cell);
                cells.push(cell);
            }
        }
    }
    Ok(cells)
}
