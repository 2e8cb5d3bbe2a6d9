//! Recorded requests, and their replay on a machine without the database.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_host::COMPONENT;
use workspaces_tests::{Deployment, Server, Tenants, mutants::Mutants, postgres};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Returns the bundles of a folder, the oldest first.
fn bundles(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Waits until a folder has so many bundles: they are written off the request's path.
fn wait_for(folder: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = bundles(folder)?;
        if found.len() == count {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{} bundles in place of {count}", found.len());
        thread::sleep(Duration::from_millis(20));
    }
}

fn read(bundle: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(bundle)?)?)
}

/// Creates a workspace with further headers.
fn create(server: &Server, key: &str, headers: &[(&str, &str)], body: &str) -> Result<u16> {
    let all = [&[("Content-Type", "application/json"), ("x-api-key", key)], headers].concat();
    Ok(server.send("POST", "/api/workspaces", &all, body.as_bytes())?.status)
}

#[test]
fn a_failure_recorded_with_postgresql_is_replayed_without_it() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let mut database = postgres::Postgres::start()?;
    let deployment = Deployment::on_postgres(PROGRAM, &database.url())?;
    let folder = deployment.folder();
    let mutants = Mutants::build(env!("CARGO_TARGET_TMPDIR"))?;
    // It traps on one name.
    fs::write(folder.join("wrong.wasm"), mutants.mutant(2)?)?;
    fs::write(folder.join("right.wasm"), mutants.mutant(0)?)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let server = deployment.serve(&["--component", "wrong.wasm", "--record", "recorded"])?;
    let secret = "an-idempotency-key-of-the-client";
    let name = "Studio".to_owned();
    assert_eq!(create(&server, &key, &[("Idempotency-Key", secret)], "{}")?, 201);
    assert_eq!(create(&server, &key, &[("Idempotency-Key", &secret[1..])], &format!("{{\"name\":{name:?}}}"))?, 500);
    // A failure of storage.
    database.psql("ALTER TABLE public.accounts RENAME TO others")?;
    assert_eq!(create(&server, &key, &[], "{\"name\":\"Label\"}")?, 500);
    let found = wait_for(&folder.join("recorded"), 2)?;
    assert_eq!(server.signal("TERM").and_then(|()| server.wait())?, 0);
    database.stop()?;

    for bundle in &found {
        let text = fs::read_to_string(bundle)?;
        let parts =
            [key.as_str(), key.trim_start_matches("recoup_sk_"), secret, &secret[1..], "x-api-key", "recoup_sk_"];
        assert!(parts.iter().all(|part| !text.contains(part)), "{text}");
    }
    let [trapped, failed] = [read(&found[0])?, read(&found[1])?];
    assert_eq!((&trapped["request"]["name"], &trapped["tenant"]), (&name.clone().into(), &"default".into()));
    assert!(
        trapped["ending"]["fault"]["cause"].as_str().is_some_and(|cause| cause.contains("#create-workspace")),
        "{trapped}"
    );
    assert_eq!(failed["exchanges"][1]["reply"]["failed"], "unavailable", "{failed}");
    assert!(failed["cost"]["memory"].as_u64() >= Some(65536) && failed["cost"]["host_calls"] == 3, "{failed}");

    let paths: Vec<_> = found.iter().map(|bundle| bundle.display().to_string()).collect();
    let with = |component: &str, json: &[&str]| {
        deployment.output(&[&["replay", &paths[0], &paths[1], "--component", component], json].concat())
    };
    let same = with("wrong.wasm", &[])?;
    let said = String::from_utf8(same.stdout)?;
    assert!(same.status.success() && said.matches(": as recorded\n").count() == 2, "{said}");
    assert!(said.contains("fault (unreachable)") && said.contains("authorize(none, none) → grant for"), "{said}");
    let mended = with("right.wasm", &["--json"])?;
    let replays: Value = serde_json::from_slice(&mended.stdout)?;
    assert_eq!(mended.status.code(), Some(1), "{replays}");
    assert_eq!(replays[0]["difference"]["place"], "call 1", "the right one goes on: {replays}");
    assert!(replays[1]["difference"].is_null(), "{replays}");
    // It was not recorded with the built-in component.
    let other = deployment.output(&["replay", &paths[0]])?;
    assert!(other.status.code() == Some(2) && String::from_utf8_lossy(&other.stderr).contains("give --component FILE"));
    // As a case it is judged with every other component.
    let case = deployment.run(&["replay", &paths[0], "--as-case"])?;
    fs::write(folder.join("case.json"), case)?;
    let id = found[0].file_stem().context("no name")?.to_string_lossy();
    for (component, code) in [("wrong.wasm", 1), ("right.wasm", 0)] {
        let judged = deployment.output(&["verify", component, "--cases", "case.json", "--case", &id])?;
        assert_eq!(judged.status.code(), Some(code), "{judged:?}");
    }
    Ok(())
}

