//! What a component that is wrong or hostile gets: a refusal to load, or an answer in JSON and a
//! server that carries on.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest, Share, Workspaces,
    auth::{Auth, Caller, Credential, Denial, Grant},
    runtime::{Error, Limits, Pool, Sandboxes},
    storage::sqlite::Sqlite,
};
use workspaces_tests::{
    Deployment, Server,
    hostile::{Module, component, kinds, refused, trap_in_rehearsal, two_faced},
    trials::canary,
};

/// The request that a two-faced component is hostile to.
const HOSTILE: &str = r#"{"name": "hostile"}"#;

/// A server that runs this component, with a key for it.
fn serve(component: &[u8]) -> Result<(Deployment, Server, String)> {
    let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
    let file = deployment.folder().join("component.wasm");
    fs::write(&file, component)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let server = deployment.serve(&["--component", file.to_str().context("path")?])?;
    Ok((deployment, server, key))
}

/// What the server logs of a component's trap, within the function that bears this name: the line as it
/// is, and the cause that it gives.
fn logged(name: &str, format: &str) -> Result<(String, String)> {
    let quoted: String = name.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let (fields, operation) = (format!("(func $\"{quoted}\" unreachable)"), format!("(call $\"{quoted}\")"));
    let module = Module { fields: &fields, operation: &operation, ..Module::default() };
    let (deployment, server, key) = serve(&module.two_faced()?)?;
    drop(server);
    let (component, log) = (deployment.folder().join("component.wasm"), deployment.folder().join("log"));
    let mut command = deployment.server(&["--log-format", format, "--component", component.to_str().context("path")?]);
    let server = Server::start(command.stderr(File::create(&log)?))?;
    assert_eq!(server.create(&key, HOSTILE)?.status, 500);
    // The log is written beside the answers, and to its end when the server stops.
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    let text = fs::read_to_string(log)?;
    let [line] = text.lines().collect::<Vec<_>>()[..] else { anyhow::bail!("not one line: {text:?}") };
    let cause = match format {
        "json" => serde_json::from_str::<Value>(line)?["cause"].as_str().context("no cause")?.to_owned(),
        _ => line.split_once(" cause=").context("no cause")?.1.to_owned(),
    };
    Ok((line.to_owned(), cause))
}

/// Runs the component three times: every answer is this one, and names nothing internal. Returns how
/// many workspaces it made.
fn assert_answers(body: &str, status: u16, message: &str) -> Result<usize> {
    let (deployment, server, key) = serve(&two_faced(body)?)?;
    for _ in 0..3 {
        let answer = server.create(&key, HOSTILE)?;
        assert_eq!((answer.status, answer.json()?), (status, json!({"error": status, "message": message})), "{body}");
        assert_eq!(answer.header("retry-after"), (status == 503).then_some("1"));
    }
    assert_eq!(server.send("GET", "/healthz", &[], b"")?.status, 200);
    Ok(deployment.run(&["workspace", "list"])?.lines().count())
}

const FAILED: &str = "The server failed: try again later, and report the x-request-id if it goes on";
const NOT_KNOWN: &str = "It is not known whether the workspace was created";
const TRY_LATER: &str = "The service can't answer now: try again later";

#[test]
fn a_trap_is_500() -> Result<()> {
    assert_eq!(assert_answers("unreachable", 500, FAILED)?, 0);
    Ok(())
}

#[test]
fn an_endless_loop_runs_out_of_time() -> Result<()> {
    assert_eq!(assert_answers("(call $spin)", 503, TRY_LATER)?, 0);
    Ok(())
}

/// Takes its time, and then denies.
struct Slow(Duration);

#[async_trait::async_trait]
impl Auth for Slow {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Err(Denial::Unauthenticated("no credential is valid here"))
    }

    async fn authorize(&self, _: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        tokio::time::sleep(self.0).await;
        Err(Denial::AccountForbidden)
    }
}

