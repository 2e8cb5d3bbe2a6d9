//! The component behind `POST /api/workspaces`.
//!
//! This file holds the bindings and the export, and is the only one that names them. The logic is
//! in [`create`] and [`name`]: plain Rust, compiled and tested natively too.
#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use workspaces_guest_kit as _;

pub mod create;
pub mod name;

#[cfg(target_family = "wasm")]
mod component {
    #![allow(unsafe_code, reason = "the exports of the canonical ABI are unsafe by nature")]
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

    use alloc::string::ToString;

    use uuid::Uuid;

    use crate::create::{self, Denial, Error, Imports, Request, StorageError};

    wit_bindgen::generate!({ world: "plugin", path: "../wit" });

    use exports::recoup::workspaces::workspaces::{
        CreateWorkspaceError, CreateWorkspaceRequest, CreateWorkspaceResponse, Guest, Workspace,
    };
    use recoup::workspaces::{auth, storage, types};

    struct Component;
    export!(Component);

    impl Guest for Component {
        fn create_workspace(request: CreateWorkspaceRequest) -> Result<CreateWorkspaceResponse, CreateWorkspaceError> {
            let CreateWorkspaceRequest { name, account_id, organization_id } = request;
            let workspace = create::create_workspace(&mut Host, Request { name, account_id, organization_id })?;
            Ok(CreateWorkspaceResponse {
                workspace: Workspace {
                    id: workspace.id.to_string(),
                    name: workspace.name,
                    account_id: workspace.account_id.to_string(),
                    is_workspace: true,
                },
            })
        }
    }

    /// The imports, as the logic knows them.
    struct Host;

    impl Imports for Host {
        type Grant = auth::Grant;

        fn authorize(&mut self, account: Option<Uuid>, organization: Option<Uuid>) -> Result<auth::Grant, Denial> {
            auth::authorize(account.map(lower), organization.map(lower)).map_err(|denial| match denial {
                auth::Denial::Unauthenticated => Denial::Unauthenticated,
                auth::Denial::AccountForbidden => Denial::AccountForbidden,
                auth::Denial::OrganizationForbidden => Denial::OrganizationForbidden,
                auth::Denial::Unavailable => Denial::Unavailable,
            })
        }

        fn account_of(&mut self, grant: &auth::Grant) -> Uuid {
            lift(grant.account_id())
        }

        fn create(&mut self, grant: &auth::Grant, name: &str) -> Result<Uuid, StorageError> {
            storage::create_workspace(grant, name).map(lift).map_err(|error| match error {
                storage::Error::GrantUsed => StorageError::GrantUsed,
                storage::Error::AccessLost => StorageError::AccessLost,
                storage::Error::InvalidName => StorageError::InvalidName,
                storage::Error::Unavailable => StorageError::Unavailable,
                storage::Error::Unknown => StorageError::Unknown,
            })
        }
    }

    fn lower(id: Uuid) -> types::Uuid {
        let (high, low) = id.as_u64_pair();
        types::Uuid { high, low }
    }

    fn lift(id: types::Uuid) -> Uuid {
        Uuid::from_u64_pair(id.high, id.low)
    }

    impl From<Error> for CreateWorkspaceError {
        fn from(error: Error) -> Self {
            match error {
                Error::InvalidRequest(message) => Self::InvalidRequest(message),
                Error::Unauthenticated(message) => Self::Unauthenticated(message),
                Error::Forbidden(message) => Self::Forbidden(message),
                Error::Unavailable(message) => Self::Unavailable(message),
                Error::Unknown(message) => Self::Unknown(message),
            }
        }
    }
}
