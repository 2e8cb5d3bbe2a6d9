//! Metrics: what a scrape of a server holds.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_tests::{Server, Tenants, missing, variant};

use super::PROGRAM;

/// Debian's interpreter, which finds Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// Reads a scrape with the parser of Prometheus's own client library, which is strict, and prints each sample.
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    for sample in family.samples:
        name = sample.name + json.dumps(sample.labels, sort_keys=True)
        print(json.dumps([family.type, name, sample.value]))
";

/// Samples of a scrape: type and value by name and labels.
type Samples = BTreeMap<String, (String, f64)>;

/// Returns whether the parser is installed.
fn available() -> Result<bool> {
    let found = Command::new(PYTHON).args(["-c", "import prometheus_client.openmetrics"]).output();
    match found.is_ok_and(|output| output.status.success()) {
        true => Ok(true),
        false => missing("python3-prometheus-client"),
    }
}

fn scrape(server: &Server) -> Result<Samples> {
    let answer = server.ask_admin("GET", "/metrics", &[])?;
    ensure!(answer.header("content-type") == Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let mut parser = Command::new(PYTHON).args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    parser.stdin.take().context("no stdin")?.write_all(&answer.body)?;
    let output = parser.wait_with_output()?;
    ensure!(output.status.success(), "not valid: {}", String::from_utf8_lossy(&answer.body));
    let mut samples = Samples::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let (kind, name, value): (String, String, f64) = serde_json::from_str(line).context(line.to_owned())?;
        ensure!(samples.insert(name.clone(), (kind, value)).is_none(), "{name} is there twice");
    }
    Ok(samples)
}

/// Returns a sample's value.
fn value(samples: &Samples, name: &str) -> Result<f64> {
    Ok(samples.get(name).with_context(|| format!("no {name} in {samples:#?}"))?.1)
}

#[test]
fn a_scrape_is_valid_and_says_what_the_process_the_build_and_the_components_take() -> Result<()> {
    if !available()? {
        return Ok(());
    }
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write("other.wasm", variant(b"metrics"))?;
    tenants.configure(
        "[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite::memory:\"
         [tenants.limited]\npath = \"/limited\"\ndatabase = \"sqlite::memory:\"\ncomponent = \"other.wasm\"
         limits = { concurrency = 3, running = 2, rate = 7, burst = 9 }\n",
    )?;
    let server = tenants.serve()?;
    let samples = scrape(&server)?;
    for (name, (kind, value)) in &samples {
        // 2^60 and more stands for no limit, which has no series.
        assert!(value.is_finite() && (0.0..1e18).contains(value), "{name} is {value}");
        let is_total = name.split('{').next().is_some_and(|name| name.ends_with("_total"));
        assert_eq!(kind == "counter", is_total, "{name} is a {kind}");
    }
    let version = tenants.deployment().run(&["--version"])?;
    let build = format!("workspaces_build_info{{\"version\": \"{}\"}}", version.trim_start_matches("workspaces "));
    assert_eq!(value(&samples, &build)?, 1.0);
    for (name, least) in [
        ("process_cpu_seconds_total{}", 0.0),
        ("process_start_time_seconds{}", 1.7e9),
        ("process_resident_memory_bytes{}", 1e6),
        ("process_virtual_memory_bytes{}", 1e6),
        ("process_threads{}", 2.0),
        ("process_open_fds{}", 4.0),
        ("process_max_fds{}", 64.0),
        ("workspaces_components{}", 2.0),
        // Two components of 20 KiB of WebAssembly each.
        ("workspaces_components_bytes{}", 40e3),
    ] {
        assert!(value(&samples, name)? >= least, "{name}: {:?}", samples.get(name));
    }
    let limit =
        |tenant: &str, name: &str| format!("workspaces_limit{{\"limit\": \"{name}\", \"tenant\": \"{tenant}\"}}");
    for (name, expected) in [("requests_at_once", 3.0), ("sandboxes_at_once", 2.0), ("requests_per_second", 7.0)] {
        assert_eq!(value(&samples, &limit("limited", name))?, expected);
    }
    assert!(!samples.contains_key(&limit("acme", "requests_per_second")), "{samples:#?}");
    Ok(())
}

