//! The tables: making them, asking for them, and looking for what is wrong in them.

use tokio_postgres::{Transaction, types::Type};
use uuid::Uuid;

use super::{column, failure::Failure, pool::Connections, session::Statement};
use crate::storage::{
    Check, Claim, DatabaseError, Finding, Progress,
    database::{NAMED, ODDITIES},
};

/// The host's own tables, a step a version.
const SCHEMA: [&str; 3] = [include_str!("schema/1.sql"), include_str!("schema/2.sql"), include_str!("schema/3.sql")];

/// Any number, as long as it is the same in every process that makes tables.
const MIGRATION_LOCK: i64 = 0x776f_726b_7370;

pub(super) const MAKE_THEM: &str = "`workspaces database migrate` makes what is missing";

/// Deletes claims that are older than so many milliseconds, by the server's clock, as their times are. Rows that
/// another host deletes at this moment are left to it.
pub(super) const SWEEP: Statement = Statement {
    sql: "DELETE FROM workspaces.idempotency_keys WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM workspaces.idempotency_keys
            WHERE created_at < floor(extract(epoch FROM now()) * 1000)::bigint - $1 LIMIT $2
            FOR UPDATE SKIP LOCKED))
        RETURNING 1",
    types: &[Type::INT8, Type::INT8],
};

/// Forgets old claims, `limit` at most, and returns how many.
pub(super) async fn forget_claims(connections: &Connections, limit: u32) -> Result<usize, Failure> {
    let kept = i64::try_from(Claim::KEPT.as_millis()).unwrap_or(i64::MAX);
    Ok(connections.query(&SWEEP, &[&kept, &i64::from(limit)]).await?.len())
}

/// Asserts that the host's tables are there, and of this version.
pub(super) async fn require_schema(connections: &Connections) -> Result<(), DatabaseError> {
    const VERSION: Statement = Statement { sql: "SELECT version FROM workspaces.schema_version", types: &[] };
    let version: i32 = match connections.query(&VERSION, &[]).await {
        Ok(rows) => rows.first().map_or(Ok(0), |row| column(row, "version"))?,
        Err(failure) if failure.code().is_some_and(|code| matches!(code.code(), "42P01" | "3F000")) => 0,
        Err(failure) => return Err(failure.into()),
    };
    match usize::try_from(version) {
        Ok(version) if version == SCHEMA.len() => Ok(()),
        Ok(version) if version < SCHEMA.len() => {
            Err(DatabaseError::Unusable(format!("the database lacks the tables of this version: {MAKE_THEM}")))
        }
        _ => Err(DatabaseError::Unusable(format!(
            "the database has schema {version}; this version of the program knows {}: use the one that made it",
            SCHEMA.len()
        ))),
    }
}

/// Makes the deployment's tables that are not there, and takes the steps of the host's own.
pub(super) async fn migrate(connections: &Connections) -> Result<(), DatabaseError> {
    let mut lease = connections.lease().await?;
    let transaction = lease.client()?.transaction().await.map_err(|error| failed(&error))?;
    let steps = async |transaction: &Transaction<'_>| {
        transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&MIGRATION_LOCK, Type::INT8)]).await?;
        let (mut common, tables) = deployment();
        for (table, definition) in tables {
            if !exists(transaction, &format!("public.{table}")).await? {
                transaction.batch_execute(std::mem::take(&mut common)).await?;
                transaction.batch_execute(definition).await?;
            }
        }
        let version = match exists(transaction, "workspaces.schema_version").await? {
            true => transaction
                .query_typed_one("SELECT version FROM workspaces.schema_version", &[])
                .await?
                .try_get::<_, i32>(0)?,
            false => 0,
        };
        for (step, number) in SCHEMA.iter().zip(1..).skip(usize::try_from(version).unwrap_or(usize::MAX)) {
            transaction.batch_execute(step).await?;
            transaction
                .query_typed("UPDATE workspaces.schema_version SET version = $1", &[(&number, Type::INT4)])
                .await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    steps(&transaction).await.map_err(|error| failed(&error))?;
    transaction.commit().await.map_err(|error| failed(&error))
}

/// Returns what the deployment's tables have in common, and the tables in the order in which they refer to each
/// other.
fn deployment() -> (&'static str, impl Iterator<Item = (&'static str, &'static str)>) {
    let mut parts = include_str!("schema/deployment.sql").split("-- table ");
    (parts.next().unwrap_or_default(), parts.filter_map(|part| part.split_once('\n')))
}

async fn exists(client: &Transaction<'_>, table: &str) -> Result<bool, tokio_postgres::Error> {
    let row = client.query_typed_one("SELECT to_regclass($1) IS NOT NULL", &[(&table, Type::TEXT)]).await?;
    row.try_get(0)
}

pub(super) async fn check(connections: &Connections, mut progress: Progress) -> Result<Check, DatabaseError> {
    let mut lease = connections.lease().await?;
    let transaction =
        lease.client()?.build_transaction().read_only(true).start().await.map_err(|error| failed(&error))?;
    let steps = ODDITIES.len() as u64;
    let checked = async {
        // These read whole tables, which the time-outs of requests are not for, and name no schema.
        transaction
            .batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL search_path = public, workspaces")
            .await?;
        let mut findings = Vec::new();
        let named = i64::try_from(NAMED).unwrap_or(i64::MAX);
        for (done, (severity, what, query)) in (0..).zip(ODDITIES) {
            progress(done, steps);
            let query = format!("WITH odd (id) AS ({query}) SELECT (SELECT count(*) FROM odd), id FROM odd LIMIT $1");
            let rows = transaction.query_typed(&query, &[(&named, Type::INT8)]).await?;
            let Some(first) = rows.first() else { continue };
            let what = format!("{} {what}", first.try_get::<_, i64>(0)?);
            let ids = rows.iter().map(|row| row.try_get::<_, Uuid>(1)).collect::<Result<_, _>>()?;
            findings.push(Finding { severity, what, ids });
        }
        progress(steps, steps);
        let row = transaction
            .query_typed_one(
                "SELECT (SELECT version FROM workspaces.schema_version), (SELECT count(*) FROM public.accounts),
                        (SELECT count(DISTINCT workspace_id) FROM public.account_workspace_ids)",
                &[],
            )
            .await?;
        let count = |value: i64| u64::try_from(value).ok();
        Ok(Check {
            schema: row.try_get(0)?,
            accounts: count(row.try_get(1)?),
            workspaces: count(row.try_get(2)?),
            findings,
        })
    };
    checked.await.map_err(|error: tokio_postgres::Error| failed(&error))
}

/// Converts the failure of a command's statement, which has rolled back.
pub(super) fn failed(error: &tokio_postgres::Error) -> DatabaseError {
    Failure::of(error).into()
}
