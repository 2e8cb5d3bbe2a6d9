//! Components that import WASI, and tenants that give them one that is empty.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs::{self, File},
    sync::{Arc, LazyLock},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use workspaces_host::{
    CreateWorkspaceRequest, Workspaces,
    harness::Verify,
    runtime::{
        LoadError, Pool, SandboxLimits, Sandboxes, Wasi,
        script::{Answer, Call, Ending, Exchange, Played, Replies, Reply},
    },
    storage::sqlite::Sqlite,
};
use workspaces_tests::{Deployment, Open, Server, Tenants, built::build, hostile_components::Module};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// A component of the ordinary target wasm32-wasip2.
fn component() -> Result<Vec<u8>> {
    static COMPONENT: LazyLock<Result<Vec<u8>, String>> = LazyLock::new(|| {
        build(env!("CARGO_TARGET_TMPDIR"), "workspaces-std-component").map_err(|error| format!("{error:#}"))
    });
    COMPONENT.clone().map_err(anyhow::Error::msg)
}

fn denied() -> SandboxLimits {
    SandboxLimits { wasi: Wasi::Deny, ..SandboxLimits::default() }
}

/// Imports that create what is asked.
struct Created;

impl Replies for Created {
    fn reply(&mut self, call: &Call, _: &[Exchange]) -> Reply {
        let id = uuid::Uuid::from_u128(7);
        match call {
            Call::Authorize { .. } => Reply::Grant { account_id: id, organization_id: None },
            Call::AccountId => Reply::Account(id),
            Call::OrganizationId => Reply::Organization(None),
            Call::DropGrant => Reply::Dropped,
            Call::CreateWorkspace { .. } => Reply::Created(id),
        }
    }
}

/// Calls the component with a name.
async fn play(sandboxes: &Sandboxes, name: &str) -> Result<Played> {
    let component = sandboxes.compile(&component()?)?;
    let request = CreateWorkspaceRequest { name: Some(name.into()), ..CreateWorkspaceRequest::default() };
    Ok(sandboxes.play(&component, &denied(), &request, Created).await)
}

fn sandboxes() -> Result<Sandboxes> {
    Ok(Sandboxes::new(Pool { concurrency: 1, queue: 1, ..Pool::default() })?)
}

