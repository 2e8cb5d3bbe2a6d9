//! Logins from files: passwords, client certificates and services, as libpq reads them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

use anyhow::{Context as _, Result};
use workspaces_host::storage::postgres::{Postgres, PostgresOptions};
use workspaces_tests::{Deployment, postgres as server};

use super::PROGRAM;

/// Text of a password file's last field, and the password that it stands for.
const PASSWORD: (&str, &str) = (r"p\:s\\w", r"p:s\w");

fn write(file: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(file, text)?;
    Ok(fs::set_permissions(file, Permissions::from_mode(mode))?)
}

/// Asserts that a connection is refused with these words.
async fn refused(address: &str, words: &[&str]) -> Result<()> {
    let outcome = Postgres::connect(address, &PostgresOptions::default()).await;
    let message = outcome.err().with_context(|| format!("{address}: it connects"))?.to_string();
    for word in words {
        assert!(message.contains(word), "{address}: {message}, without {word}");
    }
    assert!(!message.contains(PASSWORD.1) && !message.contains(PASSWORD.0), "{message}");
    Ok(())
}

async fn connects(address: &str) -> Result<()> {
    Postgres::connect(address, &PostgresOptions::default()).await.map(drop).with_context(|| address.to_owned())
}

/// Starts a server where `ada` needs the password, with all tables, and a folder for files.
async fn with_password() -> Result<(server::Postgres, tempfile::TempDir)> {
    let server = server::Postgres::with_logins(
        "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\nlocal all all scram-sha-256\n",
    )?;
    server.psql(&format!("CREATE ROLE ada SUPERUSER LOGIN PASSWORD '{}'", PASSWORD.1))?;
    Postgres::migrate(&server.url()).await?;
    Ok((server, tempfile::TempDir::new()?))
}

