//! Calls, answers and endings in words, for reports.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use super::{Answer, Call, Ending, ErrorCase, Reply};

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |id: &Option<Uuid>| id.map_or("none".into(), |id| id.to_string());
        match self {
            Self::Authorize { account_id, organization_id } => {
                write!(formatter, "authorize({}, {})", or_none(account_id), or_none(organization_id))
            }
            Self::AccountId => formatter.write_str("grant.account-id()"),
            Self::OrganizationId => formatter.write_str("grant.organization-id()"),
            Self::DropGrant => formatter.write_str("drop(grant)"),
            Self::CreateWorkspace { name } => write!(formatter, "create-workspace({name:?})"),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant { account_id, organization_id: None } => write!(formatter, "grant for {account_id}"),
            Self::Grant { account_id, organization_id: Some(organization) } => {
                write!(formatter, "grant for {account_id} in {organization}")
            }
            Self::Denied(denial) => write!(formatter, "denied: {}", word(denial)),
            Self::Account(id) | Self::Created(id) | Self::Organization(Some(id)) => id.fmt(formatter),
            Self::Organization(None) => formatter.write_str("none"),
            Self::Failed(error) => write!(formatter, "error: {}", word(error)),
            Self::Dropped => formatter.write_str("dropped"),
            Self::Trap => formatter.write_str("trap"),
            Self::Hang => formatter.write_str("hang"),
            Self::Leave => formatter.write_str("caller leaves"),
        }
    }
}

impl fmt::Display for ErrorCase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&word(self))
    }
}

/// Returns the name of a case as the contract spells it.
fn word(case: &impl Serialize) -> String {
    serde_json::to_value(case).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(Answer::Created { id, name, account_id, is_workspace }) => {
                write!(formatter, "created {id} {name:?} for {account_id}")?;
                if *is_workspace { Ok(()) } else { formatter.write_str(", is-workspace false") }
            }
            Self::Answered(Answer::Refused { case, message }) => write!(formatter, "{case}: {message:?}"),
            Self::Fault { kind, cause } => write!(formatter, "fault ({kind}): {cause}"),
            Self::Stopped => formatter.write_str("ended by the script"),
        }
    }
}
