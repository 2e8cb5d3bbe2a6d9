//! Many tenants behind one address: whose requests are whose, what a tenant may take, and how tenants
//! change while requests come.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    io::Write as _,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use serde_json::{Value, json};
use workspaces_host::COMPONENT;
use workspaces_tests::{Answer, Server, Tenants, hostile_components, trials::swaps, variant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Returns the outcome of each tenant, as `reload --json` says it.
fn outcomes(output: &Output) -> Result<Vec<(String, String)>> {
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    let tenants = answer["tenants"].as_array().context("no tenants")?;
    tenants.iter().map(|report| Ok((text(&report["tenant"])?, text(&report["outcome"])?))).collect()
}

fn outcome<'a>(tenant: &'a str, outcome: &'a str) -> (String, String) {
    (tenant.to_owned(), outcome.to_owned())
}

/// Returns the text that the administration answers with.
fn admin(server: &Server, request: &str) -> Result<String> {
    let (method, path) = request.split_once(' ').context("no path")?;
    let answer = server.ask_admin(method, path, &[])?;
    Ok(format!("HTTP/1.1 {}\n{}", answer.status, String::from_utf8(answer.body)?))
}

#[test]
fn a_tenant_has_its_host_or_path_and_its_keys_are_nobody_elses() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let (acme, globex) = (tenants.key("acme")?, tenants.key("globex")?);
    tenants.configure(
        "[tenants.acme]\nhosts = [\"acme.example\"]\ndatabase = \"sqlite:acme.db\"
         [tenants.globex]\npath = \"/globex\"\ndatabase = \"sqlite:globex.db\"",
    )?;
    let server = tenants.serve()?;
    let at_host = |key: &str, host: &str| -> Result<Answer> {
        let mut stream = server.connect()?;
        let head =
            format!("POST /api/workspaces HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nx-api-key: {key}\r\n");
        stream.write_all(format!("{head}Content-Length: 2\r\n\r\n{{}}").as_bytes())?;
        Answer::read(stream)
    };
    assert_eq!(at_host(&acme, "acme.example")?.status, 201);
    assert_eq!(at_host(&acme, "ACME.example:8080")?.status, 201);
    assert_eq!(at_host(&globex, "acme.example")?.status, 401);
    assert_eq!(at_host(&acme, "other.example")?.status, 404);
    assert_eq!(server.create_at("/globex", &globex, "{}")?.status, 201);
    assert_eq!(server.create_at("/globex", &acme, "{}")?.status, 401);
    assert_eq!(server.create_at("", &globex, "{}")?.status, 404);
    assert_eq!(server.send("GET", "/globex/api/workspaces", &[], b"")?.status, 405);
    let description = server.send("GET", "/globex/openapi.json", &[], b"")?.json()?;
    assert_eq!((&description["openapi"], &description["servers"][0]["url"]), (&json!("3.1.0"), &json!("/globex")));
    assert_eq!(server.send("GET", "/healthz", &[], b"")?.status, 200);
    assert_eq!(server.send("GET", "/readyz", &[], b"")?.json()?["ready"], 2);
    Ok(())
}

