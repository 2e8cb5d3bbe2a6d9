//! The restart of a server whose tenants each have a component of their own, with the cache of compiled components.
//!
//! What is compared is the first start, which compiles all of them, and the starts after it.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use workspaces_host::runtime::Digest;
use workspaces_tests::{Server, Tenants, variant_of};

use crate::{
    figures::range,
    servers::{Kind, Programs},
};

/// Number of tenants, as an operator of a small machine may have.
const TENANTS: usize = 10;

/// Configuration with what components with a language runtime need, and more.
const CONFIGURATION: &str = r#"
defaults.wasi = "deny"

[compile]
cache = "cache"
time = "10m"
memory = "2GiB"

[pool]
memory = "64MiB"
core-instances = 64
component-size = "32MiB"
compiled-size = "128MiB"

[defaults.limits]
memory = "64MiB"
core-instances = 64
cpu = "2s"
wall-clock = "10s"
"#;

/// Longest time until a component is loaded or in the cache.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Starts a server with this component for each tenant, each with other bytes, and then so many times again.
///
/// # Errors
///
/// With the server's log, where a tenant answers a create with something other than 201, and 503 before that.
pub(crate) fn measure(component: &Path, rounds: usize) -> Result<()> {
    let component = fs::read(component).with_context(|| component.display().to_string())?;
    let programs = Programs::new(false)?;
    let tenants = Tenants::new(&programs.path(Kind::Sandboxed)?)?;
    let mut configuration = CONFIGURATION.to_owned();
    let (mut keys, mut digests) = (Vec::new(), Vec::new());
    for name in (0..TENANTS).map(|number| format!("tenant-{number}")) {
        let component = variant_of(&component, name.as_bytes());
        digests.push(Digest::of(&component));
        tenants.write(&format!("{name}.wasm"), component)?;
        writeln!(configuration, "[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:{name}.db\"")?;
        writeln!(configuration, "component = \"{name}.wasm\"")?;
        keys.push((format!("/{name}"), tenants.key(&name)?));
    }
    tenants.configure(&configuration)?;
    eprintln!("the first start compiles {TENANTS} components of {} bytes", component.len());
    let (first, server) = start(&tenants, &keys)?;
    wait_for_cache(&tenants.deployment().folder().join("cache"), &digests)?;
    drop(server);
    let mut again = Vec::new();
    for round in 1..=rounds {
        eprintln!("restart {round} of {rounds}");
        again.push(start(&tenants, &keys)?.0.as_secs_f64());
    }
    let [least, median, most] = range(again);
    println!("{TENANTS} tenants, from the start of the process until each has answered a create with 201");
    println!("compiled {:.2} s", first.as_secs_f64());
    println!("cached   {median:.2} s ({least:.2}–{most:.2}), {rounds} starts");
    Ok(())
}

/// Returns the time from the start of a server until each tenant has answered a create with 201, and the server.
fn start(tenants: &Tenants, keys: &[(String, String)]) -> Result<(Duration, Server)> {
    let log = tenants.deployment().folder().join("log");
    let mut command = tenants.deployment().server(&["--config", "gateway.toml"]);
    command.stderr(File::create(&log)?);
    let start = Instant::now();
    let served = Server::start(&mut command).and_then(|server| {
        for (path, key) in keys {
            create(&server, path, key)?;
        }
        Ok(server)
    });
    let time = start.elapsed();
    let server = served.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok((time, server))
}

/// Creates a workspace, as soon as the tenant's component is loaded.
fn create(server: &Server, path: &str, key: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = server.create_at(path, key, "{}")?;
        match answer.status {
            201 => return Ok(()),
            503 if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
            _ => bail!("{path}: {answer:?}"),
        }
    }
}

/// Waits until the cache holds each component, which is written beside the answers.
fn wait_for_cache(folder: &Path, components: &[Digest]) -> Result<()> {
    let start = Instant::now();
    loop {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<Result<Vec<_>>>()?;
        if components.iter().all(|digest| names.iter().any(|name| name.starts_with(digest.as_str()))) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "the cache holds {names:?} alone");
        thread::sleep(Duration::from_millis(20));
    }
}
