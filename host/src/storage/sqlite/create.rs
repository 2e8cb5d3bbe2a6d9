//! The rows of a workspace.

use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Params, params};
use uuid::Uuid;

use super::{Claim, Created, Error, facts, quota::Allowance};
use crate::{
    Workspace,
    auth::{Basis, Grant, access::Question},
    now,
    storage::IdempotencyKey,
};

/// A workspace to create.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) workspace: Workspace,
    pub(super) grant: Grant,
    pub(super) claim: Option<Claim>,
    /// The tenant whose quota it counts for, if it has one.
    pub(super) allowance: Option<Arc<Allowance>>,
}

impl Creation {
    /// Returns a workspace that is its own account and organization, to try the statements with and to roll back.
    pub(super) fn rehearsal() -> Self {
        let id = Uuid::now_v7();
        let grant =
            Grant { caller_id: id, account_id: id, organization_id: Some(id), key_id: None, basis: Basis::Auth };
        let claim = IdempotencyKey::new("rehearsal").ok().map(|key| Claim { caller_id: id, key, fingerprint: [0; 32] });
        Self { workspace: Workspace { id, name: "Rehearsal".into(), account_id: id }, grant, claim, allowance: None }
    }
}

/// Creates the workspace, within the transaction that the connection is in, which commits the rows
/// or rolls them back. `time` is that of claims.
pub(super) fn create(connection: &Connection, creation: &Creation, time: i64) -> Result<Created, Error> {
    let Creation { workspace, grant, claim, allowance } = creation;
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
    if let Some(allowance) = allowance {
        allowance.spend(connection, now)?;
    }
    match insert_rows(connection, creation, now, time) {
        // Of the rows here, only the owner's and the link refer to accounts that may be gone.
        Err(Error::AccessLost) if accounts_exist(connection, grant)? => {
            Err(Error::Refused("a foreign key of the database's own refuses a row".into()))
        }
        inserted => inserted.map(|()| Created { workspace: workspace.clone(), replayed: false }),
    }
}

fn insert_rows(connection: &Connection, creation: &Creation, now: i64, time: i64) -> Result<(), Error> {
    let Creation { workspace, grant, claim, .. } = creation;
    insert_account(connection, workspace.id, Some(&workspace.name), now)?;
    insert(
        connection.prepare_cached(
            "INSERT INTO account_workspace_ids (id, account_id, workspace_id, updated_at) VALUES (?1, ?2, ?3, ?4)",
        )?,
        params![Uuid::now_v7(), workspace.account_id, workspace.id, now],
    )?;
    if let Some(organization) = grant.organization_id {
        insert(
            connection.prepare_cached(
                "INSERT INTO artist_organization_ids (id, artist_id, organization_id, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?4)",
            )?,
            params![Uuid::now_v7(), workspace.id, organization, now],
        )?;
    }
    if let Some(claim) = claim {
        // Never older than the newest, which another process may have written: it would be forgotten at once.
        insert(
            connection.prepare_cached(
                "INSERT INTO idempotency_keys
                     (caller_id, route, key, fingerprint, workspace_id, name, account_id, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, max(?8, (SELECT ifnull(max(created_at), 0) FROM idempotency_keys)))",
            )?,
            params![
                claim.caller_id,
                Claim::ROUTE,
                claim.key.as_str(),
                claim.fingerprint,
                workspace.id,
                workspace.name,
                workspace.account_id,
                time
            ],
        )?;
    }
    Ok(())
}

/// Inserts one row. A trigger of the database's own may leave it out.
fn insert(mut statement: CachedStatement<'_>, values: impl Params) -> Result<(), Error> {
    match statement.execute(values)? {
        1 => Ok(()),
        _ => Err(Error::Refused("a trigger of the database's own leaves a row out".into())),
    }
}

fn accounts_exist(connection: &Connection, grant: &Grant) -> Result<bool, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM accounts WHERE id = ?1)
             AND (?2 IS NULL OR EXISTS (SELECT 1 FROM accounts WHERE id = ?2))",
    )?;
    Ok(statement.query_row(params![grant.account_id, grant.organization_id], |row| row.get(0))?)
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

/// Inserts the rows that every account has, workspaces and organizations too.
pub(super) fn insert_account(connection: &Connection, id: Uuid, name: Option<&str>, now: i64) -> Result<(), Error> {
    insert(
        connection.prepare_cached("INSERT INTO accounts (id, name, timestamp) VALUES (?1, ?2, ?3)")?,
        params![id, name, now],
    )?;
    insert(
        connection.prepare_cached(
            "INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)",
        )?,
        params![Uuid::now_v7(), id, now],
    )
}

/// Returns the workspace that was created under a claim.
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
