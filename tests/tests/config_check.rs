//! `config check`: what it finds in a configuration and in what it names, and that it changes nothing.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use serde_json::Value;
use workspaces_host::COMPONENT;
use workspaces_tests::{
    Tenants,
    certificate::{EC, certificate, certificate_at},
    clock, hostile_components,
    postgres::{self, Postgres},
    variant,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Finding as the test compares it: severity, line, key, and a part of the message.
type Expected<'a> = (&'a str, u64, &'a str, &'a str);

/// Runs `config check --json` and returns its exit code and its report.
fn check(tenants: &Tenants, options: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = tenants.deployment().output(&[&["config", "check", "gateway.toml", "--json"], options].concat())?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.code(), report))
}

/// Asserts that a configuration has these findings and no others, in both forms of output.
fn require(tenants: &Tenants, text: &str, options: &[&str], expected: &[Expected<'_>]) -> Result<()> {
    tenants.write("gateway.toml", text)?;
    let (code, report) = check(tenants, options)?;
    let found = report["findings"].as_array().context("no findings")?;
    let matches = |(severity, line, key, part): &Expected<'_>| {
        found.iter().any(|finding| {
            finding["severity"] == *severity
                && finding["line"] == *line
                && finding["key"] == *key
                && finding["message"].as_str().is_some_and(|message| message.contains(part))
                && finding["column"].as_u64().is_some_and(|column| column > 0)
                && finding["file"] == "gateway.toml"
        })
    };
    for finding in expected {
        assert!(matches(finding), "{finding:?} is not among {found:#?} of\n{text}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?} of\n{text}");
    let errors = expected.iter().filter(|(severity, ..)| *severity == "error").count();
    let warnings = expected.iter().filter(|(severity, ..)| *severity == "warning").count();
    assert_eq!((&report["errors"], &report["warnings"]), (&errors.into(), &warnings.into()), "{report}");
    assert_eq!(code, Some(i32::from(errors > 0)), "{report}");

    let output = tenants.deployment().output(&[&["config", "check", "gateway.toml"], options].concat())?;
    let (said, printed) = (String::from_utf8(output.stderr)?, String::from_utf8(output.stdout)?);
    for (severity, line, key, part) in expected {
        let found = said.lines().any(|text| {
            text.starts_with(&format!("{severity}: gateway.toml:{line}:")) && text.contains(key) && text.contains(part)
        });
        assert!(found, "{severity} {line} {key} {part}: {said}");
    }
    assert_eq!((output.status.code(), printed.contains("is valid")), (code, errors == 0), "{said} {printed}");
    Ok(())
}

/// Returns the content of each file in a folder.
fn contents(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            found.insert(path.display().to_string(), fs::read(path)?);
        }
    }
    Ok(found)
}

/// Beginning of a configuration, of one line.
const TOP: &str = "defaults.key-pepper-file = \"pepper\"\n";

/// Section of a tenant whose database is in memory, of two lines.
const ACME: &str = "[tenants.acme]\ndatabase = \"sqlite::memory:\"\n";

