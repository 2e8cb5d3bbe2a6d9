//! The order of steps: validate, authorize, create.

use alloc::{format, string::String};

use uuid::Uuid;

use crate::name;

/// Request as the client sent it, not yet validated.
#[derive(Debug, Default)]
pub struct Request {
    /// The workspace's name.
    pub name: Option<String>,
    /// The account to create it for.
    pub account_id: Option<String>,
    /// The organization to link it to.
    pub organization_id: Option<String>,
}

/// A workspace that exists now.
#[derive(Debug, PartialEq, Eq)]
pub struct Workspace {
    /// The id that storage gave it.
    pub id: Uuid,
    /// Its name as stored.
    pub name: String,
    /// The account it was created for.
    pub account_id: Uuid,
}

/// Reason why no workspace was created; the string is for the client.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the cases are those of the WIT interface, which documents them")]
pub enum Error {
    InvalidRequest(String),
    Unauthenticated(String),
    Forbidden(String),
    Unavailable(String),
    Unknown(String),
}

/// Reason why auth made no grant.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the cases are those of the WIT interface, which documents them")]
pub enum Denial {
    Unauthenticated,
    AccountForbidden,
    OrganizationForbidden,
    Unavailable,
}

/// Reason why storage returned no id.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the cases are those of the WIT interface, which documents them")]
pub enum StorageError {
    GrantUsed,
    AccessLost,
    InvalidName,
    Unavailable,
    Unknown,
}

/// Functions that the component imports.
pub trait Imports {
    /// Permission to create one workspace.
    type Grant;
    /// Asks for permission.
    ///
    /// # Errors
    ///
    /// A [`Denial`].
    fn authorize(&mut self, account: Option<Uuid>, organization: Option<Uuid>) -> Result<Self::Grant, Denial>;
    /// Returns the account that a grant is for.
    fn account_of(&mut self, grant: &Self::Grant) -> Uuid;
    /// Creates the workspace.
    ///
    /// # Errors
    ///
    /// A [`StorageError`].
    fn create(&mut self, grant: &Self::Grant, name: &str) -> Result<Uuid, StorageError>;
}

/// Creates a workspace.
///
/// # Errors
///
/// An [`Error`] with a message for the client. Fields are judged in the order name, account,
/// organization, all of them before auth is asked.
pub fn create_workspace<I: Imports>(imports: &mut I, request: Request) -> Result<Workspace, Error> {
    let name = name::normalize(request.name.as_deref()).map_err(|message| Error::InvalidRequest(message.into()))?;
    let account = parse_id("account_id", request.account_id.as_deref())?;
    let organization = parse_id("organization_id", request.organization_id.as_deref())?;
    let grant = imports.authorize(account, organization)?;
    let id = imports.create(&grant, &name)?;
    Ok(Workspace { id, name, account_id: imports.account_of(&grant) })
}

