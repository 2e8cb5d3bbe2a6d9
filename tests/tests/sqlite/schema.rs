//! Versions of the schema.

use std::path::Path;

use anyhow::Result;
use uuid::Uuid;
use workspaces_tests::Deployment;

use super::{PROGRAM, connect, count, mode};

/// Makes a database as an earlier version made it.
fn old_schema(path: &Path, version: usize) -> Result<Uuid> {
    let account = Uuid::new_v4();
    let old = connect(path)?;
    let steps = [
        include_str!("../../../host/src/storage/sqlite/schema/1.sql"),
        include_str!("../../../host/src/storage/sqlite/schema/2.sql"),
    ];
    for step in &steps[..version] {
        old.execute_batch(step)?;
    }
    old.execute("INSERT INTO accounts VALUES (?1, 'Ada', 1)", [account])?;
    old.execute("INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?1, ?1, 1, 1)", [account])?;
    old.pragma_update(None, "user_version", version)?;
    Ok(account)
}

fn schema(path: &Path) -> Result<i64> {
    Ok(connect(path)?.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

#[test]
fn only_serve_and_migrate_change_the_schema_and_after_a_copy() -> Result<()> {
    for version in [1, 2] {
        for migrates in [&["database", "migrate"][..], &["serve"]] {
            let deployment = Deployment::new(PROGRAM)?;
            let path = deployment.database();
            let account = old_schema(&path, version)?.to_string();
            for reads in [
                &["workspace", "list"][..],
                &["database", "check"],
                &["key", "list", &account],
                &["database", "backup", "copy.db"],
            ] {
                deployment.run(reads)?;
            }
            for writes in [&["account", "create"][..], &["key", "create", &account], &["key", "revoke", &account]] {
                let refused = deployment.output(writes)?;
                let message = String::from_utf8(refused.stderr)?;
                assert!(
                    refused.status.code() == Some(1) && message.contains("workspaces database migrate"),
                    "{message}"
                );
            }
            assert_eq!(schema(&path)?, i64::try_from(version)?, "as it was");
            match migrates {
                ["serve"] => drop(deployment.serve(&[])?),
                command => drop(deployment.run(command)?),
            }
            assert_eq!(schema(&path)?, 4);
            let copy = deployment.folder().join(format!("workspaces.db.schema-{version}"));
            assert_eq!((schema(&copy)?, mode(&copy)?), (i64::try_from(version)?, 0o600));
            assert_eq!(count(&connect(&copy)?, "accounts")?, 1);
            deployment.run(&["account", "create"])?;
        }
    }
    Ok(())
}