#[test]
fn values_that_make_no_sense_are_found_at_their_own_line_all_in_one_run() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let mut single: Vec<(String, Vec<Expected<'_>>)> = vec![
        ("limits.burst = 3".into(), vec![("error", 4, "tenants.acme.limits.burst", "give the rate")]),
        (
            "limits.concurrency = 1000000".into(),
            vec![("error", 4, "tenants.acme.limits.concurrency", "the limit of the pool")],
        ),
        ("limits.memory = \"1GiB\"".into(), vec![("error", 4, "tenants.acme.limits.memory", "the limit of the pool")]),
        ("limits.table-elements = 99999999".into(), vec![("error", 4, "tenants.acme.limits.table-elements", "pool")]),
        ("limits.rate = 0".into(), vec![("error", 4, "tenants.acme.limits.rate", "a whole number above 0")]),
        ("limits.cpu = 10".into(), vec![("error", 4, "tenants.acme.limits.cpu", "such as \"10ms\"")]),
        ("limits.wall-clock = \"10\"".into(), vec![("error", 4, "tenants.acme.limits.wall-clock", "such as \"10ms\"")]),
        ("limits.memory = 16".into(), vec![("error", 4, "tenants.acme.limits.memory", "such as \"16MiB\"")]),
        ("hosts = \"acme.example\"".into(), vec![("error", 4, "tenants.acme.hosts", "a list, such as")]),
        ("path = \"acme/\"".into(), vec![("error", 4, "tenants.acme.path", "begins with /")]),
        ("admin-organization = \"acme\"".into(), vec![("error", 4, "tenants.acme.admin-organization", "a UUID")]),
        ("conections = 3".into(), vec![("error", 4, "tenants.acme", "did you mean connections?")]),
        ("limits = { burts = 3 }".into(), vec![("error", 4, "tenants.acme.limits", "did you mean burst?")]),
        ("jwt = { keys = \"k\", issuer = \"i\" }".into(), vec![("error", 4, "tenants.acme.jwt", "audience")]),
        (
            "connections = 3".into(),
            vec![("warning", 4, "tenants.acme.connections", "no effect with an SQLite database")],
        ),
        ("limits.cpu = \"1m\"".into(), vec![("warning", 4, "tenants.acme.limits.cpu", "over limits.wall-clock")]),
        ("limits.running = 100000".into(), vec![("warning", 4, "tenants.acme.limits.running", "pool.concurrency")]),
        (
            "limits = { concurrency = 2, running = 3 }".into(),
            vec![("warning", 4, "tenants.acme.limits.running", "limits.concurrency")],
        ),
        (
            "limits = { workspaces = 2, workspaces-per-day = 3 }".into(),
            vec![("warning", 4, "tenants.acme.limits.workspaces-per-day", "over limits.workspaces, 2")],
        ),
        ("limits.cpu = \"1us\"".into(), vec![("error", 4, "tenants.acme.limits.cpu", "give 1ms at least")]),
        (
            "limits.wall-clock = \"1ns\"".into(),
            vec![("error", 4, "tenants.acme.limits.wall-clock", "give 1ms at least")],
        ),
        (
            "jwt = { keys = \"https://a.example/\", issuer = \"\", audience = \"a\" }".into(),
            vec![("error", 4, "tenants.acme.jwt.issuer", "it is empty")],
        ),
        (
            "jwt = { keys = \"https://a.example/\", issuer = \"i\", audience = \"\" }".into(),
            vec![("error", 4, "tenants.acme.jwt.audience", "it is empty")],
        ),
        (
            "limits.host-calls = 1".into(),
            vec![("error", 2, "tenants.acme.component", "more calls to the host than its limit")],
        ),
    ];
    for key in ["cpu", "wall-clock"] {
        let name = if key == "cpu" { "tenants.acme.limits.cpu" } else { "tenants.acme.limits.wall-clock" };
        single.push((format!("limits.{key} = \"0ms\""), vec![("error", 4, name, "a time above 0")]));
    }
    for (line, expected) in single {
        require(&tenants, &format!("{TOP}{ACME}{line}\n"), &[], &expected)?;
    }
    for (line, expected) in [
        ("listen = \"8080\"", ("error", 1, "listen", "an address in quotes")),
        ("pool.concurrency = 0", ("error", 1, "pool.concurrency", "above 0")),
        ("pool.memory = \"0B\"", ("error", 1, "pool.memory", "above 0")),
        ("compile.time = \"soon\"", ("error", 1, "compile.time", "such as \"10ms\"")),
        ("max-connections = 0", ("error", 1, "max-connections", "above 0")),
        ("wathc = true", ("error", 1, "", "did you mean watch?")),
        ("watch = 1", ("error", 1, "watch", "true or false")),
        ("admin-hosts = [\"a.example\"]", ("warning", 1, "admin-hosts", "no effect without admin")),
        ("tenants = 3\nx", ("error", 2, "", "")),
    ] {
        require(
            &tenants,
            &format!("{line}\n{TOP}{}", if line.starts_with("tenants") { "" } else { ACME }),
            &[],
            &[expected],
        )?;
    }
    // Each tenant and the rest of the file has its own.
    let other = "[tenants.other]\npath = \"/other\"\ndatabase = \"mysql:x\"\n[tenants.third]\npath = \"/third\"\n";
    require(
        &tenants,
        &format!("watch = 1\n{TOP}{ACME}limits.cpu = 10\n{other}limits.cpus = \"1s\"\n"),
        &[],
        &[
            ("error", 1, "watch", "true or false"),
            ("error", 5, "tenants.acme.limits.cpu", "such as \"10ms\""),
            ("error", 8, "tenants.other.database", "sqlite:PATH"),
            ("error", 11, "tenants.third.limits", "did you mean cpu?"),
        ],
    )?;
    // A tenant has several, of types and of values; and a default that can't be read is no second error of each tenant.
    let several = "limits = { cpu = 10, rate = 0, memory = \"1MiB\" }\nconections = 3\n";
    require(
        &tenants,
        &format!("{TOP}{ACME}{several}"),
        &[],
        &[
            ("error", 4, "tenants.acme.limits.cpu", "such as \"10ms\""),
            ("error", 4, "tenants.acme.limits.rate", "above 0"),
            ("error", 5, "tenants.acme", "did you mean connections?"),
        ],
    )?;
    let several = "key-pepper-file = \"none\"\nlimits = { burst = 3, memory = \"1GiB\" }\n";
    require(
        &tenants,
        &format!("{ACME}{several}"),
        &[],
        &[
            ("error", 3, "tenants.acme.key-pepper-file", "can't read none"),
            ("error", 4, "tenants.acme.limits.burst", "give the rate"),
            ("error", 4, "tenants.acme.limits.memory", "the limit of the pool"),
        ],
    )?;
    require(
        &tenants,
        &format!("defaults.key-pepper-file = 3\n{ACME}"),
        &[],
        &[("error", 1, "defaults.key-pepper-file", "a path in quotes")],
    )
}