/// Parses a UUID in the hyphenated form, either case; the other forms that the uuid crate reads are no
/// `format: uuid` of JSON Schema.
fn parse_id(field: &str, sent: Option<&str>) -> Result<Option<Uuid>, Error> {
    const HYPHENATED_LENGTH: usize = 36;
    let Some(sent) = sent else { return Ok(None) };
    match Uuid::try_parse(sent) {
        Ok(id) if sent.len() == HYPHENATED_LENGTH => Ok(Some(id)),
        _ => Err(Error::InvalidRequest(format!(
            "{field} is not a UUID: send one like 123e4567-e89b-42d3-a456-426614174000, or leave it out"
        ))),
    }
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Unauthenticated => Self::Unauthenticated("Send a valid credential".into()),
            Denial::AccountForbidden => {
                Self::Forbidden("You have no access to this account_id: leave it out to use your own account".into())
            }
            Denial::OrganizationForbidden => Self::Forbidden(
                "The account has no access to this organization_id: use one that it belongs to, or leave it out".into(),
            ),
            Denial::Unavailable => Self::Unavailable("Access could not be checked: try again later".into()),
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::AccessLost => Self::Forbidden("Your access was withdrawn during the request".into()),
            StorageError::InvalidName => Self::InvalidRequest("name can't be stored: send another".into()),
            StorageError::GrantUsed | StorageError::Unavailable => {
                Self::Unavailable("The workspace was not created: try again later".into())
            }
            StorageError::Unknown => Self::Unknown("It is not known whether the workspace was created".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::*;

    const CALLER: Uuid = Uuid::from_u128(1);
    const CREATED: Uuid = Uuid::from_u128(2);

    /// Imports that answer as told and write down what they were asked.
    #[derive(Default)]
    struct Scripted {
        denial: Option<Denial>,
        storage_error: Option<StorageError>,
        calls: Vec<String>,
    }

    impl Imports for Scripted {
        type Grant = Uuid;
        fn authorize(&mut self, account: Option<Uuid>, organization: Option<Uuid>) -> Result<Uuid, Denial> {
            self.calls.push(format!("authorize {account:?} {organization:?}"));
            self.denial.map_or(Ok(account.unwrap_or(CALLER)), Err)
        }
        fn account_of(&mut self, grant: &Uuid) -> Uuid {
            *grant
        }
        fn create(&mut self, grant: &Uuid, name: &str) -> Result<Uuid, StorageError> {
            self.calls.push(format!("create {grant} {name}"));
            self.storage_error.map_or(Ok(CREATED), Err)
        }
    }

    fn request(name: &str, account: &str, organization: &str) -> Request {
        let field = |value: &str| (value != "-").then(|| String::from(value));
        Request { name: field(name), account_id: field(account), organization_id: field(organization) }
    }

    #[test]
    fn an_empty_request_creates_untitled_for_the_caller() {
        let mut imports = Scripted::default();
        let workspace = create_workspace(&mut imports, Request::default());
        assert_eq!(workspace, Ok(Workspace { id: CREATED, name: "Untitled".into(), account_id: CALLER }));
        assert_eq!(imports.calls, vec!["authorize None None".into(), format!("create {CALLER} Untitled")]);
    }

    #[test]
    fn the_grant_decides_the_account() {
        let other = "123e4567-e89b-42d3-a456-426614174000";
        let workspace = create_workspace(&mut Scripted::default(), request("A", other, "-"));
        assert_eq!(workspace.map(|w| w.account_id), Ok(Uuid::try_parse(other).unwrap_or_default()));
    }

    #[test]
    fn invalid_fields_are_named_in_order_and_nobody_is_asked() {
        let long = "x".repeat(256);
        for (request, message) in [
            (request(&long, "x", "x"), name::TOO_LONG.into()),
            (request("a\0b", "x", "x"), name::FORBIDDEN_CHARACTER.into()),
            (request("a", "x", "x"), not_a_uuid("account_id")),
            (request("a", "-", ""), not_a_uuid("organization_id")),
        ] {
            let mut imports = Scripted::default();
            assert_eq!(create_workspace(&mut imports, request), Err(Error::InvalidRequest(message)));
            assert!(imports.calls.is_empty());
        }
    }

    fn not_a_uuid(field: &str) -> String {
        format!("{field} is not a UUID: send one like 123e4567-e89b-42d3-a456-426614174000, or leave it out")
    }

    #[test]
    fn only_hyphenated_uuids_are_read() {
        for good in [
            "123e4567-e89b-42d3-a456-426614174000",
            "123E4567-E89B-42D3-A456-42661417400F",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert!(parse_id("id", Some(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "123e4567e89b42d3a456426614174000",
            "{123e4567-e89b-42d3-a456-426614174000}",
            "urn:uuid:123e4567-e89b-42d3-a456-426614174000",
            " 123e4567-e89b-42d3-a456-426614174000",
            "123e4567-e89b-42d3-a456-42661417400",
            "123e4567-e89b-42d3-a456-42661417400g",
            "123e4567-e89b-42d3-a456-4266141740é",
        ] {
            assert_eq!(parse_id("id", Some(bad)), Err(Error::InvalidRequest(not_a_uuid("id"))), "{bad}");
        }
    }

    #[test]
    fn a_denial_stops_before_storage() {
        for (denial, error) in [
            (Denial::Unauthenticated, Error::Unauthenticated("Send a valid credential".into())),
            (
                Denial::AccountForbidden,
                Error::Forbidden("You have no access to this account_id: leave it out to use your own account".into()),
            ),
            (
                Denial::OrganizationForbidden,
                Error::Forbidden(
                    "The account has no access to this organization_id: use one that it belongs to, or leave it out"
                        .into(),
                ),
            ),
            (Denial::Unavailable, Error::Unavailable("Access could not be checked: try again later".into())),
        ] {
            let mut imports = Scripted { denial: Some(denial), ..Scripted::default() };
            assert_eq!(create_workspace(&mut imports, Request::default()), Err(error));
            assert_eq!(imports.calls.len(), 1, "{:?}", imports.calls);
        }
    }

    #[test]
    fn storage_errors_say_whether_anything_was_written() {
        for (storage_error, error) in [
            (StorageError::GrantUsed, Error::Unavailable("The workspace was not created: try again later".into())),
            (StorageError::AccessLost, Error::Forbidden("Your access was withdrawn during the request".into())),
            (StorageError::InvalidName, Error::InvalidRequest("name can't be stored: send another".into())),
            (StorageError::Unavailable, Error::Unavailable("The workspace was not created: try again later".into())),
            (StorageError::Unknown, Error::Unknown("It is not known whether the workspace was created".into())),
        ] {
            let mut imports = Scripted { storage_error: Some(storage_error), ..Scripted::default() };
            assert_eq!(create_workspace(&mut imports, Request::default()), Err(error));
        }
    }
}
