//! Requirements of creating workspaces on a database, checked before a client finds out.

use std::sync::LazyLock;

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{
    DatabaseError, column, create, directory,
    failure::Failure,
    maintenance::{self, MAKE_THEM, SWEEP},
    operator,
    pool::{Connections, Lease},
    quota,
    session::Statement,
    subject,
};

/// Statements that a running host needs.
const STATEMENTS: [&Statement; 14] = [
    &directory::FIND_KEY,
    &directory::FACTS,
    &subject::FIND,
    &subject::FORGET,
    &subject::CREATE,
    &operator::KEYS_OF_ANOTHER_PEPPER,
    &create::CREATE_OWN,
    &create::CREATE,
    &create::FIND_CREATED,
    &create::FIND_CLAIMED,
    &create::FIND_REFERRED,
    &quota::NEXT,
    &quota::COUNT,
    &SWEEP,
];

/// The same, to be planned and not run: planning checks columns and rights.
static EXPLAINED: LazyLock<Vec<String>> =
    LazyLock::new(|| STATEMENTS.iter().map(|statement| format!("EXPLAIN {}", statement.sql)).collect());

/// Rights that these statements need, by table.
const RIGHTS: [(&str, &[&str]); 11] = [
    ("public.accounts", &["SELECT", "INSERT"]),
    ("public.account_info", &["SELECT", "INSERT"]),
    ("public.account_workspace_ids", &["SELECT", "INSERT"]),
    ("public.artist_organization_ids", &["SELECT", "INSERT"]),
    ("public.account_organization_ids", &["SELECT"]),
    ("public.account_api_keys", &["SELECT"]),
    ("workspaces.schema_version", &["SELECT"]),
    ("workspaces.idempotency_keys", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("workspaces.quota_usage", &["SELECT", "INSERT", "UPDATE"]),
    ("workspaces.token_subjects", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("workspaces.key_peppers", &["SELECT"]),
];

/// Asserts that the tables are there in the shape that the statements expect, that the role has the rights for
/// them, and that a workspace can be created: one is, and is rolled back.
pub(super) async fn check(connections: &Connections) -> Result<(), DatabaseError> {
    require_usage(connections).await?;
    match maintenance::require_schema(connections).await {
        Err(DatabaseError::Storage(_)) | Ok(()) => {}
        // The version itself may be what the role can't read.
        Err(error) => return Err(missing_rights(connections).await?.unwrap_or(error)),
    }
    for (sql, statement) in EXPLAINED.iter().zip(STATEMENTS) {
        let values: Vec<_> = statement.types.iter().map(null).collect();
        match connections.query(&Statement { sql, types: statement.types }, &values).await {
            Ok(_) => {}
            Err(Failure::Misconfigured(Some(code), text)) if code.code() == "42501" => {
                return Err(missing_rights(connections).await?.unwrap_or_else(|| unusable(text)));
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    require_no_row_security(connections).await?;
    let mut lease = connections.lease().await?;
    lease.begin().await?;
    let created = create_once(&mut lease).await;
    lease.roll_back().await?;
    match created {
        // A rule on values says nothing of other workspaces.
        Ok(()) | Err(Failure::Refused(..)) => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

/// Creates a workspace that is its own owner and organization: no other account is needed.
async fn create_once(lease: &mut Lease) -> Result<(), Failure> {
    let (id, key) = (Uuid::now_v7(), None::<Uuid>);
    lease.query(&create::CREATE_OWN, &[&id, &"Untitled", &id, &id, &id, &key]).await?;
    lease.query(&Statement { sql: "SET CONSTRAINTS ALL IMMEDIATE", types: &[] }, &[]).await?;
    Ok(())
}

/// Asserts that the role may look into the schemas, without which nothing in them can be named.
async fn require_usage(connections: &Connections) -> Result<(), DatabaseError> {
    const CLOSED: Statement = Statement {
        sql: "SELECT string_agg(format('GRANT USAGE ON SCHEMA %I TO %I', nspname, current_user), '; ') AS grants
            FROM pg_namespace
            WHERE nspname IN ('public', 'workspaces') AND NOT has_schema_privilege(oid, 'USAGE')",
        types: &[],
    };
    let rows = connections.query(&CLOSED, &[]).await?;
    match rows.first().map(|row| column::<Option<String>>(row, "grants")).transpose()?.flatten() {
        Some(grants) => Err(lacks_rights(&grants)),
        None => Ok(()),
    }
}

/// Returns an error that names the rights that the role lacks, if it lacks any on whole tables.
async fn missing_rights(connections: &Connections) -> Result<Option<DatabaseError>, DatabaseError> {
    const MISSING: Statement = Statement {
        sql: "SELECT string_agg(grants, '; ') AS grants FROM (
                SELECT format('GRANT %s ON %s TO %I', string_agg(needed, ', '), name, current_user) AS grants
                FROM unnest($1, $2) AS rights (name, needed)
                WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), needed)
                GROUP BY name ORDER BY name
            ) AS missing",
        types: &[Type::TEXT_ARRAY, Type::TEXT_ARRAY],
    };
    let rights = RIGHTS.iter().flat_map(|(name, rights)| rights.iter().map(move |right| (*name, *right)));
    let (names, needed): (Vec<_>, Vec<_>) = rights.unzip();
    let rows = connections.query(&MISSING, &[&names, &needed]).await?;
    let grants = rows.first().map(|row| column::<Option<String>>(row, "grants")).transpose()?.flatten();
    Ok(grants.map(|grants| lacks_rights(&grants)))
}

fn lacks_rights(grants: &str) -> DatabaseError {
    unusable(format!("the role lacks rights: {grants}"))
}

/// Asserts that row-level security hides no rows from the role. Its policies, where there are any, may have been
/// made for it.
async fn require_no_row_security(connections: &Connections) -> Result<(), DatabaseError> {
    const ACTIVE: Statement = Statement {
        sql: "SELECT string_agg(name, ', ') AS names, bool_or(hidden) AS hidden, current_user::text AS role FROM (
                SELECT name, NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(name)) AS hidden
                FROM unnest($1) AS tables (name) WHERE row_security_active(name)
            ) AS active",
        types: &[Type::TEXT_ARRAY],
    };
    let names: Vec<_> = RIGHTS.iter().map(|(name, _)| *name).collect();
    let rows = connections.query(&ACTIVE, &[&names]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let Some(names) = column::<Option<String>>(row, "names")? else { return Ok(()) };
    let (hidden, role): (Option<bool>, String) = (column(row, "hidden")?, column(row, "role")?);
    if hidden == Some(true) {
        return Err(unusable(format!(
            "row-level security hides rows from the role {role}: ALTER ROLE {role} BYPASSRLS, or a policy for it on {names}"
        )));
    }
    tracing::warn!(tables = names, "row-level security holds for this role: its policies have to show all rows");
    Ok(())
}

fn unusable(text: String) -> DatabaseError {
    DatabaseError::Unusable(text)
}

impl From<Failure> for DatabaseError {
    fn from(failure: Failure) -> Self {
        use crate::storage::Error;
        match failure {
            Failure::Misconfigured(Some(code), text) => Self::Unusable(match code.code() {
                "42P01" | "3F000" => format!("the database lacks a table: {text}: {MAKE_THEM}"),
                "42703" | "42P10" => format!("a table lacks a column or a key that is needed: {text}: add it"),
                "42501" => format!("the role lacks a right: {text}: GRANT it"),
                "23502" => format!("a column has neither a value nor a default: {text}: give it a default"),
                _ => text,
            }),
            Failure::Misconfigured(None, text) => Self::Unusable(text),
            Failure::Lost(_) | Failure::NotReplicated => Error::Unknown(failure.to_string()).into(),
            failure => Error::Unavailable(failure.to_string()).into(),
        }
    }
}

/// Returns NULL as a value of a type.
fn null(kind: &Type) -> &'static (dyn ToSql + Sync) {
    match *kind {
        Type::UUID => &None::<Uuid>,
        Type::BOOL => &None::<bool>,
        Type::INT8 => &None::<i64>,
        Type::BYTEA => &None::<&[u8]>,
        _ => &None::<&str>,
    }
}