#[test]
fn tenants_without_an_error_are_opened_beside_those_that_have_one() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let section = |name: &str, rest: &str| {
        format!("[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite::memory:\"\n{rest}\n")
    };
    let text = [
        TOP,
        &section("one", "limits.cpu = 10"),
        &section("three", "component = \"none.wasm\""),
        &section("two", "path = \"/one\"").replace("path = \"/two\"\n", ""),
        &section("zero", "").replace("/zero", "/three"),
        &section("zeta", "").replace("/zeta", "/three"),
    ];
    require(
        &tenants,
        &text.concat(),
        &[],
        &[
            ("error", 5, "tenants.one.limits.cpu", "such as"),
            ("error", 9, "tenants.three.component", "none.wasm"),
            ("error", 13, "tenants.zero", "both at every host /three"),
            ("error", 17, "tenants.zeta", "both at every host /three"),
        ],
    )
}

#[test]
fn addresses_that_the_server_can_not_listen_at_are_errors() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    for (top, line, part) in [
        ("listen = \"127.0.0.1:8080\"\nadmin = \"127.0.0.1:8080\"\n", 2, "the same address"),
        ("admin = \"unix:no/such/admin.sock\"\n", 1, "there is no folder no/such"),
    ] {
        require(&tenants, &format!("{top}{TOP}{ACME}"), &[], &[("error", line, "admin", part)])?;
    }
    Ok(())
}

