//! The rules of the contract, applied to one call of a component.

use std::fmt;

use uuid::Uuid;

use super::rule::{Rule, Violation};
use crate::{
    CreateWorkspaceRequest,
    runtime::script::{Answer, Call, Denial, Ending, ErrorCase, Exchange, Played, Reply, StorageError},
};

/// Longest message of a component, in bytes; the contract says so.
const MAX_MESSAGE: usize = 512;

/// Id in a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Named {
    Absent,
    Id(Uuid),
    /// A UUID in a form other than the hyphenated one, which a component may read or refuse.
    Unusual(Uuid),
    Invalid,
}

impl Named {
    fn of(text: Option<&str>) -> Self {
        const HYPHENATED_LENGTH: usize = 36;
        match text.map(|text| (text, Uuid::try_parse(text))) {
            None => Self::Absent,
            Some((text, Ok(id))) if text.len() == HYPHENATED_LENGTH => Self::Id(id),
            Some((_, Ok(id))) => Self::Unusual(id),
            Some((_, Err(_))) => Self::Invalid,
        }
    }

    /// Returns the id that auth should be asked for.
    fn id(self) -> Option<Uuid> {
        match self {
            Self::Id(id) | Self::Unusual(id) => Some(id),
            Self::Absent | Self::Invalid => None,
        }
    }
}

/// Returns whether every component has to take a name: none, a blank one, or a word. Other names are a matter of its own
/// rules.
fn is_plain(name: Option<&str>) -> bool {
    name.is_none_or(|name| {
        let is_word = (4..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphabetic());
        is_word || (name.len() <= 32 && name.bytes().all(|byte| byte == b' '))
    })
}

/// Returns the rule that a call breaks first.
pub(super) fn judge(request: &CreateWorkspaceRequest, played: &Played) -> Option<Violation> {
    let Played { exchanges, ending, .. } = played;
    let fault = match ending {
        Ending::Fault { kind, .. } => match kind.as_str() {
            "cpu" | "wall-clock" | "host-calls" => Some(Rule::KeepsLimits),
            _ => Some(Rule::Answers),
        },
        _ => None,
    };
    if let Some(rule) = fault {
        return Some(Violation::new(rule, "an answer", ending.to_string()));
    }
    let call = Judged {
        account: Named::of(request.account_id.as_deref()),
        organization: Named::of(request.organization_id.as_deref()),
        has_plain_name: is_plain(request.name.as_deref()),
        exchanges,
    };
    call.calls().or_else(|| match ending {
        Ending::Answered(Answer::Created { id, name, account_id, is_workspace }) => {
            call.created(id, name, account_id, *is_workspace, ending)
        }
        Ending::Answered(Answer::Refused { case, message }) => call.refused(*case, message, ending),
        Ending::Fault { .. } | Ending::Stopped => None,
    })
}

/// Call of a component, with what its request names.
struct Judged<'a> {
    account: Named,
    organization: Named,
    has_plain_name: bool,
    exchanges: &'a [Exchange],
}

