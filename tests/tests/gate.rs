//! The gate: a component that has to be verified serves nobody before it is.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    process::Output,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use anyhow::{Result, ensure};
use serde_json::Value;
use workspaces_host::COMPONENT;
use workspaces_tests::{
    Server, Tenants,
    mutants::{FAULTS, Mutants},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

fn mutants() -> Result<Mutants> {
    Mutants::build(env!("CARGO_TARGET_TMPDIR"))
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// Returns a deployment of the tenant acme whose components have to be verified, and a key for it.
fn gated(component: &[u8]) -> Result<(Tenants, String)> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.write("acme.wasm", component)?;
    tenants.configure(
        "defaults.require-verified = true\n[tenants.acme]\ndatabase = \"sqlite:acme.db\"\ncomponent = \"acme.wasm\"\n",
    )?;
    Ok((tenants, key))
}

#[test]
fn a_component_that_breaks_a_rule_serves_nobody_from_the_start_either() -> Result<()> {
    let mutants = mutants()?;
    let (tenants, key) = gated(&mutants.mutant(0)?)?;
    let server = tenants.serve()?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    drop(server);
    tenants.write("acme.wasm", mutants.mutant(68)?)?;
    let check = tenants.deployment().output(&["config", "check", "gateway.toml"])?;
    let expected = "it breaks the rule tells-storage-errors (case storage-unknown)";
    assert!(check.status.code() == Some(1) && text(&check).contains(expected), "{}", text(&check));
    let started = tenants.deployment().output(&["serve", "--config", "gateway.toml", "--listen", "127.0.0.1:0"])?;
    assert!(!started.status.success() && text(&started).contains(expected), "{}", text(&started));
    // Without the key it serves: the fault shows with the first error of storage.
    tenants.configure("[tenants.acme]\ndatabase = \"sqlite:acme.db\"\ncomponent = \"acme.wasm\"\n")?;
    assert_eq!(tenants.serve()?.create(&key, "{}")?.status, 201);
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn no_wrong_component_answers_a_request_when_it_is_put_in_place_under_load() -> Result<()> {
    let mutants = mutants()?;
    let (tenants, key) = gated(&mutants.mutant(0)?)?;
    let server = tenants.serve()?;
    let shown = |server: &Server| -> Result<Value> {
        let listed: Value = server.ask_admin("GET", "/tenants", &[])?.json()?;
        Ok(listed[0].clone())
    };
    let right = shown(&server)?["component"].clone();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let load = |number: usize| -> Result<()> {
        while !stop.load(Relaxed) {
            let name = format!("Studio {number}");
            let answer = server.create(&key, format!("{{\"name\":{name:?}}}"))?;
            let body: Value = answer.json()?;
            ensure!(answer.status == 201 && body["workspace"]["name"] == *name, "{answer:?}");
            answered.fetch_add(1, Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let loads: Vec<_> = (0..4).map(|number| scope.spawn(move || load(number))).collect();
        let outcome = (|| -> Result<()> {
            for (number, does, rule) in FAULTS {
                tenants.write("acme.wasm", mutants.mutant(number)?)?;
                let before = answered.load(Relaxed);
                let reload = tenants.reload(&server)?;
                let expected = format!("it breaks the rule {rule} (");
                ensure!(!reload.status.success() && text(&reload).contains(&expected), "{does}: {}", text(&reload));
                let shown = shown(&server)?;
                ensure!(shown["component"] == right, "{does}: {shown}");
                ensure!(shown["refused"].as_str().is_some_and(|reason| reason.contains(&expected)), "{does}: {shown}");
                ensure!(answered.load(Relaxed) > before, "{does}: the old one does not serve");
            }
            // A right one is taken.
            tenants.write("acme.wasm", COMPONENT)?;
            let reload = tenants.reload(&server)?;
            ensure!(reload.status.success() && text(&reload).contains("swapped"), "{}", text(&reload));
            ensure!(shown(&server)?["component"] != right && shown(&server)?["refused"].is_null());
            Ok(())
        })();
        stop.store(true, Relaxed);
        for load in loads {
            load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        }
        outcome
    })?;
    assert!(answered.load(Relaxed) > 100, "{answered:?}");
    assert!(!server.metrics()?.contains("workspaces_faults_total{"), "{}", server.metrics()?);
    Ok(())
}

#[test]
fn a_verdict_outlives_the_server_for_this_component_alone_and_cannot_be_forged() -> Result<()> {
    let mutants = mutants()?;
    let (tenants, _) = gated(&mutants.mutant(0)?)?;
    let folder = tenants.deployment().folder();
    let log = || -> Result<String> {
        let file = fs::File::create(folder.join("log"))?;
        let mut command =
            tenants.deployment().command(&["serve", "--config", "gateway.toml", "--listen", "127.0.0.1:0"]);
        let server = Server::start(command.stderr(file))?;
        server.signal("TERM").and_then(|()| server.wait())?;
        Ok(fs::read_to_string(folder.join("log"))?)
    };
    let is_judged = |log: &str| log.contains("component verified tenant") && !log.contains("component verified before");
    let is_recalled = |log: &str| log.contains("component verified before");
    assert!(is_judged(&log()?));
    assert!(is_recalled(&log()?));
    // Other limits, in which it might not answer.
    let configuration = fs::read_to_string(folder.join("gateway.toml"))?;
    tenants.write("gateway.toml", format!("{configuration}limits = {{ cpu = \"9ms\" }}\n"))?;
    assert!(is_judged(&log()?));
    tenants.write("gateway.toml", &configuration)?;
    assert!(is_recalled(&log()?));
    // Another component, whose author copies the verdict.
    let kept = fs::read_to_string(folder.join("acme.wasm.verified"))?;
    assert_eq!(kept.lines().count(), 2, "{kept}");
    tenants.write("acme.wasm", mutants.mutant(68)?)?;
    let started = tenants.deployment().output(&["serve", "--config", "gateway.toml", "--listen", "127.0.0.1:0"])?;
    assert!(text(&started).contains("it breaks the rule tells-storage-errors"), "{}", text(&started));
    // What is no verdict is none.
    tenants.write("acme.wasm", mutants.mutant(0)?)?;
    fs::write(folder.join("acme.wasm.verified"), kept.replace(['0', '1', '2', '3'], "4"))?;
    assert!(is_judged(&log()?));
    fs::write(folder.join("acme.wasm.verified"), vec![b'x'; 70_000])?;
    assert!(is_judged(&log()?));
    assert!(is_recalled(&log()?));
    Ok(())
}