#[test]
fn a_tenant_that_does_not_load_gets_503_with_a_diff_in_the_report_and_the_others_go_on() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("good")?;
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "initial-cwd" (func)))))"#;
    tenants.write("wasi.wasm", wat::parse_str(wasi)?)?;
    tenants.write("other.wasm", wat::parse_str(wasi.replace("wasi:cli/environment@0.2.0", "acme:log/log@1.0.0"))?)?;
    tenants.write("nonsense.wasm", "nonsense")?;
    tenants.configure(
        "[tenants.good]\npath = \"/good\"\ndatabase = \"sqlite:good.db\"
         [tenants.wasi]\npath = \"/wasi\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"wasi.wasm\"
         [tenants.other]\npath = \"/other\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"other.wasm\"
         [tenants.nonsense]\npath = \"/nonsense\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"nonsense.wasm\"
         [tenants.missing]\npath = \"/missing\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"missing.wasm\"
         [tenants.nowhere]\npath = \"/nowhere\"\ndatabase = \"sqlite:no/such/folder.db\"",
    )?;
    let server = tenants.serve()?;
    assert_eq!(server.create_at("/good", &key, "{}")?.status, 201);
    for tenant in ["wasi", "other", "nonsense", "missing", "nowhere"] {
        let answer = server.create_at(&format!("/{tenant}"), &key, "{}")?;
        assert_eq!((answer.status, answer.json()?["error"].as_u64()), (503, Some(503)), "{tenant}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{tenant}");
    }
    let listed = admin(&server, "GET /tenants")?;
    for part in [
        "it imports WASI, which it is not given",
        "+ import acme:log/log@1.0.0",
        "- export recoup:workspaces/workspaces@1.0.0",
        "not a component that can be compiled",
        "missing.wasm",
        "no/such/folder.db",
    ] {
        assert!(listed.contains(part), "{listed} does not say {part}");
    }
    Ok(())
}

