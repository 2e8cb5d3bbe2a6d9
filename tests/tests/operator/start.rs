//! The start: healthy tenants are served while others are still being loaded.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_tests::{Server, Tenants, hostile_components};

use super::{PROGRAM, run, wait};

/// Returns a server that accepts connections, in the system's queue, and never answers.
fn silent() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Returns the state of each tenant as `/tenants` has it: `None` for one that is served.
fn reason(server: &Server, tenant: &str) -> Result<Option<String>> {
    let listed: Value = server.ask_admin("GET", "/tenants", &[])?.json()?;
    let listed = listed.as_array().context("no list")?;
    let found = listed.iter().find(|entry| entry["tenant"] == tenant).context("not listed")?;
    Ok(found["reason"].as_str().map(str::to_owned))
}

#[test]
fn healthy_tenants_are_served_while_databases_providers_and_compilations_of_others_hang() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("healthy")?;
    let ((_database, database), (_provider, provider)) = (silent()?, silent()?);
    tenants.write("bomb.wasm", hostile_components::compile_bomb()?)?;
    let mut sections = String::from("compile.time = \"20s\"\n");
    for number in 0..10 {
        // Each server of its own, by its connections, and more than are opened at once.
        sections += &format!(
            "[tenants.database-{number}]\npath = \"/database-{number}\"\nconnections = {}
             database = \"postgres://ada@127.0.0.1:{database}/x?connect_timeout=20\"\n",
            number + 1
        );
    }
    for number in 0..5 {
        sections += &format!(
            "[tenants.provider-{number}]\npath = \"/provider-{number}\"\ndatabase = \"sqlite:healthy.db\"
             jwt = {{ keys = \"http://127.0.0.1:{provider}/jwks\", issuer = \"i\", audience = \"a\" }}\n"
        );
    }
    sections += "[tenants.bomb]\npath = \"/bomb\"\ndatabase = \"sqlite:healthy.db\"\ncomponent = \"bomb.wasm\"\n";
    sections += "[tenants.healthy]\npath = \"/healthy\"\ndatabase = \"sqlite:healthy.db\"\n";
    tenants.configure(&sections)?;
    let server = tenants.serve_soon()?;
    let deadline = Instant::now() + Duration::from_secs(15);
    for tenant in ["healthy", "provider-0", "provider-4"] {
        // The line says that one is there; the others come by themselves.
        loop {
            let answer = server.create_at(&format!("/{tenant}"), &key, "{}")?;
            if answer.status == 201 {
                break;
            }
            ensure!(answer.status == 503 && Instant::now() < deadline, "{tenant}: {answer:?}");
        }
    }
    for tenant in ["database-0", "database-9", "bomb"] {
        assert_eq!(reason(&server, tenant)?.as_deref(), Some("it is being loaded"), "{tenant}");
        let answer = server.create_at(&format!("/{tenant}"), &key, "{}")?;
        let message = answer.json()?["message"].as_str().context("no message")?.to_owned();
        assert!(answer.status == 503 && message.contains("is being loaded"), "{tenant}: {answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{tenant}");
    }
    assert_eq!(server.send("GET", "/readyz", &[], b"")?.status, 200);
    let metrics = String::from_utf8(server.ask_admin("GET", "/metrics", &[])?.body)?;
    assert!(metrics.contains("workspaces_tenant_up{tenant=\"healthy\"} 1"), "{metrics}");
    assert!(metrics.contains("workspaces_tenant_up{tenant=\"bomb\"} 0"), "{metrics}");
    let start = Instant::now();
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_signal_ends_a_start_in_which_no_tenant_is_there_yet() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    for signal in ["TERM", "INT"] {
        let (database, port) = silent()?;
        let section = |name: &str| {
            format!(
                "[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"postgres://ada@127.0.0.1:{port}/{name}?connect_timeout=60\"\n"
            )
        };
        tenants.configure(&(section("a") + &section("b")))?;
        let mut child = tenants
            .deployment()
            .command(&["serve", "--listen", "127.0.0.1:0", "--config", "gateway.toml"])
            .stdout(Stdio::null())
            .spawn()?;
        let _held = database.accept()?;
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status()?;
        ensure!(sent.success(), "kill failed");
        assert_eq!(wait(&mut child)?, Some(0), "{signal}");
    }
    Ok(())
}

#[test]
fn where_every_tenant_fails_the_program_ends_with_each_reason() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.configure(
        "[tenants.a]\npath = \"/a\"\ndatabase = \"sqlite:a.db\"\ncomponent = \"missing-a.wasm\"
         [tenants.b]\npath = \"/b\"\ndatabase = \"sqlite:no/such/folder.db\"",
    )?;
    let (code, said) =
        run(&mut tenants.deployment().command(&["serve", "--listen", "127.0.0.1:0", "--config", "gateway.toml"]))?;
    let parts = ["no tenant could be loaded", "missing-a.wasm", "no/such/folder.db"];
    assert!(code == Some(1) && parts.iter().all(|part| said.contains(part)), "{code:?} {said}");
    Ok(())
}

