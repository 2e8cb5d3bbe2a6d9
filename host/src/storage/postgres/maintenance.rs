//! The tables: making them, asking for them, and looking for what is wrong in them.

use tokio_postgres::{Transaction, error::SqlState, types::Type};
use uuid::Uuid;

use super::{connect::Connections, failure::Failure};
use crate::storage::{
    Check, DatabaseError, Error, Finding, Progress,
    database::{NAMED, ODDITIES},
};

/// The host's own tables, a step a version.
const SCHEMA: [&str; 1] = [include_str!("schema/1.sql")];

/// Any number, as long as it is the same in every process that makes tables.
const MIGRATION_LOCK: i64 = 0x776f_726b_7370;

const MAKE_THEM: &str = "`workspaces database migrate` makes what is missing";

/// Asserts that the host's tables are there, and of this version.
pub(super) async fn require_schema(connections: &Connections) -> Result<(), DatabaseError> {
    let version = match connections.query("SELECT version FROM workspaces.schema_version", &[]).await {
        Ok(rows) => rows.first().map_or(Ok(0), |row| row.try_get::<_, i32>(0)).map_err(|error| failed(&error))?,
        Err(Failure::Refused(Some(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME), _)) => 0,
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

/// Asserts that a commit is on the disk, or on the standby's, before it is answered; what the server
/// does for all of its databases is only remarked on.
pub(super) async fn require_durability(connections: &Connections) -> Result<(), DatabaseError> {
    let rows = connections.query("SELECT current_setting('synchronous_commit'), current_setting('fsync')", &[]).await?;
    let setting = |column| rows.first().map_or(Ok(""), |row| row.try_get(column)).map_err(|error| failed(&error));
    match setting(0)? {
        "off" => {
            return Err(DatabaseError::Unusable(
                "the database answers before a commit is on its disk: ALTER ROLE … SET synchronous_commit = on".into(),
            ));
        }
        "local" => tracing::warn!("synchronous_commit is local: a standby that takes over may lack what was answered"),
        _ => {}
    }
    if setting(1)? == "off" {
        tracing::warn!("fsync is off at the database server: a power cut loses what was answered");
    }
    Ok(())
}

/// Makes the deployment's tables that are not there, and takes the steps of the host's own.
pub(super) async fn migrate(connections: &Connections) -> Result<(), DatabaseError> {
    let mut client = connections.client().await?;
    let transaction = client.transaction().await.map_err(|error| failed(&error))?;
    let steps = async |transaction: &Transaction<'_>| {
        transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&MIGRATION_LOCK, Type::INT8)]).await?;
        for (table, definition) in deployment() {
            if !exists(transaction, &format!("public.{table}")).await? {
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
    transaction.commit().await.map_err(|error| failed(&error))?;
    drop(client);
    require_schema(connections).await
}

/// The deployment's tables, in the order in which they refer to each other.
fn deployment() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("schema/deployment.sql").split("-- table ").skip(1).filter_map(|part| part.split_once('\n'))
}

async fn exists(client: &Transaction<'_>, table: &str) -> Result<bool, tokio_postgres::Error> {
    let row = client.query_typed_one("SELECT to_regclass($1) IS NOT NULL", &[(&table, Type::TEXT)]).await?;
    row.try_get(0)
}

pub(super) async fn check(connections: &Connections, mut progress: Progress) -> Result<Check, DatabaseError> {
    let mut client = connections.client().await?;
    let transaction = client.build_transaction().read_only(true).start().await.map_err(|error| failed(&error))?;
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

/// Of a command's statement, which has rolled back.
pub(super) fn failed(error: &tokio_postgres::Error) -> DatabaseError {
    Failure::of(error).into()
}

impl From<Failure> for DatabaseError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(Some(SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN), text) => {
                Self::Unusable(format!("the database lacks a table or a column: {text}: {MAKE_THEM}"))
            }
            Failure::Lost(text) => Error::Unknown(text).into(),
            failure => Error::Unavailable(failure.to_string()).into(),
        }
    }
}
