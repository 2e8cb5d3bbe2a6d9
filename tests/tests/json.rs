//! `--json`: every command takes it, prints JSON and nothing else, and times in one form.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_host::COMPONENT;
use workspaces_tests::{Server, Tenants, hostile_components::Module, postgres};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Commands whose output has a form of its own: a shell's script, and a page for `man`.
const OTHER_FORMS: [&str; 2] = ["completions", "manual"];

/// Returns the commands that have no commands below them, each as its words, from the help.
fn leaves(path: &[&str]) -> Result<Vec<Vec<String>>> {
    let output = Command::new(PROGRAM).args(path).arg("--help").output()?;
    let help = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{path:?}: {help}");
    let section = help.split("\nCommands:\n").nth(1).map(|rest| rest.split("\n\n").next().unwrap_or_default());
    let Some(section) = section else {
        ensure!(help.contains("--json"), "{path:?} has no --json: {help}");
        return Ok(vec![path.iter().map(|word| (*word).to_owned()).collect()]);
    };
    let mut found = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().context("no name")?;
        if name != "help" {
            found.extend(leaves(&[path, &[name]].concat())?);
        }
    }
    Ok(found)
}

/// Asserts that each text in a value that looks like a time is RFC 3339 in UTC with milliseconds; returns how many
/// there are.
fn require_times(value: &Value) -> usize {
    match value {
        Value::String(text) => {
            let is_time = text.len() > 10
                && text.as_bytes()[..4].iter().all(u8::is_ascii_digit)
                && text.as_bytes()[4] == b'-'
                && text.contains(':');
            if is_time {
                let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
                assert_eq!(form, "0000-00-00T00:00:00.000Z", "{text}");
            }
            usize::from(is_time)
        }
        Value::Array(values) => values.iter().map(require_times).sum(),
        Value::Object(members) => members.values().map(require_times).sum(),
        Value::Number(number) => {
            // A time in milliseconds or seconds of this century would be one.
            let number = number.as_f64().unwrap_or_default();
            assert!(!(1.5e9..2.5e9).contains(&number) && !(1.5e12..2.5e12).contains(&number), "{number} is a time");
            0
        }
        Value::Null | Value::Bool(_) => 0,
    }
}

/// Runs a command with `--json` and returns the one value that it prints.
fn json(tenants: &Tenants, arguments: &[&str], done: &mut BTreeSet<String>) -> Result<Value> {
    let output = tenants.deployment().output(&[arguments, &["--json"]].concat())?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    done.insert(
        arguments
            .iter()
            .take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with('-'))
            .take(2)
            .copied()
            .collect::<Vec<_>>()
            .join(" "),
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?}: {output:?}"))
}

/// A request for which storage was unavailable.
const BUNDLE: &str = r#"{"time": "2026-11-27T00:00:00.000Z", "tenant": "acme", "component": "other", "request": {}, "exchanges": [
    {"call": {"authorize": {}}, "reply": {"grant": {"account_id": "0190a2b4-6f00-7abc-9def-001122334455"}}},
    {"call": {"create-workspace": {"name": "Untitled"}}, "reply": {"failed": "unavailable"}},
    {"call": "drop-grant", "reply": "dropped"}],
    "ending": {"answered": {"refused": {"case": "unavailable", "message": "The workspace was not created: try again later"}}},
    "outcome": "unavailable", "cost": {"instructions": null, "memory": 65536, "host_calls": 3, "bytes": 0}, "cpu_microseconds": 9}"#;