fn slow(component: &[u8], wait: Duration, limits: Limits, pool: Pool) -> Result<Workspaces> {
    let builder = Workspaces::builder(Arc::new(Sqlite::in_memory()?), Arc::new(Slow(wait)));
    Ok(builder.component(component).limits(limits).sandboxes(Sandboxes::new(pool)?).build()?)
}

/// How a component fares with a slow auth, and how long it takes.
async fn call_with_slow_auth(body: &str, wait: Duration, limits: Limits) -> Result<(Result<(), Error>, Duration)> {
    let workspaces = slow(&component(body)?, wait, limits, Pool::default())?;
    let start = Instant::now();
    let answer =
        workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None).await;
    Ok((answer.map(drop), start.elapsed()))
}

#[tokio::test]
async fn waiting_for_the_host_is_not_on_the_components_account_nor_to_its_credit() -> Result<()> {
    const WAIT: Duration = Duration::from_secs(2);
    // The second call is where the clock is looked at after the first one's wait.
    let (answer, _) = call_with_slow_auth("(drop (call $grant)) (drop (call $grant))", WAIT, Limits::default()).await?;
    assert!(matches!(answer, Err(Error::InvalidRequest(_))), "{answer:?}");
    let (answer, elapsed) = call_with_slow_auth("(drop (call $grant)) (call $spin)", WAIT, Limits::default()).await?;
    assert!(matches!(answer, Err(Error::OutOfTime(_))), "{answer:?}");
    // With its wait to its credit it would spin for as long again.
    assert!(elapsed < WAIT * 2, "{elapsed:?}");
    Ok(())
}