impl Judged<'_> {
    /// Judges the calls of imports.
    fn calls(&self) -> Option<Violation> {
        let (mut granted, mut failed, mut created) = (false, None, false);
        for Exchange { call, reply } in self.exchanges {
            if *call == Call::DropGrant {
                continue;
            }
            if let Some(failure) = failed {
                let expected = format!("no call after {failure}");
                return Some(Violation::new(Rule::StopsAfterFailure, expected, call.to_string()));
            }
            match call {
                Call::Authorize { account_id, organization_id } => {
                    if granted {
                        return Some(Violation::new(Rule::AsksOnce, "one grant", format!("{call} after a grant")));
                    }
                    // An id in an unusual form is read or refused, and not left out.
                    let is_skipped = |named: Named, asked: &Option<Uuid>| match named {
                        Named::Invalid => true,
                        Named::Unusual(_) => asked.is_none(),
                        Named::Absent | Named::Id(_) => false,
                    };
                    if is_skipped(self.account, account_id) || is_skipped(self.organization, organization_id) {
                        let expected = "invalid-request for an id that is no UUID";
                        return Some(Violation::new(Rule::RefusesInvalidIds, expected, call.to_string()));
                    }
                    for (rule, named, asked) in [
                        (Rule::AsksForAccount, self.account, account_id),
                        (Rule::AsksForOrganization, self.organization, organization_id),
                    ] {
                        if named.id() != *asked {
                            return Some(Violation::new(rule, or_none(named.id()), or_none(*asked)));
                        }
                    }
                    granted = matches!(reply, Reply::Grant { .. });
                }
                Call::CreateWorkspace { .. } => {
                    if created {
                        return Some(Violation::new(Rule::AsksOnce, "one workspace", format!("{call} after another")));
                    }
                    created = true;
                }
                Call::AccountId | Call::OrganizationId | Call::DropGrant => {}
            }
            failed = matches!(reply, Reply::Denied(_) | Reply::Failed(_)).then_some(reply);
        }
        None
    }

    /// Returns the workspace of storage: its id, the name that it got, and the account of the grant.
    fn stored(&self) -> Option<(Uuid, &str, Uuid)> {
        // The grant says which account it is for when it is asked, and that may be the only time.
        let grant = self.exchanges.iter().rev().find_map(|exchange| match exchange.reply {
            Reply::Grant { account_id, .. } | Reply::Account(account_id) => Some(account_id),
            _ => None,
        });
        self.exchanges.iter().find_map(|exchange| match (&exchange.call, &exchange.reply) {
            (Call::CreateWorkspace { name }, Reply::Created(id)) => Some((*id, name.as_str(), grant?)),
            _ => None,
        })
    }

    /// Judges the report of a workspace.
    fn created(&self, id: &str, name: &str, account: &str, is_workspace: bool, ending: &Ending) -> Option<Violation> {
        let Some((stored, stored_name, grant)) = self.stored() else {
            return Some(Violation::new(
                Rule::ClaimsOnlyStored,
                "an error: storage returned no id",
                ending.to_string(),
            ));
        };
        let (stored, grant) = (stored.to_string(), grant.to_string());
        if id != stored {
            return Some(Violation::new(Rule::ReportsId, stored, id));
        }
        if name != stored_name {
            return Some(Violation::new(Rule::ReportsName, format!("{stored_name:?}"), format!("{name:?}")));
        }
        if account != grant {
            return Some(Violation::new(Rule::ReportsAccount, grant, account));
        }
        (!is_workspace).then(|| Violation::new(Rule::ReportsWorkspace, "is-workspace true", "is-workspace false"))
    }

    /// Judges an error.
    fn refused(&self, case: ErrorCase, message: &str, ending: &Ending) -> Option<Violation> {
        if let Some((id, ..)) = self.stored() {
            return Some(Violation::new(Rule::HidesNothing, format!("the workspace {id}"), ending.to_string()));
        }
        let failure = self.exchanges.iter().find_map(|exchange| match &exchange.reply {
            Reply::Denied(denial) => Some((Rule::TellsDenials, of_denial(*denial), &exchange.reply)),
            Reply::Failed(error) => Some((Rule::TellsStorageErrors, of_storage_error(*error), &exchange.reply)),
            _ => None,
        });
        match failure {
            Some((rule, allowed, reply)) if !allowed.contains(&case) => {
                let names: Vec<_> = allowed.iter().map(ToString::to_string).collect();
                let expected = format!("{} after {reply}", names.join(" or "));
                return Some(Violation::new(rule, expected, ending.to_string()));
            }
            None => {
                if let Some(violation) = self.refused_by_itself(case, ending) {
                    return Some(violation);
                }
            }
            Some(_) => {}
        }
        if !(1..=MAX_MESSAGE).contains(&message.len()) {
            let seen = format!("{} bytes", message.len());
            return Some(Violation::new(Rule::MessagesFit, "a message of 1 to 512 bytes", seen));
        }
        let fields = self.fields(failure.is_some());
        let is_named = fields.iter().any(|field| message.contains(field));
        (case == ErrorCase::InvalidRequest && !is_named).then(|| {
            let expected = format!("a message with {}", fields.join(" or "));
            Violation::new(Rule::NamesField, expected, format!("{message:?}"))
        })
    }

    /// Judges a request that the component refused without a failure of its imports.
    fn refused_by_itself(&self, case: ErrorCase, ending: &Ending) -> Option<Violation> {
        let is_valid = |named| matches!(named, Named::Absent | Named::Id(_));
        let asked = |exchange: &Exchange| match (&exchange.call, &exchange.reply) {
            (
                Call::Authorize { account_id, organization_id },
                Reply::Grant { account_id: account, organization_id: organization },
            ) => {
                // A component may refuse a grant for others than it asked for.
                account_id.is_none_or(|asked| asked == *account) && organization_id == organization
            }
            _ => true,
        };
        if !self.exchanges.iter().all(asked) {
            return None;
        }
        if self.has_plain_name && is_valid(self.account) && is_valid(self.organization) {
            return Some(Violation::new(Rule::CreatesForValid, "a workspace", ending.to_string()));
        }
        (case != ErrorCase::InvalidRequest)
            .then(|| Violation::new(Rule::RefusesAsInvalid, "invalid-request", ending.to_string()))
    }

    /// Returns the fields that the message of `invalid-request` may name. A component has rules of its own for names.
    fn fields(&self, is_of_storage: bool) -> Vec<&'static str> {
        let is_doubtful = |named| matches!(named, Named::Unusual(_) | Named::Invalid);
        let ids = [("account_id", self.account), ("organization_id", self.organization)];
        let ids = ids.into_iter().filter(|(_, named)| !is_of_storage && is_doubtful(*named)).map(|(field, _)| field);
        std::iter::once("name").chain(ids).collect()
    }
}

/// Returns the errors with which a component may answer a denial.
fn of_denial(denial: Denial) -> &'static [ErrorCase] {
    match denial {
        Denial::Unauthenticated => &[ErrorCase::Unauthenticated],
        Denial::AccountForbidden | Denial::OrganizationForbidden => &[ErrorCase::Forbidden],
        Denial::Unavailable => &[ErrorCase::Unavailable],
    }
}

/// Returns the errors with which a component may answer an error of storage.
fn of_storage_error(error: StorageError) -> &'static [ErrorCase] {
    match error {
        StorageError::GrantUsed | StorageError::Unavailable => &[ErrorCase::Unavailable],
        StorageError::AccessLost => &[ErrorCase::Forbidden],
        StorageError::InvalidName => &[ErrorCase::InvalidRequest],
        StorageError::Unknown => &[ErrorCase::Unknown],
    }
}

fn or_none(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "none".into(), |value| value.to_string())
}
