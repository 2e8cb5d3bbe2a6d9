//! Account and organization that a request asks for, with which the component's grants are compared.

use uuid::Uuid;

use crate::{CreateWorkspaceRequest, auth::Grant};

/// Account and organization that a request names.
#[derive(Debug, Default)]
pub(super) struct Asked {
    account: Named,
    organization: Named,
}

/// An id in a request.
#[derive(Debug, Default, PartialEq)]
enum Named {
    #[default]
    Nothing,
    Id(Uuid),
    /// Text that is no UUID in any of its forms. No grant is for it.
    Invalid,
}

impl Named {
    fn of(text: Option<&str>) -> Self {
        match text.map(Uuid::try_parse) {
            None => Self::Nothing,
            Some(Ok(id)) => Self::Id(id),
            Some(Err(_)) => Self::Invalid,
        }
    }
}

impl Asked {
    /// Returns what a request asks for.
    pub(super) fn of(request: &CreateWorkspaceRequest) -> Self {
        Self {
            account: Named::of(request.account_id.as_deref()),
            organization: Named::of(request.organization_id.as_deref()),
        }
    }

    /// Returns whether a grant is for what was asked: the account that the request names, or else the caller's, and the
    /// organization that it names, or none.
    pub(super) fn is_for(&self, grant: &Grant) -> bool {
        let account = match self.account {
            Named::Nothing => Some(grant.caller_id),
            Named::Id(id) => Some(id),
            Named::Invalid => None,
        };
        let organization = grant.organization_id.map_or(Named::Nothing, Named::Id);
        account == Some(grant.account_id) && self.organization == organization
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Basis;

    #[test]
    fn a_grant_is_for_the_accounts_that_the_request_names_and_no_others() {
        let [caller, other, third] = [1, 2, 3].map(Uuid::from_u128);
        let grant = |account_id, organization_id| Grant {
            caller_id: caller,
            account_id,
            organization_id,
            key_id: None,
            basis: Basis::Auth,
        };
        let asks = |account: Option<String>, organization: Option<String>| {
            let request = CreateWorkspaceRequest { name: None, account_id: account, organization_id: organization };
            Asked::of(&request)
        };
        let text = |id: Uuid| Some(id.to_string());
        for (asked, granted, expected) in [
            (asks(None, None), grant(caller, None), true),
            (asks(None, None), grant(other, None), false),
            (asks(None, None), grant(caller, Some(other)), false),
            (asks(text(other), None), grant(other, None), true),
            (asks(Some(other.simple().to_string()), None), grant(other, None), true),
            (asks(text(other), None), grant(caller, None), false),
            (asks(text(other), None), grant(third, None), false),
            (asks(None, text(other)), grant(caller, Some(other)), true),
            (asks(None, text(other)), grant(caller, None), false),
            (asks(None, text(other)), grant(caller, Some(third)), false),
            (asks(text(other), text(third)), grant(other, Some(third)), true),
            (asks(text(other), text(third)), grant(third, Some(other)), false),
            (asks(Some("ada".into()), None), grant(caller, None), false),
            (asks(None, Some(String::new())), grant(caller, None), false),
        ] {
            assert_eq!(asked.is_for(&granted), expected, "{asked:?} {granted:?}");
        }
    }
}