#[test]
fn a_component_is_tried_before_its_first_request_as_before_a_swap() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("good")?;
    let start = |body: &str| {
        let fields = format!("(start $first) (func $first {body})");
        hostile_components::Module { fields: &fields, ..hostile_components::Module::default() }.component()
    };
    let wrong = [
        ("traps", hostile_components::component("unreachable")?, "unreachable"),
        ("refuses", hostile_components::component("")?, "creates no workspace"),
        ("trap-at-start", start("unreachable")?, "unreachable"),
        ("loop-at-start", start("(call $spin)")?, "interrupt"),
        ("shape", hostile_components::other_shape()?, "mismatch"),
    ];
    let mut sections = String::from("[tenants.good]\npath = \"/good\"\ndatabase = \"sqlite:good.db\"\n");
    for (name, component, _) in &wrong {
        tenants.write(&format!("{name}.wasm"), component)?;
        sections += &format!(
            "[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"{name}.wasm\"\n"
        );
    }
    tenants.configure(&sections)?;
    let server = tenants.serve()?;
    let listed = admin(&server, "GET /tenants")?;
    for (name, _, reason) in &wrong {
        let told = listed.split("},{").find(|entry| entry.contains(&format!("\"tenant\":\"{name}\"")));
        let told = told.context("not listed")?;
        assert!(told.contains("the component is not taken") && told.contains(reason), "{name}: {told}");
        assert_eq!(server.create_at(&format!("/{name}"), &key, "{}")?.status, 503, "{name}");
    }
    assert_eq!(server.create_at("/good", &key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn a_component_that_takes_too_long_to_compile_is_given_up() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write("bomb.wasm", hostile_components::compile_bomb()?)?;
    tenants.configure(
        "compile.time = \"1s\"
         [tenants.good]\npath = \"/good\"\ndatabase = \"sqlite:good.db\"
         [tenants.bomb]\npath = \"/bomb\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"bomb.wasm\"",
    )?;
    let key = tenants.key("good")?;
    let server = tenants.serve()?;
    let listed = admin(&server, "GET /tenants")?;
    assert!(listed.contains("compile.time"), "{listed}");
    assert_eq!(server.create_at("/good", &key, "{}")?.status, 201);

    tenants.configure(
        "compile = { memory = \"64MiB\", time = \"60s\" }
         [tenants.good]\npath = \"/good\"\ndatabase = \"sqlite:good.db\"
         [tenants.bomb]\npath = \"/bomb\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"bomb.wasm\"",
    )?;
    let output = tenants.reload(&server)?;
    let said = String::from_utf8(output.stdout)?;
    assert!(said.contains("compile.memory"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_tenant_over_its_rate_gets_429_and_strangers_use_up_none_of_it() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let (key, other) = (tenants.key("acme")?, tenants.key("globex")?);
    tenants.configure(
        "[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"\nlimits = { rate = 1, burst = 3 }
         [tenants.globex]\npath = \"/globex\"\ndatabase = \"sqlite:globex.db\"",
    )?;
    let server = tenants.serve()?;
    for _ in 0..10 {
        assert_eq!(server.create_at("/acme", &other, "{}")?.status, 401);
    }
    let start = Instant::now();
    let statuses: Vec<_> =
        (0..6).map(|_| Ok(server.create_at("/acme", &key, "{}")?.status)).collect::<Result<Vec<u16>>>()?;
    // One more each second, however slow this machine is.
    let most = 3 + usize::try_from(start.elapsed().as_secs())?;
    let created = statuses.iter().filter(|status| **status == 201).count();
    assert!((3..=most).contains(&created), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 201 | 429)), "{statuses:?}");
    assert_eq!(statuses[..3], [201; 3]);
    let refused = loop {
        let answer = server.create_at("/acme", &key, "{}")?;
        if answer.status != 201 {
            break answer;
        }
    };
    let error = refused.json()?["error"].as_u64();
    assert_eq!((refused.status, refused.header("retry-after"), error), (429, Some("1"), Some(429)));
    assert_eq!(server.create_at("/globex", &other, "{}")?.status, 201);
    let metrics = admin(&server, "GET /metrics")?;
    assert!(metrics.contains(r#"workspaces_requests_total{tenant="acme",status="429"}"#), "{metrics}");
    assert!(metrics.contains(r#"workspaces_limit{tenant="acme",limit="requests_per_second"} 1"#), "{metrics}");
    Ok(())
}

#[test]
fn a_tenant_over_its_share_gets_429_while_others_are_served() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let (key, other) = (tenants.key("acme")?, tenants.key("globex")?);
    tenants.configure(
        "[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"\nlimits = { concurrency = 1, wall-clock = \"2s\" }
         [tenants.globex]\npath = \"/globex\"\ndatabase = \"sqlite:globex.db\"",
    )?;
    let server = tenants.serve()?;
    let lock = Connection::open(tenants.deployment().folder().join("acme.db"))?;
    lock.execute_batch("BEGIN EXCLUSIVE")?;
    let first = thread::scope(|scope| {
        let first = scope.spawn(|| server.create_at("/acme", &key, "{}"));
        // Until the first one has its place.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !admin(&server, "GET /metrics")?.contains("workspaces_sandboxes_waiting 1") {
            ensure!(Instant::now() < deadline, "the first request does not take its place");
        }
        let second = server.create_at("/acme", &key, "{}")?;
        assert_eq!((second.status, second.header("retry-after")), (429, Some("1")));
        // Who it is is not looked up for nothing.
        assert_eq!(server.create_at("/acme", &other, "{}")?.status, 429);
        assert_eq!(server.create_at("/globex", &other, "{}")?.status, 201);
        first.join().ok().context("panicked")?
    })?;
    // Storage was asked and never answered within the two seconds.
    assert_eq!(first.status, 500, "{first:?}");
    lock.execute_batch("ROLLBACK")?;
    assert_eq!(server.create_at("/acme", &key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn a_reload_takes_what_is_good_and_leaves_the_rest_as_it_was() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    let section = |name: &str, rest: &str| {
        format!("[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:acme.db\"\n{rest}\n")
    };
    let acme = section("acme", "component = \"acme.wasm\"");
    tenants.write("acme.wasm", COMPONENT)?;
    tenants.configure(&(acme.clone() + &section("old", "")))?;
    let server = tenants.serve()?;

    let output = tenants.reload(&server)?;
    assert!(output.status.success());
    assert_eq!(outcomes(&output)?, [outcome("acme", "unchanged"), outcome("old", "unchanged")]);

    tenants.write("acme.wasm", variant(b"1"))?;
    tenants.configure(&(acme.clone() + &section("new", "")))?;
    let output = tenants.reload(&server)?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(outcomes(&output)?, [outcome("acme", "swapped"), outcome("new", "loaded"), outcome("old", "removed")]);
    assert_eq!(server.create_at("/new", &key, "{}")?.status, 201);
    assert_eq!(server.create_at("/old", &key, "{}")?.status, 404);
    assert_eq!(server.create_at("/acme", &key, "{}")?.status, 201);

    // One that traps in the rehearsal, and one that is none.
    for wrong in [hostile_components::component("unreachable")?, b"nonsense".to_vec()] {
        tenants.write("acme.wasm", wrong)?;
        let output = tenants.reload(&server)?;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(outcomes(&output)?, [outcome("acme", "failed"), outcome("new", "unchanged")]);
        assert_eq!(server.create_at("/acme", &key, "{}")?.status, 201);
    }

    tenants.configure("[tenants.acme]\nflies = true")?;
    let output = tenants.reload(&server)?;
    let message = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("gateway.toml:3") && message.contains("flies"), "{message}");
    assert_eq!(server.create_at("/acme", &key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn a_better_component_comes_in_where_clients_take_every_place() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.write("acme.wasm", COMPONENT)?;
    tenants.configure(
        "pool = { concurrency = 1, queue = 0 }
         [tenants.acme]\npath = \"/acme\"\ncomponent = \"acme.wasm\"\ndatabase = \"sqlite:acme.db\"
         limits = { wall-clock = \"2s\" }",
    )?;
    let server = tenants.serve()?;
    let lock = Connection::open(tenants.deployment().folder().join("acme.db"))?;
    lock.execute_batch("BEGIN EXCLUSIVE")?;
    thread::scope(|scope| {
        let first = scope.spawn(|| server.create_at("/acme", &key, "{}"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !admin(&server, "GET /metrics")?.contains("workspaces_sandboxes_waiting 1") {
            ensure!(Instant::now() < deadline, "the request does not take its place");
        }
        assert!(matches!(server.create_at("/acme", &key, "{}")?.status, 429 | 503));
        tenants.write("acme.wasm", variant(b"1"))?;
        assert_eq!(outcomes(&tenants.reload(&server)?)?, [outcome("acme", "swapped")]);
        assert_eq!(first.join().ok().context("panicked")??.status, 500);
        Ok(())
    })
}

#[test]
fn sighup_and_a_watched_file_reload_too() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    let section =
        |path: &str| format!("watch = true\n[tenants.acme]\npath = \"{path}\"\ndatabase = \"sqlite:acme.db\"");
    let write = |text: String| tenants.write("gateway.toml", format!("{text}\nkey-pepper-file = \"pepper\""));
    let comes = |server: &Server, path: &str| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.create_at(path, &key, "{}")?.status != 201 {
            ensure!(Instant::now() < deadline, "{path} does not come");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    // Not watched: only the signal can bring the second.
    write(section("/one").replace("watch = true", ""))?;
    let server = tenants.serve()?;
    write(section("/two"))?;
    server.signal("HUP")?;
    comes(&server, "/two")?;
    // Watched from now on, and no signal.
    write(section("/three"))?;
    comes(&server, "/three")?;
    Ok(())
}

#[test]
fn a_component_that_fails_after_its_rehearsal_is_taken_back() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.write("acme.wasm", COMPONENT)?;
    tenants.configure("[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"\ncomponent = \"acme.wasm\"")?;
    let server = tenants.serve()?;
    tenants.write("acme.wasm", hostile_components::two_faced("unreachable")?)?;
    let output = tenants.reload(&server)?;
    assert_eq!(outcomes(&output)?, [outcome("acme", "swapped")], "{output:?}");
    let body = json!({"name": hostile_components::NAME}).to_string();
    let statuses = (0..6).map(|_| Ok(server.create_at("/acme", &key, &body)?.status)).collect::<Result<Vec<_>>>()?;
    assert_eq!(statuses, [500, 500, 500, 500, 500, 201]);
    assert!(admin(&server, "GET /metrics")?.contains(r#"workspaces_rollbacks_total{tenant="acme"} 1"#));
    Ok(())
}

#[test]
fn swaps_under_load_fail_no_request() -> Result<()> {
    let report = swaps::run(PROGRAM, 10)?;
    assert!(report.swaps == 10 && report.failed == 0 && report.created > 0, "{report:?}");
    Ok(())
}

#[test]
fn a_wrong_configuration_is_said_with_its_file_line_and_key() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let tenant = "[tenants.acme]\ndatabase = \"sqlite:acme.db\"\n";
    for (text, line, part) in [
        ("", "", "no tenant"),
        ("listen = \"nowhere\"", ":2:", "listen"),
        ("pool.memory = \"much\"", ":2:", "16MiB"),
        (&format!("{tenant}path = \"/a/\""), ":4:", "/acme"),
        (&format!("{tenant}hosts = [\"a.example:80\"]"), ":4:", "without a port"),
        (&format!("{tenant}flies = 1"), ":4:", "flies"),
        (&format!("{tenant}limits = {{ cpu = \"soon\" }}"), ":4:18: ", "\"10ms\""),
        (&format!("{tenant}limits = {{ cpu = 10 }}"), ":4:18: ", "tenants.acme.limits.cpu: expected a time"),
        (&format!("{tenant}limits = {{ cpu = \"0ms\" }}"), ":4:18: ", "above 0"),
        (&format!("{tenant}limits = {{ memroy = \"8MiB\" }}"), ":4:12: ", "did you mean memory?"),
        (&format!("{tenant}limits = {{ burst = 5 }}"), ":4:20: ", "rate = 100"),
        (&format!("{tenant}limits = {{ concurrency = 100000 }}"), ":4:26: ", "the limit of the pool"),
        (&format!("{tenant}limits = {{ concurrency = 0 }}"), ":4:26: ", "above 0"),
        (&format!("{tenant}limits = {{ workspaces = \"many\" }}"), ":4:25: ", "a whole number"),
        (&format!("{tenant}connections = 0"), ":4:15: ", "above 0"),
        ("pool.memory = 16777216", ":2:15: ", "16MiB"),
        (
            &format!("{tenant}limits = {{ memory = \"1GiB\" }}"),
            ":4:21: ",
            "limits.memory: over 16777216, the limit of the pool",
        ),
        (&format!("{tenant}key-pepper-env = \"NO_SUCH_VARIABLE\""), ":4:", "NO_SUCH_VARIABLE"),
        ("[tenants.acme]\ndatabase = \"mysql:x\"", ":3:", "sqlite:PATH"),
        ("[tenants.acme]\npath = \"/a\"", ":2:", "no database"),
        (
            &format!("{tenant}[tenants.globex]\ndatabase = \"sqlite:g.db\""),
            ":4:",
            "acme and globex are both at every host",
        ),
    ] {
        tenants.configure(text)?;
        for command in [&["config", "check", "gateway.toml"][..], &["serve", "--config", "gateway.toml"]] {
            let output = tenants.deployment().output(command)?;
            let message = String::from_utf8(output.stderr)?;
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(message.contains(&format!("gateway.toml{line}")) && message.contains(part), "{text}: {message}");
        }
    }
    tenants.configure(tenant)?;
    assert!(tenants.deployment().run(&["config", "check", "gateway.toml"])?.contains("is valid: 1 tenant"));
    Ok(())
}

#[test]
fn the_administration_reloads_for_nobodys_web_page() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.configure("[tenants.acme]\ndatabase = \"sqlite:acme.db\"")?;
    let server = tenants.serve()?;
    assert!(admin(&server, "POST /reload")?.starts_with("HTTP/1.1 403"));
    // Nothing of it is where clients come.
    for path in ["/metrics", "/tenants", "/reload"] {
        assert_eq!(server.send("GET", path, &[], b"")?.status, 404);
    }
    Ok(())
}
