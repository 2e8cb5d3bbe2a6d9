//! The operators' commands: lists, memberships, tenants of a file, and options that contradict each other.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_tests::{Deployment, PEPPER, Server, Tenants, postgres};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Asserts that a command fails with this exit code and says so much on standard error.
fn assert_fails(deployment: &Deployment, arguments: &[&str], code: i32, part: &str) -> Result<()> {
    let output = deployment.output(arguments)?;
    let message = String::from_utf8(output.stderr)?;
    assert!(output.status.code() == Some(code) && message.contains(part), "{arguments:?}: {message:?}");
    Ok(())
}

/// Returns the values of a field in a list that a command prints.
fn listed(deployment: &Deployment, arguments: &[&str], field: &str) -> Result<Vec<String>> {
    let list: Vec<Value> = serde_json::from_str(&deployment.run(&[arguments, &["--json"]].concat())?)?;
    let values: Vec<_> = list.iter().filter_map(|row| row[field].as_str().map(str::to_owned)).collect();
    let lines = deployment.run(arguments)?;
    ensure!(lines.lines().count() == values.len(), "{arguments:?}: {lines}");
    ensure!(values.iter().all(|value| lines.contains(value)), "{arguments:?}: {lines}");
    Ok(values)
}

fn assert_lists(deployment: &Deployment) -> Result<()> {
    let run = |arguments: &[&str]| deployment.run(arguments);
    let [label, studio] = ["Label", "Studio"].map(|name| run(&["organization", "create", "--name", name]));
    let [ada, grace] = ["Ada", "Grace"].map(|name| run(&["account", "create", "--name", name]));
    let (label, studio, ada, grace) = (label?, studio?, ada?, grace?);
    for (organization, account) in [(&label, &ada), (&label, &ada), (&label, &grace), (&studio, &grace)] {
        run(&["organization", "add-member", organization, account])?;
    }
    run(&["key", "create", &ada, "--name", "first"])?;
    let key = run(&["key", "create", &grace, "--name", "second"])?;
    let server = deployment.serve(&[])?;
    assert_eq!(server.create(&key, "{}")?.status, 201);

    let names = listed(deployment, &["account", "list"], "name")?;
    assert_eq!(names.len(), 4, "workspaces are no accounts of people: {names:?}");
    assert!(["Label", "Studio", "Ada", "Grace"].iter().all(|name| names.iter().any(|known| known == name)));
    let mut members = listed(deployment, &["organization", "list"], "account_name")?;
    members.sort();
    assert_eq!(members, ["Ada", "Grace", "Grace"]);
    assert_eq!(listed(deployment, &["organization", "list", &studio], "account_id")?, [grace.as_str()]);
    let mut keys = listed(deployment, &["key", "list"], "name")?;
    keys.sort();
    assert_eq!(keys, ["first", "second"]);
    assert_eq!(listed(deployment, &["key", "list", &ada], "name")?, ["first"]);

    run(&["organization", "remove-member", &label, &grace])?;
    assert_fails(deployment, &["organization", "remove-member", &label, &grace], 1, "there is no member")?;
    assert_eq!(listed(deployment, &["organization", "list", &label], "account_id")?, [ada.as_str()]);
    let body = format!("{{\"organization_id\":\"{label}\"}}");
    assert_eq!(server.create(&key, body)?.status, 403);

    let first = &listed(deployment, &["key", "list", &ada], "id")?[0];
    let before = listed(deployment, &["organization", "list"], "account_name")?;
    for (swapped, part) in [
        (&["organization", "add-member", &grace, &label][..], "give the organization first, then the account"),
        (&["organization", "remove-member", &ada, &label], "give the organization first, then the account"),
        (&["key", "create", first], "it is the id of an API key"),
        (&["key", "list", first], "it is the id of an API key"),
        (&["organization", "list", first], "it is the id of an API key"),
        (&["workspace", "list", "--account", first], "it is the id of an API key"),
        (&["key", "revoke", &ada], "it is the id of an account"),
        (&["account", "link", first, "--issuer", "https://i", "--subject", "s"], "it is the id of an API key"),
        (&["account", "link", &ada, "--issuer", "auth0|1", "--subject", "https://i"], "the subject is a URL"),
        (&["account", "unlink", "--issuer", "auth0|1", "--subject", "https://i"], "the subject is a URL"),
    ] {
        assert_fails(deployment, swapped, 1, part)?;
    }
    assert_eq!(listed(deployment, &["organization", "list"], "account_name")?, before);
    assert_eq!(listed(deployment, &["key", "list"], "name")?.len(), 2);
    Ok(())
}

#[test]
fn what_there_is_is_listed_and_memberships_end_on_sqlite() -> Result<()> {
    assert_lists(&Deployment::new(PROGRAM)?)
}

#[test]
fn what_there_is_is_listed_and_memberships_end_on_postgresql() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let server = postgres::Postgres::start()?;
    assert_lists(&Deployment::on_postgres(PROGRAM, &server.url())?)
}