#[test]
fn a_component_that_can_not_be_compiled_is_tried_again_only_under_other_limits() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write("bomb.wasm", hostile_components::compile_bomb()?)?;
    let configure = |memory: &str| {
        tenants.configure(&format!(
            "compile = {{ memory = \"{memory}\", time = \"60s\" }}
             [tenants.good]\npath = \"/good\"\ndatabase = \"sqlite:good.db\"
             [tenants.bomb]\npath = \"/bomb\"\ndatabase = \"sqlite:good.db\"\ncomponent = \"bomb.wasm\""
        ))
    };
    configure("64MiB")?;
    let server = tenants.serve()?;
    let first = reason(&server, "bomb")?.context("it was loaded")?;
    assert!(first.contains("compile.memory") && !first.contains("as found before"), "{first}");
    for (memory, again) in [("64MiB", false), ("65MiB", true), ("65MiB", false)] {
        configure(memory)?;
        let said = String::from_utf8(tenants.reload(&server)?.stdout)?;
        assert!(said.contains("compile.memory") && said.contains("as found before") != again, "{memory}: {said}");
    }
    Ok(())
}

#[test]
fn a_tenant_that_hangs_on_reload_holds_the_others_back_no_longer_than_its_own_timeout() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("good")?;
    let (_database, port) = silent()?;
    let good = "[tenants.good]\npath = \"/good\"\ndatabase = \"sqlite:good.db\"\n";
    tenants.configure(good)?;
    let server = tenants.serve()?;
    let mut sections = good.replace("/good", "/better");
    for name in ["a", "b", "c"] {
        sections += &format!(
            "[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"postgres://ada@127.0.0.1:{port}/{name}?connect_timeout=3\"\n"
        );
    }
    tenants.configure(&sections)?;
    let start = Instant::now();
    let output = tenants.reload(&server)?;
    // One after the other they would take 9 s at least.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?} {output:?}", start.elapsed());
    assert_eq!(server.create_at("/better", &key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn what_counted_for_a_tenant_goes_with_it_and_no_limit_is_no_number() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    let section = |name: &str| format!("[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:acme.db\"\n");
    tenants.configure(&(section("stays") + &section("goes")))?;
    let server = tenants.serve()?;
    let metrics = || Ok::<_, anyhow::Error>(String::from_utf8(server.ask_admin("GET", "/metrics", &[])?.body)?);
    for tenant in ["stays", "goes"] {
        assert_eq!(server.create_at(&format!("/{tenant}"), &key, "{}")?.status, 201);
        assert_eq!(server.create_at(&format!("/{tenant}"), "no key", "{}")?.status, 401);
    }
    let before = metrics()?;
    assert!(before.contains("tenant=\"goes\",status=\"401\""), "{before}");
    assert!(!before.contains("9223372036854775807") && !before.contains("requests_per_second"), "{before}");
    tenants.configure(&section("stays"))?;
    assert!(tenants.reload(&server)?.status.success());
    let after = metrics()?;
    assert!(!after.contains("\"goes\"") && after.contains("tenant=\"stays\",status=\"401\""), "{after}");
    // Back again, it counts from the start.
    tenants.configure(&(section("stays") + &section("goes")))?;
    assert!(tenants.reload(&server)?.status.success());
    assert_eq!(server.create_at("/goes", &key, "{}")?.status, 201);
    let back = metrics()?;
    assert!(back.contains("workspaces_requests_total{tenant=\"goes\",status=\"201\"} 1"), "{back}");
    Ok(())
}
