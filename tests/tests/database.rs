//! The operators' commands for the database.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{os::unix::fs::FileExt as _, thread};

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use serde_json::Value;
use uuid::Uuid;
use workspaces_tests::{Client, Deployment};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

fn sqlite() -> Result<(Deployment, String)> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    Ok((deployment, key))
}

#[test]
fn a_check_finds_what_a_create_that_stopped_half_way_leaves() -> Result<()> {
    let (deployment, key) = sqlite()?;
    let server = deployment.serve(&[])?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    assert_eq!(deployment.run(&["database", "check"])?, "schema 2, 2 accounts, 1 workspaces");

    let connection = Connection::open(deployment.database())?;
    let (bare, lone) = (Uuid::new_v4(), Uuid::new_v4());
    for id in [bare, lone] {
        connection.execute("INSERT INTO accounts (id, name) VALUES (?1, 'Half')", [id])?;
    }
    connection
        .execute("INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?1, ?1, 1, 1)", [lone])?;
    let output = deployment.output(&["database", "check", "--json"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let check: Value = serde_json::from_slice(&output.stdout)?;
    let finding = |severity: &str| -> Result<Vec<String>> {
        let findings = check["findings"].as_array().context("no findings")?;
        let finding = findings.iter().find(|finding| finding["severity"] == severity).context("no such finding")?;
        Ok(serde_json::from_value(finding["ids"].clone())?)
    };
    assert_eq!(finding("error")?, [bare.to_string()]);
    assert!(finding("note")?.contains(&lone.to_string()));
    Ok(())
}

#[test]
fn a_check_finds_damage() -> Result<()> {
    let (deployment, key) = sqlite()?;
    let server = deployment.serve(&[])?;
    for _ in 0..200 {
        assert_eq!(server.create(&key, "{}")?.status, 201);
    }
    server.signal("TERM")?;
    server.wait()?;
    let connection = Connection::open(deployment.database())?;
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'account_info'";
    let page: u64 = connection.query_row(root, [], |row| row.get(0))?;
    let page_size: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    drop(connection);
    // Over the places of the page's cells, which follow its header.
    let file = std::fs::File::options().write(true).open(deployment.database())?;
    file.write_all_at(&[0xa5; 64], (page - 1) * page_size + 12)?;
    let output = deployment.output(&["database", "check"])?;
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && report.contains("error: "), "{output:?}");
    Ok(())
}

#[test]
fn a_backup_taken_under_load_is_whole() -> Result<()> {
    let (deployment, key) = sqlite()?;
    let server = deployment.serve(&["--log", "off"])?;
    let address = server.address();
    let mut before = Vec::new();
    let mut client = Client::new(address, &key);
    for _ in 0..100 {
        let answer = client.create("{}", None)?;
        before.push(answer.json()?["workspace"]["id"].as_str().context("no id")?.parse::<Uuid>()?);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let copied = thread::scope(|scope| {
        for _ in 0..8 {
            let (mut client, stop) = (Client::new(address, &key), &stop);
            scope.spawn(
                move || while !stop.load(std::sync::atomic::Ordering::Relaxed) && client.create("{}", None).is_ok() {},
            );
        }
        let copied = deployment.run(&["database", "backup", "copy.db"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        copied
    });
    copied?;
    let copy = deployment.folder().join("copy.db");
    let connection = Connection::open(&copy)?;
    for id in before {
        let known = "SELECT EXISTS (SELECT 1 FROM account_workspace_ids WHERE workspace_id = ?1)";
        assert!(connection.query_row(known, [id], |row| row.get::<_, bool>(0))?, "{id} is not in the copy");
    }
    drop(connection);
    deployment.run(&["database", "check", "--database", &format!("sqlite:{}", copy.display())])?;
    assert!(!deployment.folder().join("copy.db.partial").exists());

    let again = deployment.output(&["database", "backup", "copy.db"])?;
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr)?.contains("copy.db exists already"));
    Ok(())
}

#[test]
fn commands_that_only_look_make_no_database() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    for arguments in [&["workspace", "list"][..], &["database", "check"], &["database", "backup", "copy.db"]] {
        let output = deployment.output(arguments)?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && message.contains("there is no database"), "{message}");
    }
    assert!(!deployment.database().exists());
    deployment.run(&["database", "migrate"])?;
    assert_eq!(deployment.run(&["workspace", "list"])?, "");
    Ok(())
}

#[test]
fn a_lost_pepper_is_noticed_at_the_start() -> Result<()> {
    let (deployment, _) = sqlite()?;
    let account = deployment.run(&["account", "create"])?;
    let other = deployment.output(&["serve", "--listen", "127.0.0.1:0", "--key-pepper", "another"])?;
    let message = String::from_utf8(other.stderr)?;
    assert!(other.status.code() == Some(1) && message.contains("another pepper"), "{message}");

    // Without keys of the old one there is nothing to lose.
    let connection = Connection::open(deployment.database())?;
    connection.pragma_update(None, "foreign_keys", true)?;
    assert_eq!(connection.execute("DELETE FROM account_api_keys", [])?, 1);
    let key = deployment.run(&["key", "create", &account, "--key-pepper", "another"])?;
    let server = deployment.serve(&["--key-pepper", "another"])?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    Ok(())
}