#[test]
fn files_that_are_named_are_opened_each_with_its_own_finding() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let folder = tenants.deployment().folder().to_owned();
    certificate(&folder, "a", &EC)?;
    certificate(&folder, "b", &EC)?;
    tenants.write("good.wasm", variant(b"good"))?;
    tenants.write("core.wasm", wat::parse_str("(module)")?)?;
    tenants.write("loop.wasm", hostile_components::component("(loop $spin (br $spin))")?)?;
    tenants.write("short.pepper", "short")?;
    tenants.write("short.token", "short")?;
    tenants.write("odd.pem", "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")?;
    for secret in ["a.key", "b.key", "short.token", "short.pepper"] {
        fs::set_permissions(folder.join(secret), PermissionsExt::from_mode(0o600))?;
    }
    let jwt = |keys: &str| format!("jwt = {{ keys = \"{keys}\", issuer = \"i\", audience = \"a\" }}\n");
    let before = contents(&folder)?;
    let mut cases: Vec<(String, Vec<Expected<'_>>)> = vec![
        ("component = \"good.wasm\"\n".into(), vec![]),
        ("component = \"missing.wasm\"\n".into(), vec![("error", 4, "tenants.acme.component", "No such file")]),
        ("component = \"core.wasm\"\n".into(), vec![("error", 4, "tenants.acme.component", "it is a core module")]),
        (
            "component = \"loop.wasm\"\n".into(),
            vec![("error", 4, "tenants.acme.component", "the component is not taken")],
        ),
        ("key-pepper-file = \"missing\"\n".into(), vec![("error", 4, "tenants.acme.key-pepper-file", "No such file")]),
        (
            "key-pepper-file = \"short.pepper\"\n".into(),
            vec![("error", 4, "tenants.acme.key-pepper-file", "16 at least")],
        ),
        ("key-pepper-env = \"NOT_SET\"\n".into(), vec![("error", 4, "tenants.acme.key-pepper-env", "is not set")]),
    ];
    cases.push((jwt("missing.pem"), vec![("error", 4, "tenants.acme.jwt.keys", "No such file")]));
    cases.push((jwt("odd.pem"), vec![("error", 4, "tenants.acme.jwt.keys", "no public key")]));
    cases.push((jwt("http://127.0.0.1:1/jwks"), vec![("error", 4, "tenants.acme.jwt.keys", "refused")]));
    for (section, expected) in &cases {
        require(&tenants, &format!("{TOP}{ACME}{section}"), &[], expected)?;
    }
    for (line, expected) in [
        ("tls = { certificate = \"a.crt\", key = \"a.key\" }", vec![("warning", 1, "tls.certificate", "expires in")]),
        (
            "tls = { certificate = \"a.crt\", key = \"b.key\" }",
            vec![("error", 1, "tls", "is not that of the certificate")],
        ),
        ("tls = { certificate = \"missing\", key = \"b.key\" }", vec![("error", 1, "tls", "can't read missing")]),
        (
            "tls = { certificate = \"a.key\", key = \"a.crt\" }",
            vec![("error", 1, "tls", "swap the two"), ("warning", 1, "tls.key", "every user")],
        ),
        (
            "admin = \"127.0.0.1:0\"\nadmin-token-file = \"missing\"",
            vec![("error", 2, "admin-token-file", "No such file")],
        ),
        (
            "admin = \"127.0.0.1:0\"\nadmin-token-file = \"short.token\"",
            vec![("error", 2, "admin-token-file", "16 visible characters")],
        ),
    ] {
        require(&tenants, &format!("{line}\n{TOP}{ACME}"), &[], &expected)?;
    }
    let mut after = contents(&folder)?;
    after.retain(|name, _| !name.ends_with("gateway.toml"));
    assert_eq!(after, before, "a check changed files");
    Ok(())
}

