//! Data of the operation: its request and the workspace that it creates.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Maximum length of a name that is handed to storage, in characters; a component may be stricter.
pub const MAX_NAME_CHARACTERS: usize = 255;

/// Request of a client, as it sent it: the component validates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateWorkspaceRequest {
    /// The workspace's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The account to create it for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The organization to link it to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<String>,
}

/// A workspace that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: Uuid,
    /// Its name as stored.
    pub name: String,
    /// The account it was created for.
    pub account_id: Uuid,
}