#[test]
fn components_are_counted_once_for_the_same_bytes_and_no_more_when_they_are_gone() -> Result<()> {
    if !available()? {
        return Ok(());
    }
    let tenants = Tenants::new(PROGRAM)?;
    let section = |name: &str| {
        format!("[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite::memory:\"\ncomponent = \"{name}.wasm\"\n")
    };
    tenants.write("one.wasm", variant(b"one"))?;
    tenants.write("same.wasm", variant(b"one"))?;
    tenants.write("two.wasm", variant(b"two"))?;
    tenants.configure(&(section("one") + &section("same")))?;
    let server = tenants.serve()?;
    let sizes = || {
        let samples = scrape(&server)?;
        Ok::<_, anyhow::Error>((
            value(&samples, "workspaces_components{}")?,
            value(&samples, "workspaces_components_bytes{}")?,
        ))
    };
    let (count, bytes) = sizes()?;
    assert_eq!(count, 1.0);
    tenants.configure(&(section("one") + &section("same") + &section("two")))?;
    assert!(tenants.reload(&server)?.status.success());
    let (more, more_bytes) = sizes()?;
    assert_eq!(more, 2.0);
    // The two differ in a few bytes that are not compiled.
    assert!((1.9..2.1).contains(&(more_bytes / bytes)), "{bytes} and {more_bytes}");
    tenants.configure(&section("one"))?;
    assert!(tenants.reload(&server)?.status.success());
    assert_eq!(sizes()?, (count, bytes));
    Ok(())
}

/// Section of a tenant that serves.
const ACME: &str = "[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"\n";

/// Starts a server with the tenant acme and the tenant down, whose component is missing. Returns also acme's key.
fn beside_one_that_is_down() -> Result<(Tenants, String, Server)> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    let down = "[tenants.down]\npath = \"/down\"\ndatabase = \"sqlite:acme.db\"\ncomponent = \"down.wasm\"\n";
    tenants.configure(&format!("{ACME}{down}"))?;
    let server = tenants.serve()?;
    Ok((tenants, key, server))
}

#[test]
fn answers_of_a_tenant_that_is_down_are_counted_until_it_is_removed() -> Result<()> {
    if !available()? {
        return Ok(());
    }
    let (tenants, key, server) = beside_one_that_is_down()?;
    for _ in 0..3 {
        assert_eq!(server.create_at("/down", &key, "{}")?.status, 503);
    }
    let of_status =
        |status: u16| format!("workspaces_requests_total{{\"status\": \"{status}\", \"tenant\": \"down\"}}");
    let samples = scrape(&server)?;
    assert_eq!(value(&samples, "workspaces_tenant_up{\"tenant\": \"down\"}")?, 0.0);
    assert_eq!(value(&samples, "workspaces_tenant_up{\"tenant\": \"acme\"}")?, 1.0);
    assert_eq!(value(&samples, &of_status(503))?, 3.0);
    assert_eq!(value(&samples, "workspaces_latency_seconds_count{\"tenant\": \"down\"}")?, 3.0);
    // Served at last, it goes on with the same counters.
    tenants.write("down.wasm", variant(b"down"))?;
    assert!(tenants.reload(&server)?.status.success());
    assert_eq!(server.create_at("/down", &key, "{}")?.status, 201);
    let samples = scrape(&server)?;
    assert_eq!(value(&samples, "workspaces_tenant_up{\"tenant\": \"down\"}")?, 1.0);
    assert_eq!((value(&samples, &of_status(503))?, value(&samples, &of_status(201))?), (3.0, 1.0));
    Ok(())
}

#[test]
fn a_tenant_that_never_came_up_leaves_no_series_when_it_is_removed() -> Result<()> {
    if !available()? {
        return Ok(());
    }
    let (tenants, key, server) = beside_one_that_is_down()?;
    assert_eq!(server.create_at("/down", &key, "{}")?.status, 503);
    assert!(scrape(&server)?.keys().any(|name| name.contains("\"down\"")));
    tenants.configure(ACME)?;
    let reloaded: Value = serde_json::from_slice(&tenants.reload(&server)?.stdout)?;
    let removed = reloaded["tenants"].as_array().context("no tenants")?;
    assert!(removed.iter().any(|report| report["tenant"] == "down" && report["outcome"] == "removed"), "{reloaded}");
    let left: Vec<_> = scrape(&server)?.into_keys().filter(|name| name.contains("\"down\"")).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}