#[test]
fn a_component_of_the_standard_target_keeps_the_contract_with_empty_wasi_and_is_refused_without() -> Result<()> {
    let report = Verify::new(component()?).limits(denied()).run()?;
    assert!(report.passed(), "{report}");
    let report = Verify::new(component()?).run()?;
    let text = report.to_string();
    assert!(
        !report.passed() && text.contains("+ import wasi:cli/environment@0.2") && text.contains("--wasi deny"),
        "{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_empty_is_answered_and_all_else_traps() -> Result<()> {
    let sandboxes = sandboxes()?;
    let played = play(&sandboxes, "what is empty").await?;
    assert!(matches!(played.ending, Ending::Answered(Answer::Created { .. })), "{played:?}");
    for (name, function) in [
        ("the clock", "wasi:clocks/wall-clock now"),
        ("the monotonic clock", "wasi:clocks/monotonic-clock now"),
        ("a socket", "wasi:sockets/"),
        ("exit", "wasi:cli/exit exit"),
    ] {
        let played = play(&sandboxes, name).await?;
        let Ending::Fault { kind, cause } = &played.ending else { anyhow::bail!("{name}: {played:?}") };
        ensure!(kind == "wasi" && cause.starts_with(&format!("WASI is denied: {function}")), "{name}: {kind}: {cause}");
    }
    // Without a folder no file can be named: the standard library gives up before it calls anything.
    let played = play(&sandboxes, "a file").await?;
    assert!(matches!(played.ending, Ending::Answered(Answer::Created { .. })), "{played:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_has_its_message_in_the_fault() -> Result<()> {
    let played = play(&sandboxes()?, "a panic").await?;
    let Ending::Fault { kind, cause } = &played.ending else { anyhow::bail!("{played:?}") };
    assert!(kind == "unreachable" && cause.contains("the shelf is empty"), "{kind}: {cause}");
    assert!(!cause.contains('\n'), "one line of the log: {cause}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_declares_other_types_than_wasi_has_gets_a_trap() -> Result<()> {
    let sandboxes = sandboxes()?;
    for (function, import, call) in [
        ("get-environment: func() -> u64;", r#""get-environment" (func $own (result i64))"#, "(drop (call $own))"),
        (
            "get-arguments: func() -> string;",
            r#""get-arguments" (func $own (param i32))"#,
            "(call $own (i32.const 1024))",
        ),
        ("get-environment: func(a: u32);", r#""get-environment" (func $own (param i32))"#, "(call $own (i32.const 1))"),
        ("initial-cwd: func() -> u32;", r#""initial-cwd" (func $own (result i32))"#, "(drop (call $own))"),
        ("unheard-of: func() -> u32;", r#""unheard-of" (func $own (result i32))"#, "(drop (call $own))"),
    ] {
        let import = format!(r#"(import "wasi:cli/environment@0.2.0" {import})"#);
        let component = Module { operation: call, ..Module::default() }.with_false_wasi(function, &import)?;
        let component = sandboxes.compile(&component)?;
        let played = sandboxes.play(&component, &denied(), &CreateWorkspaceRequest::default(), Created).await;
        assert!(matches!(played.ending, Ending::Fault { .. }), "{function} {played:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_wasi_are_calls_to_the_host() -> Result<()> {
    let sandboxes = sandboxes()?;
    let import = r#"(import "wasi:cli/environment@0.2.0" "get-arguments" (func $own (param i32)))"#;
    let function = "get-arguments: func() -> list<string>;";
    let operation = "(loop $again (call $own (i32.const 1024)) (br $again))";
    let component = Module { operation, ..Module::default() }.with_false_wasi(function, import)?;
    let component = sandboxes.compile(&component)?;
    let limits = SandboxLimits { cpu: std::time::Duration::from_secs(60), ..denied() };
    let played = sandboxes.play(&component, &limits, &CreateWorkspaceRequest::default(), Created).await;
    assert!(matches!(&played.ending, Ending::Fault { kind, .. } if kind == "host-calls"), "{played:?}");
    Ok(())
}

#[test]
fn a_tenant_gives_wasi_and_another_one_with_the_same_component_does_not() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write("std.wasm", component()?)?;
    let section = |name: &str, further: &str| {
        format!(
            "[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:{name}.db\"\ncomponent = \"std.wasm\"\n{further}\n"
        )
    };
    tenants.configure(
        &[section("given", "wasi = \"deny\""), section("not", ""), section("none", "wasi = \"none\"")].concat(),
    )?;
    let (key, other) = (tenants.key("given")?, tenants.key("not")?);
    let server = tenants.serve()?;
    assert_eq!(server.create_at("/given", &key, "{}")?.status, 201);
    assert_eq!(server.create_at("/not", &other, "{}")?.status, 503);
    let tenants_json = String::from_utf8_lossy(&server.ask_admin("GET", "/tenants", &[])?.body).into_owned();
    assert!(tenants_json.matches("it imports WASI, which it is not given").count() == 2, "{tenants_json}");
    // Another value is none.
    tenants.configure(&section("given", "wasi = \"all\""))?;
    let checked = tenants.deployment().output(&["config", "check", "gateway.toml"])?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(!checked.status.success() && said.contains("gateway.toml:6:8: tenants.given.wasi"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_takes_no_component_over_the_limits() -> Result<()> {
    let sandboxes = sandboxes()?;
    let database = Arc::new(Sqlite::in_memory()?);
    let workspaces = |limits| {
        let builder = Workspaces::builder(database.clone(), Arc::new(Open)).sandboxes(sandboxes.clone());
        builder.limits(limits).build()
    };
    let component = sandboxes.compile(&component()?)?;
    let (given, not) = (workspaces(denied())?, workspaces(SandboxLimits::default())?);
    let refused = not.swap(component.clone()).await;
    assert!(refused.as_ref().is_err_and(|reason| reason.contains("imports WASI")), "{refused:?}");
    let small = workspaces(SandboxLimits { core_instances: 1, ..SandboxLimits::default() });
    assert!(matches!(small, Err(LoadError::Needs(_))), "the built-in component has more");
    given.swap(component).await.map_err(anyhow::Error::msg)?;
    Ok(())
}

#[test]
fn output_is_in_the_log_in_one_line_and_bounded() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let (file, log) = (deployment.folder().join("std.wasm"), deployment.folder().join("log"));
    fs::write(&file, component()?)?;
    let options = ["--log", "info", "--log-format", "json", "--wasi", "deny", "--component"];
    let mut command = deployment.server(&options);
    let server = Server::start(command.arg(&file).stderr(File::create(&log)?))?;
    let key = deployment.run(&["key", "create", &deployment.run(&["account", "create"])?])?;
    for (name, status) in [("what is empty", 201), ("much output", 201), ("a panic", 500), ("", 201)] {
        assert_eq!(server.create(&key, format!(r#"{{"name":"{name}"}}"#))?.status, status, "{name}");
    }
    assert_eq!(server.create(&key, r#"{"name":"exit"}"#)?.status, 500);
    server.signal("TERM")?;
    server.wait()?;
    let text = fs::read_to_string(&log)?;
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let wrote: Vec<_> = lines.iter().filter(|line| line["message"] == "component wrote").collect();
    let outputs: Vec<_> = wrote.iter().filter_map(|line| line["output"].as_str()).collect();
    let empty = r#""environment 0, arguments 0, input Ok(0)\nan error\nof two lines \u{1b}[31m""#;
    assert!(outputs.len() == 2 && outputs[0] == empty, "{outputs:?}");
    assert!(outputs[1].starts_with(r#""xxx"#) && (2_000..2_200).contains(&outputs[1].len()), "{}", outputs[1].len());
    let failed: Vec<_> = lines.iter().filter(|line| line["message"] == "component failed").collect();
    assert!(failed.len() == 2, "{failed:?}");
    assert!(failed[0]["cause"].as_str().is_some_and(|cause| cause.contains("the shelf is empty")), "{failed:?}");
    assert!(
        failed[1]["kind"] == "wasi" && failed[1]["cause"].as_str().is_some_and(|cause| cause.contains("wasi:cli/exit"))
    );
    Ok(())
}
