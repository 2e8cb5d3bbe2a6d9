//! The commands of the program, as a shell runs them.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::process::{Command, Stdio};
use std::{
    io::{BufRead as _, BufReader},
    thread,
};

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use serde_json::Value;
use workspaces_tests::Deployment;

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");
const UNKNOWN: &str = "123e4567-e89b-42d3-a456-426614174000";

/// Asserts that a command fails with this exit code and says so much on standard error.
fn assert_fails(deployment: &Deployment, arguments: &[&str], code: i32, part: &str) -> Result<()> {
    let output = deployment.output(arguments)?;
    let message = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(message.contains(part), "{arguments:?}: {message:?} does not say {part:?}");
    Ok(())
}

#[test]
fn the_demo_prints_a_curl_line_that_creates_a_workspace() -> Result<()> {
    let mut demo =
        Command::new(PROGRAM).args(["serve", "--demo", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn()?;
    let stdout = BufReader::new(demo.stdout.take().context("no standard output")?);
    // Kept to the end: the demo stops where nobody reads the empty line behind it.
    let mut lines = stdout.lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with("curl ")).context("no curl line")?;
    let answer = Command::new("sh").args(["-c", &line]).stderr(Stdio::null()).output();
    demo.kill()?;
    demo.wait()?;
    let answer = String::from_utf8(answer?.stdout)?;
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer:?} (this test needs curl)");
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    assert_eq!(serde_json::from_str::<Value>(body)?["workspace"]["name"], "My first workspace");
    Ok(())
}

#[test]
fn a_mistyped_address_is_not_repeated_with_its_password() -> Result<()> {
    let output = Command::new(PROGRAM).args(["serve", "--database", "postgre://ada:secret@localhost/x"]).output()?;
    let message = String::from_utf8(output.stderr)?;
    assert!(
        output.status.code() == Some(2) && message.contains("postgres://") && !message.contains("secret"),
        "{message}"
    );
    Ok(())
}

#[test]
fn wrong_usage_is_2_and_failure_is_1() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    deployment.run(&["database", "migrate"])?;
    for (arguments, code, part) in [
        (&[][..], 2, "Usage"),
        (&["fly"], 2, "unrecognized subcommand"),
        (&["serve", "--listen", "nowhere"], 2, "--listen"),
        (&["serve", "--database", "mysql:x"], 2, "sqlite:PATH"),
        (&["key", "list", "x"], 2, "ACCOUNT"),
        (&["key", "list", UNKNOWN], 1, "there is no account"),
        (&["key", "create", UNKNOWN], 1, "there is no account"),
        (&["key", "revoke", UNKNOWN], 1, "there is no key"),
        (&["organization", "add-member", UNKNOWN, UNKNOWN], 1, "there is no organization"),
        (&["serve", "--key-pepper", ""], 1, "openssl rand"),
        (&["serve", "--component", "missing.wasm"], 1, "missing.wasm"),
        (&["account", "create", "--database", "sqlite:no/such/folder.db"], 1, "no/such/folder.db"),
    ] {
        assert_fails(&deployment, arguments, code, part)?;
    }
    Ok(())
}

#[test]
fn an_address_in_use_is_said() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    assert_fails(&deployment, &["serve", "--listen", &address], 1, "choose another with --listen")
}

#[test]
fn help_teaches() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let help = deployment.run(&["--help"])?;
    for part in ["serve --demo", "WORKSPACES_KEY_PEPPER", "Exit codes"] {
        assert!(help.contains(part), "{help}");
    }
    for command in [&["serve"][..], &["account", "create"], &["key", "create"], &["workspace", "list"]] {
        let help = deployment.run(&[command, &["--help"]].concat())?;
        assert!(help.contains("--database") && !help.contains(workspaces_tests::PEPPER), "{help}");
    }
    Ok(())
}

#[test]
fn accounts_and_keys_are_printed_for_people_and_for_scripts() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let json = |arguments: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&deployment.run(arguments)?)?) };
    assert_eq!(deployment.run(&["account", "create", "--id", UNKNOWN])?, UNKNOWN);
    assert_fails(&deployment, &["account", "create", "--id", UNKNOWN], 1, "exists already")?;
    assert_eq!(json(&["organization", "create", "--name", "Label", "--json"])?["name"], "Label");

    let key = json(&["key", "create", UNKNOWN, "--name", "laptop", "--expires-in", "30d", "--json"])?;
    let secret = key["key"].as_str().context("no key")?;
    assert!(secret.starts_with("recoup_sk_") && secret.len() == 53, "{secret}");
    let lifetime = key["expires_at"].as_i64().zip(key["created_at"].as_i64()).map(|(end, start)| end - start);
    assert!(lifetime.is_some_and(|lifetime| (lifetime - 30 * 86_400_000).abs() < 60_000), "{key}");
    let list = deployment.run(&["key", "list", UNKNOWN])?;
    assert!(list.contains("laptop") && !list.contains(secret), "{list}");
    assert_eq!(json(&["key", "list", UNKNOWN, "--json"])?[0]["id"], key["id"]);

    let connection = Connection::open(deployment.database())?;
    let stored: String = connection.query_row("SELECT key_hash FROM account_api_keys", [], |row| row.get(0))?;
    assert!(stored.len() == 64 && stored.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{stored}");
    Ok(())
}

#[test]
fn a_database_of_a_newer_version_or_of_none_is_refused_and_left_alone() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    deployment.run(&["account", "create"])?;
    Connection::open(deployment.database())?.pragma_update(None, "user_version", 99)?;
    assert_fails(&deployment, &["serve"], 1, "has schema 99")?;

    std::fs::write(deployment.database(), "this is a text")?;
    assert_fails(&deployment, &["serve"], 1, "can't be used as a database")?;
    assert_eq!(std::fs::read(deployment.database())?, b"this is a text");
    Ok(())
}

#[test]
fn the_database_is_written_ahead_and_commands_work_beside_a_server() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let server = deployment.serve(&[])?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let mode: String =
        Connection::open(deployment.database())?.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    assert_eq!(mode, "wal");
    let statuses: Vec<_> = thread::scope(|scope| {
        let creates: Vec<_> =
            (0..8).map(|_| scope.spawn(|| server.create(&key, "{}").map(|answer| answer.status))).collect();
        let commands: Vec<_> = (0..4).map(|_| scope.spawn(|| deployment.run(&["account", "create"]))).collect();
        assert!(commands.into_iter().all(|command| matches!(command.join(), Ok(Ok(_)))));
        creates.into_iter().filter_map(|create| create.join().ok()?.ok()).collect()
    });
    assert_eq!(statuses, [201; 8]);
    Ok(())
}
