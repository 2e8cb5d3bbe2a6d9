//! Components that are pinned to a digest, or to who signed them.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{fs, process::Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_host::{COMPONENT, runtime::Digest};
use workspaces_tests::{
    Deployment, Server, Tenants, installed,
    minisign::{Key, minisign},
    variant,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

fn configuration(component: &str) -> String {
    format!("[tenants.acme]\ndatabase = \"sqlite:acme.db\"\ncomponent = {component}\n")
}

/// Reloads, and returns the outcome of the tenant with its reason.
fn reloaded(tenants: &Tenants, server: &Server) -> Result<(String, String)> {
    let Output { stdout, .. } = tenants.reload(server)?;
    let report: Value = serde_json::from_slice(&stdout)?;
    let tenant = &report["tenants"][0];
    let text = |key: &str| tenant[key].as_str().unwrap_or_default().to_owned();
    Ok((text("outcome"), text("reason")))
}

#[test]
fn a_component_of_another_digest_is_refused_and_the_old_one_serves_on() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write("acme.wasm", COMPONENT)?;
    let pinned = |digest: &Digest| configuration(&format!("{{ file = \"acme.wasm\", digest = \"sha256:{digest}\" }}"));
    tenants.configure(&pinned(&Digest::of(COMPONENT)))?;
    let key = tenants.key("acme")?;
    let server = tenants.serve()?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    // A bit of the file is another one; it is still a component, as the bit is in a name.
    let mut flipped = variant(b"name");
    let last = flipped.last_mut().context("empty")?;
    *last ^= 1;
    tenants.write("acme.wasm", &flipped)?;
    let (outcome, reason) = reloaded(&tenants, &server)?;
    assert!(outcome == "failed" && reason.contains("its digest is sha256:"), "{outcome}: {reason}");
    assert_eq!(server.create(&key, "{}")?.status, 201);
    // With its own digest it is taken.
    tenants.configure(&pinned(&Digest::of(&flipped)))?;
    assert_ne!(reloaded(&tenants, &server)?.0, "failed");
    assert_eq!(server.create(&key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn a_component_that_the_key_did_not_sign_is_refused_and_the_old_one_serves_on() -> Result<()> {
    if !installed(&["minisign"], "minisign")? {
        return Ok(());
    }
    let tenants = Tenants::new(PROGRAM)?;
    let folder = tenants.deployment().folder().to_owned();
    let (own, other) = (Key::new(&folder, "own")?, Key::new(&folder, "other")?);
    tenants.write("acme.wasm", COMPONENT)?;
    own.sign("acme.wasm", 1_000)?;
    tenants.configure(&configuration(&format!("{{ file = \"acme.wasm\", signed-by = \"{}\" }}", own.public)))?;
    let key = tenants.key("acme")?;
    let server = tenants.serve()?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    let signature = fs::read_to_string(folder.join("acme.wasm.minisig"))?;

    let refused = |part: &str| -> Result<()> {
        let (outcome, reason) = reloaded(&tenants, &server)?;
        ensure!(outcome == "failed" && reason.contains(part), "{part}: {outcome}: {reason}");
        ensure!(server.create(&key, "{}")?.status == 201, "{part}: it does not serve");
        Ok(())
    };
    // The signature of the one before, none, that of another key, one that was changed, and one of before.
    tenants.write("acme.wasm", variant(b"b"))?;
    refused("does not show that the key of the configuration signed it")?;
    fs::remove_file(folder.join("acme.wasm.minisig"))?;
    refused("it is not signed: there is no")?;
    other.sign("acme.wasm", 2_000)?;
    refused("does not show that the key of the configuration signed it")?;
    own.sign("acme.wasm", 2_000)?;
    let good = fs::read_to_string(folder.join("acme.wasm.minisig"))?;
    tenants.write("acme.wasm.minisig", good.replace("timestamp:2000", "timestamp:9000"))?;
    refused("does not show that the key of the configuration signed it")?;
    tenants.write("acme.wasm.minisig", "nonsense")?;
    refused("is no signature of minisign")?;
    minisign(&folder, &["-S", "-s", "own.key", "-m", "acme.wasm", "-t", "the newest"])?;
    refused("has no time")?;
    tenants.write("acme.wasm.minisig", good)?;
    assert_eq!(reloaded(&tenants, &server)?.0, "swapped");
    // An older one than the one that is served, although the key signed it.
    tenants.write("acme.wasm", COMPONENT)?;
    tenants.write("acme.wasm.minisig", signature)?;
    refused_older(&tenants, &server, &key)
}

fn refused_older(tenants: &Tenants, server: &Server, key: &str) -> Result<()> {
    let (outcome, reason) = reloaded(tenants, server)?;
    ensure!(outcome == "failed" && reason.contains("signed before the one that is served"), "{outcome}: {reason}");
    ensure!(server.create(key, "{}")?.status == 201, "it does not serve");
    Ok(())
}

#[test]
fn pins_that_are_none_are_errors_of_the_configuration_and_of_the_options() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write("acme.wasm", COMPONENT)?;
    for (component, part) in [
        ("{ file = \"acme.wasm\", digest = \"sha256:12\" }", "no digest: give sha256:"),
        ("{ file = \"acme.wasm\", signed-by = \"me\" }", "no public key of minisign"),
        ("{ file = \"acme.wasm\", sined-by = \"me\" }", "sined-by"),
        ("{ digest = \"sha256:12\" }", "file"),
        ("7", "a file in quotes"),
        ("{ file = \"acme.wasm\", oci = \"localhost:5000/acme:1\" }", "build it with --features oci"),
    ] {
        tenants.configure(&configuration(component))?;
        let output = tenants.deployment().output(&["config", "check", "gateway.toml"])?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            !output.status.success() && said.contains(part) && said.contains("gateway.toml:4"),
            "{component}: {said}"
        );
    }
    let deployment = Deployment::new(PROGRAM)?;
    fs::write(deployment.folder().join("a.wasm"), COMPONENT)?;
    let zeros = format!("sha256:{}", "0".repeat(64));
    for (arguments, code, part) in [
        (["--component", "a.wasm", "--component-digest", &zeros], 1, "and not the one of the configuration"),
        (["--component", "a.wasm", "--component-digest", "sha256:12"], 2, "no digest"),
    ] {
        let arguments = [&["serve", "--demo", "--listen", "127.0.0.1:0"], &arguments[..]].concat();
        let output = deployment.output(&arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(part), "{arguments:?}: {said}");
    }
    Ok(())
}
