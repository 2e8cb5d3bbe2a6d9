//! The rules of who may create a workspace for whom, apart from where the facts come from.

use uuid::Uuid;

use super::{Basis, Caller, Denial, Grant};

/// Question of access: may `caller` create a workspace for `account`, linked to `organization`?
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// The caller's account.
    pub caller: Uuid,
    /// The account the workspace is for.
    pub account: Uuid,
    /// The organization to link it to.
    pub organization: Option<Uuid>,
    /// The organization whose members may act for any account.
    pub administrators: Option<Uuid>,
}

/// Facts of a database that decide a [`Question`]. All are false about ids that do not exist.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// The account exists.
    pub account_exists: bool,
    /// The caller is a member of the administrators' organization.
    pub caller_is_administrator: bool,
    /// Caller and account are both members of one organization.
    pub shares_organization: bool,
    /// The account is a member of the organization.
    pub account_is_member: bool,
}

impl Facts {
    /// Facts for a question that [is the caller's own](Question::is_own).
    pub const OWN: Self = Self {
        account_exists: true,
        caller_is_administrator: false,
        shares_organization: false,
        account_is_member: false,
    };
}

impl Question {
    /// Returns the grant that the facts allow. It names no API key: whoever knows the caller's adds it.
    ///
    /// An account may be the caller itself, any that exists where the caller is an administrator, or
    /// one that shares an organization with it. An organization may be the account itself or one
    /// that the account is a member of.
    ///
    /// # Errors
    ///
    /// The [`Denial`] of the account, before that of the organization.
    pub fn decide(&self, facts: Facts) -> Result<Grant, Denial> {
        let reaches_account = self.account == self.caller || facts.caller_is_administrator || facts.shares_organization;
        if !(facts.account_exists && reaches_account) {
            return Err(Denial::AccountForbidden);
        }
        match self.organization {
            Some(organization) if organization != self.account && !facts.account_is_member => {
                Err(Denial::OrganizationForbidden)
            }
            _ => Ok(Grant {
                caller_id: self.caller,
                account_id: self.account,
                organization_id: self.organization,
                key_id: None,
                basis: Basis::Memberships { administrators: self.administrators },
            }),
        }
    }

    /// Returns whether it is about nobody but the caller, who is known to exist: then the answer rests on no
    /// membership, and the database need not be asked.
    pub fn is_own(&self) -> bool {
        self.account == self.caller && self.organization.is_none_or(|organization| organization == self.account)
    }

    /// Returns the question that a grant answered; `None` where it rests on something else than memberships.
    pub fn behind(grant: &Grant) -> Option<Self> {
        match grant.basis {
            Basis::Memberships { administrators } => Some(Self {
                caller: grant.caller_id,
                account: grant.account_id,
                organization: grant.organization_id,
                administrators,
            }),
            Basis::Auth => None,
        }
    }

    /// Returns the question that a caller's request puts.
    pub fn new(
        caller: &Caller,
        account: Option<Uuid>,
        organization: Option<Uuid>,
        administrators: Option<Uuid>,
    ) -> Self {
        Self { caller: caller.account_id, account: account.unwrap_or(caller.account_id), organization, administrators }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks every combination of the facts and of who is who against the rules written the other way
    /// round: as the list of what is refused.
    #[test]
    fn every_combination_is_decided_by_the_rules() {
        let (caller, other, organization) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let mut granted = 0;
        for bits in 0..16u8 {
            let facts = Facts {
                account_exists: bits & 1 != 0,
                caller_is_administrator: bits & 2 != 0,
                shares_organization: bits & 4 != 0,
                account_is_member: bits & 8 != 0,
            };
            for account in [caller, other] {
                for linked in [None, Some(organization), Some(account)] {
                    let question = Question { caller, account, organization: linked, administrators: None };
                    let stranger = account == other && bits & 0b110 == 0;
                    let expected = if bits & 1 == 0 || stranger {
                        Err(Denial::AccountForbidden)
                    } else if linked == Some(organization) && bits & 8 == 0 {
                        Err(Denial::OrganizationForbidden)
                    } else {
                        granted += 1;
                        let basis = Basis::Memberships { administrators: None };
                        Ok(Grant {
                            caller_id: caller,
                            account_id: account,
                            organization_id: linked,
                            key_id: None,
                            basis,
                        })
                    };
                    assert_eq!(question.decide(facts), expected, "{question:?} {facts:?}");
                    if question.is_own() {
                        assert_eq!(
                            question.decide(Facts::OWN),
                            question.decide(Facts { account_exists: true, ..facts })
                        );
                    }
                }
            }
        }
        assert_eq!(granted, 35, "8 + 6 fact sets that reach the account, by the organizations each allows");
    }
}
