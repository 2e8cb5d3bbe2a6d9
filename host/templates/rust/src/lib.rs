//! A component of the world `plugin`: the rules of a request are its own.
#![no_std]

extern crate alloc;

use alloc::{
    format,
    string::{String, ToString},
};

use uuid::Uuid;
use workspaces_guest_kit as _;

wit_bindgen::generate!({ world: "plugin", path: "wit" });

use exports::recoup::workspaces::workspaces::{
    CreateWorkspaceError as Error, CreateWorkspaceRequest as Request, CreateWorkspaceResponse as Response, Guest,
    Workspace,
};
use recoup::workspaces::{auth, storage, types};

struct Component;
export!(Component);

impl Guest for Component {
    fn create_workspace(request: Request) -> Result<Response, Error> {
        let name = name(request.name.as_deref())?;
        let account = id("account_id", request.account_id.as_deref())?;
        let organization = id("organization_id", request.organization_id.as_deref())?;
        let grant = auth::authorize(account, organization).map_err(denied)?;
        let id = storage::create_workspace(&grant, &name).map_err(failed)?;
        let workspace =
            Workspace { id: text(id), name, account_id: text(grant.account_id()), is_workspace: true };
        Ok(Response { workspace })
    }
}

/// Returns the name to store. These rules are yours to choose.
fn name(sent: Option<&str>) -> Result<String, Error> {
    let name = sent.unwrap_or_default().trim();
    if name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(Error::InvalidRequest("name is too long or has control characters: send another".into()));
    }
    Ok(if name.is_empty() { "Untitled".into() } else { name.into() })
}

/// Parses an id of the request, a UUID in the hyphenated form.
fn id(field: &str, sent: Option<&str>) -> Result<Option<types::Uuid>, Error> {
    let Some(sent) = sent else { return Ok(None) };
    match Uuid::try_parse(sent) {
        Ok(id) if sent.len() == 36 => {
            let (high, low) = id.as_u64_pair();
            Ok(Some(types::Uuid { high, low }))
        }
        _ => Err(Error::InvalidRequest(format!("{field} is not a UUID: send one, or leave it out"))),
    }
}

/// Returns the text of an id.
fn text(id: types::Uuid) -> String {
    Uuid::from_u64_pair(id.high, id.low).to_string()
}

/// Returns the answer to a denial.
fn denied(denial: auth::Denial) -> Error {
    match denial {
        auth::Denial::Unauthenticated => Error::Unauthenticated("Send a valid credential".into()),
        auth::Denial::AccountForbidden => Error::Forbidden("You have no access to this account_id".into()),
        auth::Denial::OrganizationForbidden => Error::Forbidden("You have no access to this organization_id".into()),
        auth::Denial::Unavailable => Error::Unavailable("Access could not be checked: try again later".into()),
    }
}

/// Returns the answer to an error of storage.
fn failed(error: storage::Error) -> Error {
    match error {
        storage::Error::AccessLost => Error::Forbidden("Your access was withdrawn during the request".into()),
        storage::Error::InvalidName => Error::InvalidRequest("name can't be stored: send another".into()),
        storage::Error::GrantUsed | storage::Error::Unavailable => {
            Error::Unavailable("The workspace was not created: try again later".into())
        }
        storage::Error::Unknown => Error::Unknown("It is not known whether the workspace was created".into()),
    }
}
