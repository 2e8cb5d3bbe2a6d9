//! The judge's own host: it grants what is asked for and stores what it is given, unless a script says otherwise.

use uuid::Uuid;

use crate::{
    MAX_NAME_CHARACTERS,
    runtime::script::{Call, Exchange, Replies, Reply, StorageError},
};

/// Account of the caller.
pub(super) const CALLER: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_ca11);

/// Id of the workspace that is created.
pub(super) const CREATED: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_ab1e);

/// Host of one call.
#[derive(Debug, Clone, Default)]
pub(super) struct Host {
    /// Answers of the script: a call takes the first that fits it.
    script: Vec<Reply>,
    /// Answer to the call of this number, from 0.
    at: Option<(usize, Reply)>,
}

impl Host {
    /// Returns a host whose answers are these, as far as they fit the calls.
    pub(super) fn of(script: &[Reply]) -> Self {
        Self { script: script.to_vec(), at: None }
    }

    /// Returns a host that answers one call with this.
    pub(super) fn with(call: usize, reply: Reply) -> Self {
        Self { script: Vec::new(), at: Some((call, reply)) }
    }
}

impl Replies for Host {
    fn reply(&mut self, call: &Call, before: &[Exchange]) -> Reply {
        match &self.at {
            Some((number, reply)) if *number == before.len() => return reply.clone(),
            _ => {}
        }
        match self.script.iter().position(|reply| fits(call, reply)) {
            Some(number) => self.script.remove(number),
            None => of_itself(call, before),
        }
    }
}

/// Returns whether the contract has a reply for a call.
fn fits(call: &Call, reply: &Reply) -> bool {
    match reply {
        Reply::Grant { .. } | Reply::Denied(_) => matches!(call, Call::Authorize { .. }),
        Reply::Account(_) => *call == Call::AccountId,
        Reply::Organization(_) => *call == Call::OrganizationId,
        Reply::Created(_) | Reply::Failed(_) => matches!(call, Call::CreateWorkspace { .. }),
        Reply::Dropped => *call == Call::DropGrant,
        Reply::Trap | Reply::Hang | Reply::Leave => true,
    }
}

/// Returns the answer of a host on which everything goes well.
fn of_itself(call: &Call, before: &[Exchange]) -> Reply {
    let grant = before.iter().rev().find_map(|exchange| match exchange.reply {
        Reply::Grant { account_id, organization_id } => Some((account_id, organization_id)),
        _ => None,
    });
    match call {
        Call::Authorize { account_id, organization_id } => {
            Reply::Grant { account_id: account_id.unwrap_or(CALLER), organization_id: *organization_id }
        }
        // There is no call of a grant without one.
        Call::AccountId => Reply::Account(grant.map_or(CALLER, |(account, _)| account)),
        Call::OrganizationId => Reply::Organization(grant.and_then(|(_, organization)| organization)),
        Call::DropGrant => Reply::Dropped,
        Call::CreateWorkspace { name } => {
            let is_second = before.iter().any(|exchange| matches!(exchange.call, Call::CreateWorkspace { .. }));
            let is_invalid =
                name.is_empty() || name.chars().count() > MAX_NAME_CHARACTERS || name.chars().any(char::is_control);
            match (is_second, is_invalid) {
                (true, _) => Reply::Failed(StorageError::GrantUsed),
                (false, true) => Reply::Failed(StorageError::InvalidName),
                (false, false) => Reply::Created(CREATED),
            }
        }
    }
}