#[test]
fn every_command_finds_the_database_and_the_pepper_of_a_tenant() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    fs::create_dir(tenants.deployment().folder().join("data"))?;
    tenants.configure("[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:data/acme.db\"")?;
    let of = ["--config", "gateway.toml", "--tenant", "acme"];
    let folder = tenants.deployment().folder();
    let run = |arguments: &[&str]| -> Result<String> {
        // Without the variables that would name another database and the same pepper.
        let output = Command::new(PROGRAM).args(arguments).args(of).current_dir(folder).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    run(&["database", "migrate"])?;
    let account = run(&["account", "create", "--name", "Ada"])?;
    let organization = run(&["organization", "create"])?;
    run(&["organization", "add-member", &organization, &account])?;
    let key = run(&["key", "create", &account])?;
    let server = tenants.serve()?;
    assert_eq!(server.create_at("/acme", &key, "{}")?.status, 201);
    assert_eq!(run(&["workspace", "list"])?.lines().count(), 1);
    assert_eq!(run(&["key", "list"])?.lines().count(), 1);
    assert!(run(&["database", "check"])?.contains("1 workspaces"));
    run(&["database", "backup", "copy.db"])?;
    assert!(folder.join("data/acme.db").exists() && !folder.join("workspaces.db").exists());

    let deployment = tenants.deployment();
    let other = ["key", "list", "--config", "gateway.toml", "--tenant", "other"];
    assert_fails(deployment, &other, 1, "has no tenant other: it has acme")?;
    assert_fails(deployment, &["key", "list", "--config", "gateway.toml"], 2, "--tenant")?;
    assert_fails(deployment, &[&["key", "list", "--database", "sqlite:x.db"][..], &of].concat(), 2, "has no effect")
}

#[test]
fn options_that_would_be_ignored_are_refused_and_variables_are_not() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.configure("[tenants.acme]\ndatabase = \"sqlite:acme.db\"")?;
    let deployment = tenants.deployment();
    let id = "123e4567-e89b-42d3-a456-426614174000";
    for (arguments, part) in [
        (&["--demo", "--database", "sqlite:x.db"][..], "--database has no effect with --demo"),
        (&["--demo", "--key-pepper", PEPPER], "--key-pepper has no effect with --demo"),
        (&["--demo", "--key-pepper-file", "pepper"], "--key-pepper-file has no effect with --demo"),
        (&["--config", "gateway.toml", "--database", "sqlite:x.db"], "--database has no effect with --config"),
        (&["--config", "gateway.toml", "--key-pepper", PEPPER], "--key-pepper has no effect with --config"),
        (&["--config", "gateway.toml", "--admin-organization", id], "--admin-organization has no effect"),
        (&["--config", "gateway.toml", "--group-commit", "1"], "--group-commit has no effect with --config"),
        (
            &["--config", "gateway.toml", "--jwt-keys", "k", "--jwt-issuer", "i", "--jwt-audience", "a"],
            "--jwt-keys has no effect with --config",
        ),
        (&["--database", "sqlite:x.db", "--connections", "3"], "--connections has no effect with an SQLite database"),
        (&["--database", "postgres://x/y", "--group-commit", "3"], "--group-commit has no effect with a PostgreSQL"),
    ] {
        assert_fails(deployment, &[&["serve"], arguments].concat(), 2, part)?;
    }
    // The deployment's variables name a database and a pepper.
    for arguments in [&["--demo"][..], &["--config", "gateway.toml"]] {
        deployment.serve(arguments)?;
    }
    Ok(())
}

#[test]
fn addresses_without_a_host_or_with_its_name_are_local() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    for (listen, admin) in [("localhost:0", ":0"), (":0", "localhost:0"), ("[::1]:0", "127.0.0.1:0")] {
        let mut command = deployment.command(&["serve", "--listen", listen, "--admin", admin]);
        let server = Server::start(command.env("WORKSPACES_LOG", "warn"))?;
        assert!(server.address().ip().is_loopback() && server.admin()?.ip().is_loopback(), "{listen} {admin}");
        let admin = format!("localhost:{}", server.admin()?.port());
        let reloaded = deployment.run(&["reload", "--admin", &admin])?;
        assert_eq!(reloaded, "unchanged default");
    }
    for address in ["localhost", "8080", "example.com:80", "127.0.0.1:http", ":99999"] {
        assert_fails(&deployment, &["serve", "--listen", address], 2, "an address is HOST:PORT")?;
    }
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write("gateway.toml", "listen = \"localhost:0\"\nadmin = \":0\"\ndefaults.key-pepper-file = \"pepper\"\n[tenants.acme]\ndatabase = \"sqlite:acme.db\"")?;
    tenants.deployment().run(&["config", "check", "gateway.toml"]).context("addresses in a file")?;
    Ok(())
}