#[tokio::test]
async fn a_wait_for_the_host_ends_with_the_wall_clock() -> Result<()> {
    let limits = Limits { wall_clock: Duration::from_millis(50), ..Limits::default() };
    let (answer, _) = call_with_slow_auth("(drop (call $grant))", Duration::from_secs(3600), limits).await?;
    assert!(matches!(answer, Err(Error::OutOfTime(_))), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn requests_over_a_tenants_sandboxes_that_run_wait_and_are_refused() -> Result<()> {
    let pool = Pool { admission_wait: Duration::from_millis(50), ..Pool::default() };
    let builder = Workspaces::builder(Arc::new(Sqlite::in_memory()?), Arc::new(Slow(Duration::ZERO)))
        .component(component("(call $spin)")?)
        .limits(Limits { cpu: Duration::from_secs(1), ..Limits::default() })
        .share(Share { running: 1, ..Share::default() })
        .sandboxes(Sandboxes::new(pool)?);
    let workspaces = builder.build()?;
    let call = || workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None);
    let (first, second) = tokio::join!(call(), call());
    assert!(matches!(first, Err(Error::OutOfTime(_))), "{first:?}");
    assert!(matches!(second, Err(Error::Overloaded)), "{second:?}");
    Ok(())
}

#[tokio::test]
async fn sandboxes_that_wait_for_their_host_let_others_run() -> Result<()> {
    let pool = Pool { concurrency: 1, queue: 7, admission_wait: Duration::from_millis(300), ..Pool::default() };
    let workspaces = slow(&component("(drop (call $grant))")?, Duration::from_secs(1), Limits::default(), pool)?;
    let call = || workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None);
    let (one, two, three, four) = tokio::join!(call(), call(), call(), call());
    for answer in [one, two, three, four] {
        assert!(matches!(answer, Err(Error::InvalidRequest(_))), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn requests_over_the_queue_are_refused_at_once() -> Result<()> {
    let hour = Duration::from_secs(3600);
    let limits = Limits { wall_clock: hour, ..Limits::default() };
    let pool = Pool { concurrency: 1, queue: 1, admission_wait: hour, ..Pool::default() };
    let wait = Duration::from_millis(200);
    let workspaces = slow(&component("(drop (call $grant))")?, wait, limits, pool)?;
    let call = || workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None);
    let third = async {
        // The two before it have been polled once by then.
        tokio::task::yield_now().await;
        (call().await, Instant::now())
    };
    let second = async { (call().await, Instant::now()) };
    let (first, (second, served), (third, refused)) = tokio::join!(call(), second, third);
    assert!(matches!(first, Err(Error::InvalidRequest(_))), "{first:?}");
    assert!(matches!(second, Err(Error::InvalidRequest(_))), "one may wait: {second:?}");
    assert!(matches!(third, Err(Error::Overloaded)) && refused < served, "{third:?}");
    Ok(())
}

#[test]
fn the_names_of_a_components_functions_are_escaped_in_the_log() -> Result<()> {
    let name = "a\nb\r\u{1b}[31mc\" status=201 \u{7}\u{7f}\u{9b}2J\u{2028}\u{202e}d";
    for format in ["human", "json"] {
        let (line, cause) = logged(name, format)?;
        let plain = |character: char| !character.is_control() && !matches!(character, '\u{2028}' | '\u{202e}');
        assert!(line.chars().all(plain), "{line:?}");
        match format {
            "json" => assert!(cause.contains(name), "{cause:?}"),
            _ => assert!(cause.contains(r#"a\nb\r\u{1b}[31mc\" status=201 "#), "{cause:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_long_function_name_is_cut_in_the_log_and_the_cause_stays() -> Result<()> {
    for format in ["human", "json"] {
        let (line, cause) = logged(&format!("begin{}end", "x".repeat(50_000)), format)?;
        assert!(cause.contains("unreachable") && cause.contains("bytes left out"), "{cause}");
        assert!(cause.contains("in beginx") && cause.contains("xend"), "{cause}");
        assert!(line.len() < 1 << 10, "{}", line.len());
    }
    Ok(())
}

#[test]
fn endless_recursion_runs_out_of_stack() -> Result<()> {
    assert_eq!(assert_answers("(call $recurse)", 500, FAILED)?, 0);
    Ok(())
}

#[test]
fn memory_grows_to_its_limit_and_no_further() -> Result<()> {
    // 2 pages are there; 254 more make 16 MiB.
    let grow = |pages| format!("(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable))");
    assert_answers(&grow(254), 400, "")?;
    assert_answers(&grow(255), 500, FAILED)?;
    Ok(())
}

#[test]
fn handles_are_counted() -> Result<()> {
    let take = |grants| {
        format!(
            "(local $n i32)
             (loop $more
                (drop (call $grant))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const {grants}))))"
        )
    };
    assert_answers(&take(16), 400, "")?;
    assert_answers(&take(17), 500, FAILED)?;
    Ok(())
}

#[test]
fn a_host_call_copies_only_so_much() -> Result<()> {
    let pass = |bytes| {
        format!(
            "(drop (memory.grow (i32.const 64)))
             (call $create (call $grant) (i32.const 65536) (i32.const {bytes}) (i32.const 1048))"
        )
    };
    // NULs: no name, so storage refuses what it is shown.
    assert_answers(&pass(1 << 19), 400, "")?;
    assert_answers(&pass((1 << 20) + 1), 500, FAILED)?;
    Ok(())
}

#[test]
fn a_forged_grant_traps() -> Result<()> {
    assert_eq!(assert_answers("(drop (call $store (i32.const 77)))", 500, FAILED)?, 0);
    Ok(())
}

#[test]
fn a_request_makes_one_workspace_at_most_and_an_error_after_it_is_a_fault() -> Result<()> {
    let twice = "(local $grant i32)
        (local.set $grant (call $grant))
        (if (call $store (local.get $grant)) (then (call $spin)))
        (if (i32.eqz (call $store (local.get $grant))) (then (call $spin)))
        (if (i32.eqz (call $store (call $grant))) (then (call $spin)))";
    // One for each of the three requests, and none of them is reported as refused.
    assert_eq!(assert_answers(twice, 500, NOT_KNOWN)?, 3);
    Ok(())
}

#[test]
fn no_failure_after_a_write_says_that_nothing_was_created() -> Result<()> {
    for failure in ["unreachable", "(call $spin)"] {
        let body = format!("(if (call $store (call $grant)) (then (call $recurse))) {failure}");
        assert_eq!(assert_answers(&body, 500, NOT_KNOWN)?, 3, "{failure}");
    }
    Ok(())
}

#[test]
fn a_workspace_that_storage_did_not_create_is_not_reported() -> Result<()> {
    let lie = "(i32.store8 (i32.const 512) (i32.const 0)) (return (i32.const 512))";
    assert_eq!(assert_answers(lie, 500, FAILED)?, 0);
    Ok(())
}

/// Processor time that the server spends at most on two calls, which have 20 ms in their sandboxes; this
/// build is not optimized.
const MOST_TIME: Duration = Duration::from_millis(500);

/// Memory that the server takes at most for two calls, in bytes: a sandbox has 16 MiB.
const MOST_MEMORY: u64 = 48 << 20;

#[test]
fn every_kind_of_hostile_component_is_answered_for_and_leaves_the_server_well() -> Result<()> {
    for kind in kinds()? {
        let (deployment, server, key) = serve(&kind.component)?;
        let (time, memory) = (server.processor_time()?, server.peak_memory()?);
        for _ in 0..2 {
            let answer = server.create(&key, HOSTILE)?;
            let error = answer.json()?["error"].as_u64();
            assert_eq!(error, Some(answer.status.into()), "{}", kind.name);
            assert!(kind.statuses.contains(&answer.status), "{}: {answer:?}", kind.name);
        }
        let (time, memory) = (server.processor_time()? - time, server.peak_memory()? - memory);
        assert!(time < MOST_TIME && memory < MOST_MEMORY, "{} takes {time:?} and {memory} bytes", kind.name);
        assert_eq!(server.send("GET", "/healthz", &[], b"")?.status, 200, "{}", kind.name);
        let created = deployment.run(&["workspace", "list"])?.lines().count();
        assert_eq!(created as u64, kind.creates * 2, "{}", kind.name);
    }
    Ok(())
}

#[test]
fn nothing_that_a_sandbox_leaves_is_found_by_a_later_one() -> Result<()> {
    assert_eq!(canary::control()?, ["memory", "global", "table"], "it finds what is there");
    let report = canary::run(2000)?;
    // However they ended, every one of them looked before.
    let expected =
        canary::Report { answered: 1000, trapped: 800, out_of_time: 8, abandoned: 192, found: BTreeMap::new() };
    assert_eq!(report, expected);
    Ok(())
}

#[test]
fn what_is_not_a_component_of_the_world_or_over_the_limits_is_refused_at_start() -> Result<()> {
    for kind in refused()? {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let file = deployment.folder().join("component.wasm");
        fs::write(&file, kind.component)?;
        let output =
            deployment.output(&["serve", "--listen", "127.0.0.1:0", "--component", file.to_str().context("path")?])?;
        let message = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{}: {message}", kind.name);
        assert!(message.len() < MOST_SAID, "{}: {}", kind.name, message.len());
        assert!(message.contains(kind.message) && message.contains("component.wasm"), "{}: {message}", kind.name);
    }
    Ok(())
}

#[test]
fn a_trap_in_the_rehearsal_is_told_within_a_limit() -> Result<()> {
    for component in trap_in_rehearsal()? {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let file = deployment.folder().join("component.wasm");
        fs::write(&file, component)?;
        let output =
            deployment.output(&["serve", "--listen", "127.0.0.1:0", "--component", file.to_str().context("path")?])?;
        let message = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("unreachable") && message.contains("bytes left out"), "{message}");
        assert!(message.len() < MOST_SAID, "{}", message.len());
    }
    Ok(())
}

/// Bytes that the program says at most of a component that it refuses.
const MOST_SAID: usize = 12 << 10;
