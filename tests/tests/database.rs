//! The operators' commands for the database.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{os::unix::fs::FileExt as _, process::Command, thread};

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
    assert_eq!(deployment.run(&["database", "check"])?, "schema 4, 2 accounts, 1 workspaces");

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

const ANOTHER: &str = "another pepper of tests";

#[test]
fn a_lost_pepper_is_noticed_by_each_command_that_needs_it() -> Result<()> {
    let (deployment, _) = sqlite()?;
    let account = deployment.run(&["account", "create"])?;
    let connection = Connection::open(deployment.database())?;
    let id: Uuid = connection.query_row("SELECT id FROM account_api_keys", [], |row| row.get(0))?;
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["key", "create", &account]] {
        let output = deployment.output(&[arguments, &["--key-pepper", ANOTHER]].concat())?;
        let message = String::from_utf8(output.stderr)?;
        assert!(
            output.status.code() == Some(1)
                && message.contains("another pepper")
                && message.contains(&id.to_string())
                && message.contains("workspaces key create"),
            "{message}"
        );
    }
    let count =
        |connection: &Connection| connection.query_row("SELECT count(*) FROM account_api_keys", [], |row| row.get(0));
    assert_eq!(count(&connection), Ok(1), "a key that would not work was made");
    let check = deployment.output(&["database", "check", "--key-pepper", ANOTHER])?;
    let report = String::from_utf8(check.stdout)?;
    assert!(check.status.code() == Some(1) && report.contains("1 API keys of another pepper"), "{report}");
    assert!(report.contains(&id.to_string()), "{report}");

    // Without keys of the old one there is nothing to lose.
    deployment.run(&["key", "revoke", &id.to_string()])?;
    let key = deployment.run(&["key", "create", &account, "--key-pepper", ANOTHER])?;
    let server = deployment.serve(&["--key-pepper", ANOTHER])?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn a_check_finds_keys_of_several_peppers_without_knowing_any() -> Result<()> {
    let (deployment, _) = sqlite()?;
    let account = deployment.run(&["account", "create"])?;
    deployment.run(&["key", "create", &account])?;
    let connection = Connection::open(deployment.database())?;
    assert_eq!(
        connection
            .execute("UPDATE key_peppers SET pepper = 'x' WHERE key_id = (SELECT max(key_id) FROM key_peppers)", [])?,
        1
    );
    let id: Uuid = connection.query_row("SELECT key_id FROM key_peppers WHERE pepper = 'x'", [], |row| row.get(0))?;
    connection.execute(
        "INSERT INTO account_api_keys (id, name, account, key_hash, created_at)
         SELECT zeroblob(16), name, account, 'h', created_at FROM account_api_keys LIMIT 1",
        [],
    )?;
    connection
        .execute("INSERT INTO key_peppers SELECT zeroblob(16), pepper FROM key_peppers WHERE pepper <> 'x'", [])?;
    let output = Command::new(PROGRAM)
        .args(["database", "check", "--json", "--database", &format!("sqlite:{}", deployment.database().display())])
        .output()?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let check: Value = serde_json::from_slice(&output.stdout)?;
    let finding = &check["findings"][0];
    assert!(finding["what"].as_str().is_some_and(|what| what.starts_with("1 API keys of another pepper")), "{check}");
    assert_eq!(finding["ids"], serde_json::json!([id]));
    Ok(())
}