#[tokio::test]
async fn a_password_comes_from_the_password_file() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let (server, folder) = with_password().await?;
    let (port, file) = (server.port(), folder.path().join("pass file"));
    let address = |rest: &str| format!("postgres://ada@127.0.0.1:{port}/postgres?{rest}");
    let named = address(&format!("passfile={}", file.display().to_string().replace(' ', "%20")));
    let right = format!("127.0.0.1:{port}:postgres:ada:{}\n", PASSWORD.0);
    let path = file.display().to_string();
    let place = format!("127.0.0.1:{port}");

    write(&file, &format!("# the first line that fits\nother:*:*:*:wrong\n{right}*:*:*:*:wrong\n"), 0o600)?;
    connects(&named).await?;
    let socket = server.socket_url(&format!("passfile={}", path.replace(' ', "%20"))).replace("//service@", "//ada@");
    write(&file, &format!("{}:*:*:*:{}\n", server.socket_folder().display(), PASSWORD.0), 0o600)?;
    connects(&socket).await?;
    write(&file, &format!("*:*:*:bob:{}\n", PASSWORD.0), 0o600)?;
    refused(&named, &[&place, &path, "has no line for", "postgres:ada"]).await?;
    write(&file, "*:*:*:*:wrong\n", 0o600)?;
    refused(&named, &[&place, &path, "password authentication failed"]).await?;
    for mode in [0o640, 0o604, 0o666] {
        write(&file, &right, mode)?;
        refused(&named, &[&path, "chmod 0600"]).await?;
    }
    fs::remove_file(&file)?;
    refused(&named, &[&path]).await?;
    fs::create_dir(&file)?;
    refused(&named, &[&path, "a folder"]).await?;

    // The files that the environment names, of the program.
    let home = folder.path().join("home");
    fs::create_dir(&home)?;
    let deployment = Deployment::new(PROGRAM)?;
    let run = |variable: &str, value: &Path| -> Result<(bool, String)> {
        let mut command = deployment.command(&["account", "list"]);
        command.env("WORKSPACES_DATABASE", address("")).env_remove("PGPASSFILE").env("HOME", folder.path());
        let output = command.env(variable, value).output()?;
        Ok((output.status.success(), String::from_utf8(output.stderr)?))
    };
    let (own, other) = (home.join(".pgpass"), folder.path().join("other"));
    let (succeeded, message) = run("HOME", &home)?;
    assert!(!succeeded && message.contains("there is no ~/.pgpass"), "{message}");
    for (variable, value, file) in [("HOME", &home, &own), ("PGPASSFILE", &other, &other)] {
        write(file, &right, 0o600)?;
        let (succeeded, message) = run(variable, value)?;
        assert!(succeeded, "{variable}: {message}");
        write(file, &right, 0o644)?;
        let (succeeded, message) = run(variable, value)?;
        assert!(!succeeded && message.contains(&file.display().to_string()), "{variable}: {message}");
        assert!(message.contains("chmod 0600"), "{variable}: {message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_service_has_what_the_address_does_not_say() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let (server, folder) = with_password().await?;
    let (port, file) = (server.port(), folder.path().join("pg_service.conf"));
    let path = file.display().to_string();
    let section = |rest: &str| {
        format!(
            "# services\n[other]\nhost=nowhere.invalid\n\n[w]\nhost=127.0.0.1\nport={port}\nuser=ada\ndbname=postgres\n{rest}\n"
        )
    };
    let named = |rest: &str| format!("postgres://{rest}servicefile={path}&service=w");

    write(&file, &section(&format!("password={}", PASSWORD.1)), 0o644)?;
    connects(&named("?")).await?;
    connects(&named("/?")).await?;
    connects(&named("ada@/postgres?")).await?;
    // What the address says wins, and its other values are the service's.
    refused(&named("127.0.0.1:1/?"), &["127.0.0.1:1"]).await?;
    refused(&named("bob:wrong@/?"), &[&format!("127.0.0.1:{port}"), "bob"]).await?;
    refused(&named("/none?"), &["none"]).await?;
    refused(&named("?sslcert=/nowhere/c&sslkey=/nowhere/k&"), &["sslkey /nowhere/k"]).await?;
    write(&file, &section("passfile=/nowhere"), 0o644)?;
    refused(&named("?"), &["the password file /nowhere"]).await?;
    for (line, words) in [
        ("pasword=x", &["pasword", "no parameter"][..]),
        ("nothing", &["line 10", "NAME=VALUE"]),
        ("service=other", &["line 10", "another"]),
    ] {
        write(&file, &section(line), 0o644)?;
        refused(&named("?"), words).await?;
    }
    refused(&format!("postgres://?servicefile={path}&service=none"), &["none", &path, "[none]"]).await?;
    refused("postgres://?servicefile=/nowhere&service=w", &["/nowhere", "No such file"]).await?;

    let deployment = Deployment::new(PROGRAM)?;
    let run = |variable: &str, value: &Path| -> Result<(bool, String)> {
        let mut command = deployment.command(&["account", "list"]);
        for variable in ["PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE"] {
            command.env_remove(variable);
        }
        command.env("WORKSPACES_DATABASE", "postgres:///?service=w").env("HOME", folder.path().join("none"));
        let output = command.env(variable, value).output()?;
        Ok((output.status.success(), String::from_utf8(output.stderr)?))
    };
    let (succeeded, message) = run("LC_ALL", Path::new("C"))?;
    assert!(!succeeded && message.contains(".pg_service.conf"), "{message}");
    write(&file, &section(&format!("password={}", PASSWORD.1)), 0o600)?;
    fs::copy(&file, folder.path().join(".pg_service.conf"))?;
    for (variable, value) in
        [("PGSERVICEFILE", file.as_path()), ("PGSYSCONFDIR", folder.path()), ("HOME", folder.path())]
    {
        let (succeeded, message) = run(variable, value)?;
        assert!(succeeded, "{variable}: {message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_logs_in() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let (server, authorities) = server::Postgres::tls_with_logins(
        "hostssl all postgres 127.0.0.1/32 trust\nhostssl all ada 127.0.0.1/32 cert\n\
         hostssl all bob 127.0.0.1/32 trust clientcert=verify-full\n",
    )?;
    server.psql("CREATE ROLE ada SUPERUSER LOGIN; CREATE ROLE bob SUPERUSER LOGIN")?;
    let (port, authorities) = (server.port(), authorities.display().to_string());
    let address = |user: &str, rest: &str| {
        format!("postgres://{user}@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={authorities}{rest}")
    };
    Postgres::migrate(&address("postgres", "")).await?;
    let place = format!("127.0.0.1:{port}");
    let (ada, bob) = (server.client_certificate("ada")?, server.client_certificate("bob")?);
    let shown =
        |(certificate, key): (&Path, &Path)| format!("&sslcert={}&sslkey={}", certificate.display(), key.display());
    let (by_ada, by_bob) = (shown((&ada.0, &ada.1)), shown((&bob.0, &bob.1)));
    for (user, own, other) in [("ada", &by_ada, &by_bob), ("bob", &by_bob, &by_ada)] {
        connects(&address(user, own)).await?;
        for versions in ["&ssl_min_protocol_version=TLSv1.3", "&ssl_max_protocol_version=TLSv1.2", "&sslsni=0"] {
            connects(&address(user, &format!("{own}{versions}"))).await?;
        }
        // TLS 1.3 refuses after the handshake: with the server's words or with a lost connection.
        refused(&address(user, ""), &[&place]).await?;
        refused(&address(user, &format!("{own}&sslcertmode=disable")), &[&place]).await?;
        refused(&address(user, other), &[&place, "authentication failed for user"]).await?;
    }

    let copy = ada.1.with_file_name("copy.key");
    let (copied, path) = (shown((&ada.0, &copy)), copy.display().to_string());
    for mode in [0o640, 0o604] {
        write(&copy, &fs::read_to_string(&ada.1)?, mode)?;
        // Root's own key may be read by its group.
        chown(&copy, Some(fs::metadata(&ada.1)?.uid()), None)?;
        refused(&address("ada", &copied), &[&path, "chmod 0600"]).await?;
    }
    fs::remove_file(&copy)?;
    refused(&address("ada", &copied), &[&path, "No such file"]).await?;
    for arguments in ["pkcs8 -topk8 -v2 aes256", "ec -aes256"] {
        server.openssl(&format!("{arguments} -in ada.key -out copy.key -passout pass:hidden"))?;
        fs::set_permissions(&copy, Permissions::from_mode(0o600))?;
        refused(&address("ada", &copied), &[&path, "is encrypted", "openssl pkey"]).await?;
        fs::remove_file(&copy)?;
    }
    refused(&address("ada", &shown((&ada.0, &bob.1))), &["is not that of the certificate"]).await?;
    refused(&address("ada", &shown((&ada.1, &ada.1))), &["there is no certificate in"]).await?;
    Ok(())
}