/// Asserts the output of every command on a database.
fn require_json(address: &str) -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let mut done = BTreeSet::new();
    tenants.configure(&format!("[tenants.acme]\ndatabase = \"{address}\""))?;
    tenants.write("component.wasm", COMPONENT)?;
    let on = ["--config", "gateway.toml", "--tenant", "acme"];
    let mut run = |arguments: &[&str]| json(&tenants, arguments, &mut done);
    let mut of = |arguments: &[&str]| run(&[arguments, &on].concat());
    let text = |value: &Value, name: &str| {
        value[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {value}"))
    };

    assert!(text(&of(&["database", "migrate"])?, "database")?.len() > 3);
    let ada = of(&["account", "create", "--name", "Ada"])?;
    let label = of(&["organization", "create", "--name", "Label"])?;
    assert_eq!((&ada["name"], &label["name"]), (&"Ada".into(), &"Label".into()));
    let (ada, label) = (text(&ada, "id")?, text(&label, "id")?);
    let member = of(&["organization", "add-member", &label, &ada])?;
    assert_eq!((text(&member, "organization_id")?, text(&member, "account_id")?), (label.clone(), ada.clone()));
    let key = of(&["key", "create", &ada, "--expires-in", "30d"])?;
    assert!(text(&key, "key")?.starts_with("recoup_sk_"));
    assert_eq!(require_times(&key), 2, "{key}");
    let subject = ["--issuer", "https://id.example", "--subject", "ada|1"];
    let linked = of(&[&["account", "link", &ada][..], &subject].concat())?;
    assert_eq!((text(&linked, "account_id")?, text(&linked, "subject")?), (ada.clone(), "ada|1".into()));
    for (list, count) in [
        (&["account", "list"][..], 2),
        (&["organization", "list"], 1),
        (&["organization", "list", &label], 1),
        (&["key", "list"], 1),
        (&["key", "list", &ada], 1),
        (&["workspace", "list"], 0),
        (&["workspace", "list", "--account", &ada], 0),
    ] {
        let listed = of(list)?;
        assert_eq!(listed.as_array().map(Vec::len), Some(count), "{list:?}: {listed}");
        assert_eq!(require_times(&listed), if list[0] == "key" { 2 } else { 0 }, "{list:?}: {listed}");
    }
    assert_eq!(text(&of(&[&["account", "unlink"][..], &subject].concat())?, "issuer")?, "https://id.example");
    assert_eq!(text(&of(&["organization", "remove-member", &label, &ada])?, "account_id")?, ada);
    let id = text(&key, "id")?;
    assert_eq!(text(&of(&["key", "revoke", &id])?, "id")?, id);
    assert_eq!(of(&["database", "check"])?["accounts"], 2);
    let is_file = address.starts_with("sqlite:");
    if is_file {
        assert_eq!(text(&of(&["database", "backup", "copy.db"])?, "file")?, "copy.db");
    }
    assert_eq!(run(&["config", "check", "gateway.toml"])?["tenants"], 1);
    assert_eq!(text(&run(&["compile", "component.wasm", "--output", "compiled"])?, "file")?, "compiled");
    assert_eq!(run(&["verify", "component.wasm", "--inputs", "8"])?["passed"], true);
    assert!(run(&["wit"])?[0]["text"].as_str().is_some_and(|text| text.contains("package recoup:workspaces@1.0.0")));
    assert_eq!(text(&run(&["new", "--language", "c", "project"])?, "folder")?, "project");
    tenants.write("module.wasm", Module::default().module()?)?;
    assert_eq!(text(&run(&["componentize", "module.wasm", "--output", "made.wasm"])?, "file")?, "made.wasm");
    tenants.write("bundle.json", BUNDLE)?;
    assert_eq!(run(&["replay", "bundle.json", "--component", "component.wasm"])?[0]["bundle"], "bundle.json");

    // The server: its addresses, its log, its administration, and a reload.
    let log = tenants.deployment().folder().join("log");
    let mut command = tenants.deployment().command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--config",
        "gateway.toml",
        "--admin",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]);
    let server = Server::start(command.stderr(File::create(&log)?))?;
    let admin = server.admin()?.to_string();
    assert_eq!(run(&["reload", "--admin", &admin])?["tenants"][0]["outcome"], "unchanged");
    require_times(&server.ask_admin("GET", "/tenants", &[])?.json()?);
    require_times(&server.send("GET", "/readyz", &[], b"")?.json()?);
    drop(server);
    let mut lines = 0;
    for line in BufReader::new(File::open(log)?).lines() {
        assert_eq!(require_times(&serde_json::from_str(&line?)?), 1);
        lines += 1;
    }
    assert!(lines > 0, "nothing was logged");
    // What `dev` prints is what its server prints.
    done.extend(["serve".into(), "dev".into()]);
    let all: BTreeSet<_> = leaves(&[])?.iter().map(|words| words.join(" ")).collect();
    let mut left: Vec<_> = all.difference(&done).filter(|command| !OTHER_FORMS.contains(&command.as_str())).collect();
    left.retain(|command| is_file || *command != "database backup");
    assert!(left.is_empty(), "these were not run: {left:?}, but {done:?}");
    Ok(())
}