#[test]
fn requests_are_recorded_by_failure_by_header_and_one_in_many_and_the_oldest_go() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let mutants = Mutants::build(env!("CARGO_TARGET_TMPDIR"))?;
    tenants.write("wrong.wasm", mutants.mutant(2)?)?;
    let keys = ["failing", "asked", "sampled"].map(|name| tenants.key(name));
    let [failing, asked, sampled] = keys;
    let section = |name: &str, record: &str| {
        format!(
            "[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:{name}.db\"\ncomponent = \"wrong.wasm\"\nrecord = {{ folder = \"{name}\"{record} }}\n"
        )
    };
    tenants.configure(&format!(
        "{}{}{}",
        section("failing", ", bundles = 3"),
        section("asked", ", header = \"X-Record\", redact = true"),
        section("sampled", ", every = 5"),
    ))?;
    let server = tenants.serve()?;
    let folder = |name: &str| tenants.deployment().folder().join(name);
    let traps = "{\"name\":\"Studio\"}";
    let (failing, asked, sampled) = (failing?, asked?, sampled?);
    for number in 0..7 {
        assert_eq!(server.create_at("/failing", &failing, "{}")?.status, 201);
        assert_eq!(server.create_at("/failing", &failing, traps)?.status, 500, "{number}");
    }
    for _ in 0..10 {
        assert_eq!(server.create_at("/sampled", &sampled, "{}")?.status, 201);
    }
    let headers = [("Content-Type", "application/json"), ("x-api-key", asked.as_str()), ("x-record", "1")];
    let answer = server.send("POST", "/asked/api/workspaces", &headers, b"{\"name\":\" Ada 7 \"}")?;
    assert_eq!(answer.status, 201);
    assert_eq!(server.create_at("/asked", &asked, "{}")?.status, 201);
    // A stop writes what waits.
    assert_eq!(server.signal("TERM").and_then(|()| server.wait())?, 0);
    assert_eq!(wait_for(&folder("failing"), 3)?.len(), 3);
    assert_eq!(wait_for(&folder("sampled"), 2)?.len(), 2);
    let of_asked = wait_for(&folder("asked"), 1)?;
    let text = fs::read_to_string(&of_asked[0])?;
    let bundle = read(&of_asked[0])?;
    assert_eq!(bundle["request"]["name"], " xxx x ");
    assert!(!text.contains("Ada") && bundle["outcome"] == "created", "{text}");
    let paths: Vec<_> = [bundles(&folder("failing"))?, bundles(&folder("sampled"))?, of_asked].concat();
    for path in paths {
        let replayed =
            tenants.deployment().output(&["replay", &path.display().to_string(), "--component", "wrong.wasm"])?;
        assert!(replayed.status.success(), "{replayed:?}");
    }
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_made_and_a_file_that_is_no_bundle_are_named() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    fs::write(deployment.folder().join("file"), "{}")?;
    fs::write(deployment.folder().join("component.wasm"), COMPONENT)?;
    let started = deployment.server(&["--record", "file/below"]).output()?;
    let said = String::from_utf8(started.stderr)?;
    assert!(!started.status.success() && said.contains("can't make file/below"), "{said}");
    for (bundle, code, part) in [("file", 2, "is no bundle of `serve --record`"), ("missing", 2, "can't read missing")]
    {
        let output = deployment.output(&["replay", bundle, "--component", "component.wasm"])?;
        let said = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(code) && said.contains(part), "{said}");
    }
    for (arguments, part) in [
        (&["--record-every", "5"][..], "--record <FOLDER>"),
        (&["--record", "recorded", "--record-header", "two words"], "invalid"),
        (&["--record", "recorded", "--config", "file"], "--record has no effect with --config"),
    ] {
        let output = deployment.server(arguments).output()?;
        let said = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(2) && said.contains(part), "{arguments:?}: {said}");
    }
    Ok(())
}