#[test]
fn a_certificate_out_of_its_dates_is_an_error() -> Result<()> {
    if !clock::available()? {
        return Ok(());
    }
    let tenants = Tenants::new(PROGRAM)?;
    let folder = tenants.deployment().folder();
    for (name, offset, part) in [("expired", "-1000d", "has expired"), ("early", "+1000d", "is not valid yet")] {
        certificate_at(offset, folder, name)?;
        fs::set_permissions(folder.join(format!("{name}.key")), PermissionsExt::from_mode(0o600))?;
        let top = format!("tls = {{ certificate = \"{name}.crt\", key = \"{name}.key\" }}\n");
        require(&tenants, &format!("{top}{TOP}{ACME}"), &[], &[("error", 1, "tls", part)])?;
    }
    Ok(())
}

#[test]
fn an_sqlite_file_is_looked_at_and_neither_made_nor_brought_to_a_newer_schema() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let folder = tenants.deployment().folder().to_owned();
    let section = |database: &str| format!("{TOP}[tenants.acme]\ndatabase = \"{database}\"\n");
    require(&tenants, &section("sqlite:new.db"), &[], &[("note", 3, "tenants.acme.database", "the server makes")])?;
    assert!(!folder.join("new.db").exists());
    tenants.write("empty.db", "")?;
    fs::set_permissions(folder.join("empty.db"), PermissionsExt::from_mode(0o600))?;
    require(&tenants, &section("sqlite:empty.db"), &[], &[("note", 3, "tenants.acme.database", "sets it up")])?;
    let nowhere = [("error", 3, "tenants.acme.database", "there is no folder")];
    require(&tenants, &section("sqlite:no/such/x.db"), &[], &nowhere)?;
    tenants.write("text.db", "this is no database, and long enough to be looked at as one".repeat(20))?;
    require(&tenants, &section("sqlite:text.db"), &[], &[("error", 3, "tenants.acme.database", "not a database")])?;

    // Keys of another pepper.
    tenants.key("acme")?;
    require(&tenants, &section("sqlite:acme.db"), &[], &[])?;
    tenants.write("other.pepper", "another pepper of 16 bytes and more")?;
    fs::set_permissions(folder.join("other.pepper"), PermissionsExt::from_mode(0o600))?;
    let other = section("sqlite:acme.db") + "key-pepper-file = \"other.pepper\"\n";
    require(&tenants, &other, &[], &[("error", 4, "tenants.acme.key-pepper-file", "hashed with another pepper")])?;
    let organization = section("sqlite:acme.db") + "admin-organization = \"00000000-0000-4000-8000-000000000000\"\n";
    require(&tenants, &organization, &[], &[("warning", 4, "tenants.acme.admin-organization", "no members")])?;

    // Of an earlier schema.
    let file = folder.join("acme.db");
    let version = |file: &Path| -> Result<i64> {
        Ok(Connection::open(file)?.pragma_query_value(None, "user_version", |row| row.get(0))?)
    };
    let newest = version(&file)?;
    Connection::open(&file)?.pragma_update(None, "user_version", newest - 1)?;
    let note = format!("brings it from schema {} to {newest}", newest - 1);
    require(&tenants, &section("sqlite:acme.db"), &[], &[("note", 3, "tenants.acme.database", &note)])?;
    assert_eq!(version(&file)?, newest - 1);
    Connection::open(&file)?.pragma_update(None, "user_version", newest + 1)?;
    let newer = [("error", 3, "tenants.acme.database", "use the one that made it")];
    require(&tenants, &section("sqlite:acme.db"), &[], &newer)
}

/// Answers each request with this text, and counts nothing.
fn answering(answer: String) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Ok(port)
}