#[test]
fn every_command_prints_json_on_sqlite() -> Result<()> {
    require_json("sqlite:acme.db")
}

#[test]
fn every_command_prints_json_on_postgresql() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let server = postgres::Postgres::start()?;
    require_json(&server.url())
}

#[test]
fn serve_prints_its_addresses_and_the_demo_as_json() -> Result<()> {
    let mut server = Command::new(PROGRAM)
        .args(["serve", "--demo", "--json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("no output")?).lines();
    let mut next = || -> Result<Value> { Ok(serde_json::from_str(&lines.next().context("it ended")??)?) };
    let (addresses, demo) = (next()?, next()?);
    server.kill()?;
    server.wait()?;
    for name in ["listening", "administration"] {
        assert!(
            addresses[name].as_str().is_some_and(|address| address.starts_with("http://127.0.0.1:")),
            "{addresses}"
        );
    }
    assert!(demo["organization_id"].is_string(), "{demo}");
    for person in demo["accounts"].as_array().context("no accounts")? {
        let key = person["api_key"].as_str().unwrap_or_default();
        assert!(person["account_id"].is_string() && key.starts_with("recoup_sk_"), "{demo}");
    }
    Ok(())
}

#[test]
fn errors_are_json_too_with_the_exit_code() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.deployment().run(&["database", "migrate"])?;
    let nobody = "123e4567-e89b-42d3-a456-426614174000";
    for (arguments, code, part) in [
        (&["key", "create", nobody][..], 1, "there is no account"),
        (&["key", "revoke", nobody], 1, "there is no key"),
        (&["organization", "add-member", nobody, nobody], 1, "there is no"),
        (&["organization", "list", nobody], 1, "there is no account"),
        (&["workspace", "list", "--account", nobody], 1, "there is no account"),
        (&["account", "unlink", "--issuer", "https://i", "--subject", "s"], 1, "there is no such link"),
        (&["database", "check", "--database", "sqlite:missing.db"], 1, "database migrate"),
        (&["database", "backup", "no/such/copy.db"], 1, "can't be written"),
        (&["config", "check", "missing.toml"], 1, "can't read missing.toml"),
        (&["compile", "missing.wasm", "--output", "x"], 1, "can't read the component"),
        (&["reload", "--admin", "127.0.0.1:1"], 1, "no answer from a server's administration"),
        (&["serve", "--config", "missing.toml"], 1, "can't read missing.toml"),
        (&["key", "create"], 2, "ACCOUNT"),
        (&["key", "create", "ada"], 2, "invalid"),
        (&["key", "fly"], 2, "fly"),
        (&["serve", "--demo", "--database", "sqlite:x.db"], 2, "has no effect"),
        (&["manual"], 2, "--json has no effect with manual"),
        (&["completions", "bash"], 2, "--json has no effect with completions"),
    ] {
        let output = tenants.deployment().output(&[arguments, &["--json"]].concat())?;
        let error: Value =
            serde_json::from_slice(&output.stderr).with_context(|| format!("{arguments:?}: {output:?}"))?;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert_eq!(error["exit_code"], code, "{arguments:?}: {error}");
        assert!(error["error"].as_str().is_some_and(|text| text.contains(part)), "{arguments:?}: {error}");
        assert!(error["error"].as_str().is_some_and(|text| !text.starts_with("error")), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        // The same in words where JSON was not asked for, or where it is a value.
        let output = tenants.deployment().output(arguments)?;
        let text = String::from_utf8(output.stderr)?;
        let takes_json = !OTHER_FORMS.contains(&arguments[0]);
        assert!(!takes_json || (text.starts_with("error: ") && text.contains(part)), "{arguments:?}: {text}");
    }
    Ok(())
}
