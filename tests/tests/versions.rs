//! Hosts and components of different minor versions of the contract.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::fs;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use wasmtime::{
    Engine,
    component::{Component, Linker, ResourceType},
};
use workspaces_host::{
    COMPONENT,
    harness::Verify,
    runtime::{LoadError, Pool, Sandboxes},
};
use workspaces_tests::{
    Deployment,
    hostile_components::{Module, variant_of_contract},
};

/// Function that the next minor version adds.
const ADDED: &str = "@since(version = 1.1.0)\n  count: func() -> u32;";

/// Returns a folder with the contract as its next minor version may be.
fn next_minor() -> Result<TempDir> {
    variant_of_contract(|text| {
        let text = text.replace("package recoup:workspaces@1.0.0", "package recoup:workspaces@1.1.0");
        text.replace(
            "  /// Creates a workspace under the grant and returns its id.",
            &format!("  {ADDED}\n\n  /// Creates a workspace under the grant and returns its id."),
        )
    })
}

/// Import of the added function.
const COUNT: &str = r#"(import "recoup:workspaces/storage@1.1.0" "count" (func $count (result i32)))"#;

fn sandboxes() -> Result<Sandboxes> {
    Ok(Sandboxes::new(Pool { concurrency: 1, queue: 1, ..Pool::default() })?)
}

#[test]
fn a_component_of_the_next_minor_version_is_loaded_where_it_uses_nothing_new() -> Result<()> {
    let wit = next_minor()?;
    let component = Module::default().for_version("1.1.0", wit.path(), "")?;
    assert!(sandboxes()?.compile(&component).is_ok());
    // By the program too, with a component that works.
    let two_faced = Module::default().two_faced_for_version("1.1.0", wit.path())?;
    let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
    let file = deployment.folder().join("next.wasm");
    fs::write(&file, two_faced)?;
    let server = deployment.serve(&["--component", file.to_str().context("path")?])?;
    let key = deployment.run(&["key", "create", &deployment.run(&["account", "create"])?])?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn a_component_that_imports_a_function_of_the_next_minor_version_is_refused_by_its_name() -> Result<()> {
    let wit = next_minor()?;
    let module = Module { operation: "(drop (call $count))", ..Module::default() };
    let component = module.for_version("1.1.0", wit.path(), COUNT)?;
    let refused = sandboxes()?.compile(&component);
    assert!(matches!(&refused, Err(LoadError::World(reason)) if reason.contains("count")), "{refused:?}");
    let report = Verify::new(component).inputs(0).run()?;
    assert!(!report.passed() && report.to_string().contains("+ count: func() -> u32"), "{report}");
    Ok(())
}

/// Returns whether a host of a version can link the built-in component.
fn links(engine: &Engine, version: &str) -> wasmtime::Result<bool> {
    let component = Component::from_binary(engine, COMPONENT)?;
    let mut linker = Linker::<()>::new(engine);
    linker.instance(&format!("recoup:workspaces/types@{version}"))?;
    let mut auth = linker.instance(&format!("recoup:workspaces/auth@{version}"))?;
    auth.resource("grant", ResourceType::host::<()>(), |_, _| Ok(()))?;
    for function in ["authorize", "[method]grant.account-id", "[method]grant.organization-id"] {
        auth.func_new(function, |_, _, _, _| Ok(()))?;
    }
    let mut storage = linker.instance(&format!("recoup:workspaces/storage@{version}"))?;
    for function in ["create-workspace", "count"] {
        storage.func_new(function, |_, _, _, _| Ok(()))?;
    }
    Ok(linker.instantiate_pre(&component).is_ok())
}

#[test]
fn a_host_of_the_next_minor_version_links_a_component_of_this_one() -> Result<()> {
    let engine = Engine::default();
    for (version, fits) in [("1.0.0", true), ("1.1.0", true), ("2.0.0", false)] {
        let links = links(&engine, version).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        assert_eq!(links, fits, "{version}");
    }
    Ok(())
}