#[test]
fn addresses_of_keys_are_fetched_once_and_offline_leaves_servers_out() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let answer =
        |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let key = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let good = answering(answer(&format!("{{\"keys\":[{key}]}}")))?;
    let some = answering(answer(&format!("{{\"keys\":[{key},{{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}}]}}")))?;
    let none = answering(answer("{\"keys\":[]}"))?;
    let gone = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into())?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let silent = silent.local_addr().map(|address| (silent, address.port()))?;
    let section = |port: u16| {
        format!(
            "{TOP}{ACME}jwt = {{ keys = \"http://ada:hidden@127.0.0.1:{port}/jwks\", issuer = \"i\", audience = \"a\" }}\n"
        )
    };
    let key = "tenants.acme.jwt.keys";
    for (port, expected) in [
        (good, None),
        (some, Some(("warning", 4, key, "skipped keys"))),
        (none, Some(("error", 4, key, "no key can verify tokens"))),
        (gone, Some(("error", 4, key, "404 Not Found"))),
        (silent.1, Some(("error", 4, key, "no answer within"))),
    ] {
        require(&tenants, &section(port), &[], expected.as_slice())?;
        let output = tenants.deployment().output(&["config", "check", "gateway.toml"])?;
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        assert!(!said.contains("hidden"), "{said}");
    }
    require(&tenants, &section(silent.1), &["--offline"], &[("note", 4, key, "--offline")])?;
    // A database's server that accepts and never answers, beside the one of the keys.
    let both = section(silent.1).replace("sqlite::memory:", &format!("postgres://ada:hidden@127.0.0.1:{}/x", silent.1));
    let start = Instant::now();
    let database = "tenants.acme.database";
    require(&tenants, &both, &[], &[("error", 4, key, "no answer"), ("error", 3, database, "")])?;
    // Two runs, of 5 s each at most.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    require(&tenants, &both, &["--offline"], &[("note", 4, key, "--offline"), ("note", 3, database, "--offline")])
}

#[test]
fn a_postgresql_database_is_checked_as_serve_checks_it_and_keeps_its_rows() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let tenants = Tenants::new(PROGRAM)?;
    let server = Postgres::start()?;
    let section = |url: &str| format!("{TOP}[tenants.acme]\ndatabase = \"{url}\"\n");
    let key = "tenants.acme.database";
    require(&tenants, &section(&server.url()), &[], &[("error", 3, key, "workspaces database migrate")])?;
    tenants.deployment().run(&["database", "migrate", "--database", &server.url()])?;
    let dump =
        || server.psql("SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM workspaces.idempotency_keys)");
    // A claim of the past: a server would forget it.
    server.psql(
        "INSERT INTO workspaces.idempotency_keys VALUES
         (gen_random_uuid(), 'r', 'k', decode(repeat('00', 32), 'hex'), gen_random_uuid(), 'n', gen_random_uuid(), 1)",
    )?;
    let before = dump()?;
    require(&tenants, &section(&server.url()), &[], &[])?;
    assert_eq!(dump()?, before);
    let warned = section(&server.url()) + "group-commit = 3\n";
    require(&tenants, &warned, &[], &[("warning", 4, "tenants.acme.group-commit", "no effect with a PostgreSQL")])?;
    let closed = server.url().replace(&format!(":{}", server.port()), ":1");
    require(&tenants, &section(&closed), &[], &[("error", 3, key, "127.0.0.1:1")])?;
    server.psql("ALTER TABLE accounts RENAME COLUMN name TO title")?;
    require(&tenants, &section(&server.url()), &[], &[("error", 3, key, "lacks a column")])
}

#[test]
fn a_file_that_can_not_be_read_and_wrong_usage_have_their_exit_codes() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    for (arguments, code, part) in [
        (&["config", "check", "missing.toml"][..], 1, "can't read missing.toml"),
        (&["config", "check"], 2, "FILE"),
        (&["config", "check", "gateway.toml", "--online"], 2, "--online"),
    ] {
        let output = tenants.deployment().output(arguments)?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(code) && said.contains(part), "{arguments:?}: {said}");
    }
    tenants.write("component.wasm", COMPONENT)?;
    require(&tenants, &format!("{TOP}{ACME}"), &[], &[])
}
