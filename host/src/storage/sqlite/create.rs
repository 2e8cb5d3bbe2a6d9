//! The rows of a workspace.

use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::{Claim, Created, Error, facts};
use crate::{
    Workspace,
    auth::{Grant, access::Question},
    now,
};

/// A workspace to create.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) workspace: Workspace,
    pub(super) grant: Grant,
    pub(super) claim: Option<Claim>,
}

/// Creates the workspace, within the transaction that the connection is in, which commits the rows
/// or rolls them back.
pub(super) fn create(connection: &Connection, creation: &Creation) -> Result<Created, Error> {
    let Creation { workspace, grant, claim } = creation;
    if let Some(claim) = claim
        && let Some(workspace) = find_claimed(connection, claim)?
    {
        return Ok(Created { workspace, replayed: true });
    }
    let now = now();
    if let Some(key) = grant.key_id {
        require_key(connection, key, grant.caller_id, now)?;
    }
    // What is the caller's own rests on its account alone, to which the rows below refer.
    if let Some(question) = Question::behind(grant).filter(|question| !question.is_own()) {
        question.decide(facts(connection, &question)?).map_err(|_| Error::AccessLost)?;
    }
    insert_account(connection, workspace.id, Some(&workspace.name), now)?;
    connection
        .prepare_cached(
            "INSERT INTO account_workspace_ids (id, account_id, workspace_id, updated_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![Uuid::now_v7(), workspace.account_id, workspace.id, now])?;
    if let Some(organization) = grant.organization_id {
        connection
            .prepare_cached(
                "INSERT INTO artist_organization_ids (id, artist_id, organization_id, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?4)",
            )?
            .execute(params![Uuid::now_v7(), workspace.id, organization, now])?;
    }
    if let Some(claim) = claim {
        connection
            .prepare_cached(
                "INSERT INTO idempotency_keys
                     (caller_id, route, key, fingerprint, workspace_id, name, account_id, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                claim.caller_id,
                Claim::ROUTE,
                claim.key.as_str(),
                claim.fingerprint,
                workspace.id,
                workspace.name,
                workspace.account_id,
                now
            ])?;
    }
    Ok(Created { workspace: workspace.clone(), replayed: false })
}

/// Checks that the API key still exists, is the caller's and has not expired.
fn require_key(connection: &Connection, key: Uuid, caller: Uuid, now: i64) -> Result<(), Error> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM account_api_keys
                        WHERE id = ?1 AND account = ?2 AND (expires_at IS NULL OR expires_at > ?3))",
    )?;
    match statement.query_row(params![key, caller, now], |row| row.get(0))? {
        true => Ok(()),
        false => Err(Error::CredentialLost),
    }
}

/// The rows that every account has, workspaces and organizations too.
pub(super) fn insert_account(
    connection: &Connection,
    id: Uuid,
    name: Option<&str>,
    now: i64,
) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("INSERT INTO accounts (id, name, timestamp) VALUES (?1, ?2, ?3)")?
        .execute(params![id, name, now])?;
    connection
        .prepare_cached("INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)")?
        .execute(params![Uuid::now_v7(), id, now])?;
    Ok(())
}

/// The workspace that was created under a claim.
pub(super) fn find_claimed(connection: &Connection, claim: &Claim) -> Result<Option<Workspace>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT fingerprint, workspace_id, name, account_id FROM idempotency_keys
         WHERE caller_id = ?1 AND route = ?2 AND key = ?3",
    )?;
    let found = statement
        .query_row(params![claim.caller_id, Claim::ROUTE, claim.key.as_str()], |row| {
            let workspace = Workspace { id: row.get(1)?, name: row.get(2)?, account_id: row.get(3)? };
            Ok((row.get::<_, [u8; 32]>(0)?, workspace))
        })
        .optional()?;
    match found {
        None => Ok(None),
        Some((fingerprint, workspace)) if fingerprint == claim.fingerprint => Ok(Some(workspace)),
        Some(_) => Err(Error::KeyReused),
    }
}
