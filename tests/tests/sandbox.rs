//! Components that are wrong or hostile: each gets a refusal to load, or an answer in JSON and a
//! server that carries on.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use workspaces_tests::{
    Deployment, Server,
    hostile_components::{Module, kinds, refused, trap_in_rehearsal, two_faced},
    trials::memory_residue,
};

/// The request that a two-faced component is hostile to.
const HOSTILE: &str = r#"{"name": "hostile"}"#;

/// Starts a server that runs this component, with a key for it.
fn serve(component: &[u8]) -> Result<(Deployment, Server, String)> {
    let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
    let file = deployment.folder().join("component.wasm");
    fs::write(&file, component)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let server = deployment.serve(&["--component", file.to_str().context("path")?])?;
    Ok((deployment, server, key))
}

/// Returns what the server logs of a component's trap, within the function that bears this name: the line as it
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
fn a_component_that_forgets_the_account_or_the_organization_of_a_request_creates_nothing() -> Result<()> {
    // It creates for the caller's own account, whatever it is asked, and reports that truthfully.
    let (deployment, server, key) = serve(&two_faced("(return (call $good))")?)?;
    let accounts: Vec<Value> = serde_json::from_str(&deployment.run(&["account", "list", "--json"])?)?;
    let own = accounts[0]["id"].as_str().context("no account")?;
    let [label, other] = [&["organization", "create"], &["account", "create"]].map(|command| deployment.run(command));
    let (label, other) = (label?, other?);
    for account in [own, &other] {
        deployment.run(&["organization", "add-member", &label, account])?;
    }
    let create = |more: &str| server.create(&key, format!("{{\"name\":\"hostile\"{more}}}"));
    for more in [
        format!(",\"account_id\":\"{other}\""),
        format!(",\"organization_id\":\"{label}\""),
        format!(",\"account_id\":\"{own}\",\"organization_id\":\"{label}\""),
        ",\"account_id\":\"no id\"".into(),
    ] {
        assert_eq!(create(&more)?.status, 500, "{more}");
    }
    assert_eq!(deployment.run(&["workspace", "list"])?, "");
    for more in [String::new(), format!(",\"account_id\":\"{own}\"")] {
        assert_eq!(create(&more)?.status, 201, "{more}");
    }
    assert_eq!(deployment.run(&["workspace", "list"])?.lines().count(), 2);
    Ok(())
}

#[test]
fn nothing_that_a_sandbox_leaves_is_found_by_a_later_one() -> Result<()> {
    assert_eq!(memory_residue::control()?, ["memory", "global", "table"], "it finds what is there");
    let report = memory_residue::run(2000)?;
    // However they ended, every one of them looked before.
    let expected = memory_residue::MemoryResidueReport {
        answered: 1000,
        trapped: 800,
        out_of_time: 8,
        abandoned: 192,
        found: BTreeMap::new(),
    };
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
