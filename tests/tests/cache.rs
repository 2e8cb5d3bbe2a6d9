//! The cache of compiled components.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs::{self, File, Permissions},
    io::{ErrorKind, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use workspaces_host::{COMPONENT, runtime::Digest};
use workspaces_tests::{Server, Tenants, variant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Time in which nothing is compiled.
const NO_TIME: &str = "1ms";

/// Time in which everything is.
const TIME: &str = "60s";

/// A tenant with a component in a file, and a cache.
struct Scene {
    tenants: Tenants,
    key: String,
}

impl Scene {
    fn new() -> Result<Self> {
        let tenants = Tenants::new(PROGRAM)?;
        let key = tenants.key("acme")?;
        Ok(Self { tenants, key })
    }

    /// Starts a server with a time for the compiler, which has to serve.
    fn serve(&self, component: Option<&[u8]>, time: &str, further: &str) -> Result<Server> {
        let server = self.start(component, time, further)?;
        let answer = server.create(&self.key, "{}")?;
        ensure!(answer.status == 201, "{answer:?}");
        Ok(server)
    }

    /// Serves a component until the cache holds just these, and returns their files.
    fn fill(&self, component: Option<&[u8]>, further: &str, held: &[&[u8]]) -> Result<Vec<PathBuf>> {
        // A server that is killed may not have written yet.
        let _server = self.serve(component, TIME, further)?;
        self.wait_for(held)
    }

    fn start(&self, component: Option<&[u8]>, time: &str, further: &str) -> Result<Server> {
        let file = component.map_or("", |_| "component = \"component.wasm\"");
        if let Some(component) = component {
            self.tenants.write("component.wasm", component)?;
        }
        self.tenants.configure(&format!(
            "compile.time = \"{time}\"\ncompile.cache = \"cache\"\n{further}\n[tenants.acme]\ndatabase = \"sqlite:acme.db\"\n{file}\n"
        ))?;
        let mut command = self.tenants.deployment().server(&["--config", "gateway.toml"]);
        Server::start(command.stderr(File::create(self.path("log"))?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tenants.deployment().folder().join(name)
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("log"))?)
    }

    /// Returns the files of components.
    fn cached(&self) -> Result<Vec<PathBuf>> {
        let files = fs::read_dir(self.path("cache"))?.map(|entry| Ok(entry?.path()));
        let mut files = files.collect::<Result<Vec<_>>>()?;
        files.retain(|file| !file.ends_with("key"));
        files.sort();
        Ok(files)
    }

    /// Waits until the cache holds just these components, which it does beside the answers.
    fn wait_for(&self, components: &[&[u8]]) -> Result<Vec<PathBuf>> {
        let digests: Vec<_> = components.iter().map(|component| Digest::of(component)).collect();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let files = self.cached()?;
            let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
            let is_there = |digest: &Digest| names.iter().any(|name| name.starts_with(digest.as_str()));
            if names.len() == digests.len() && digests.iter().all(is_there) {
                return Ok(files);
            }
            ensure!(Instant::now() < end, "the cache holds {names:?}, not {digests:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_component_is_compiled_once_and_then_read_from_the_cache() -> Result<()> {
    let (scene, component) = (Scene::new()?, variant(b"one"));
    let uncached = scene.start(Some(&component), NO_TIME, "");
    ensure!(uncached.is_err(), "it is compiled in no time");
    ensure!(scene.log()?.contains("compile.time"), "{}", scene.log()?);
    scene.fill(Some(&component), "", &[&component])?;
    for _ in 0..2 {
        let server = scene.serve(Some(&component), NO_TIME, "")?;
        assert_eq!(scene.log()?, "");
        require_sealed(&server)?;
    }
    Ok(())
}

/// Checks that the server runs code of files in memory that even this user can't change.
fn require_sealed(server: &Server) -> Result<()> {
    let process = Path::new("/proc").join(server.id().to_string());
    let maps = fs::read_to_string(process.join("maps"))?;
    let is_code = |line: &str| line.contains("/memfd:component") && line.contains(" r-xp ");
    ensure!(maps.lines().any(is_code), "no code is mapped of a file in memory: {maps}");
    let mut sealed = 0;
    for entry in fs::read_dir(process.join("fd"))? {
        let path = entry?.path();
        let is_copy = fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:component"));
        if is_copy {
            let written = File::options().write(true).open(path)?.write_all(b"\0");
            ensure!(written.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied), "it can be changed");
            sealed += 1;
        }
    }
    ensure!(sealed > 0, "no file in memory is open");
    Ok(())
}

#[test]
fn the_built_in_component_is_read_from_the_cache_and_not_where_it_was_changed() -> Result<()> {
    let scene = Scene::new()?;
    let file = scene.fill(None, "", &[COMPONENT])?.remove(0);
    let (code, long_ago) = (fs::read(&file)?, std::time::SystemTime::UNIX_EPOCH);
    File::options().append(true).open(&file)?.set_modified(long_ago)?;
    drop(scene.serve(None, TIME, "")?);
    // Its use was written down, which shows that it was used.
    ensure!(fs::metadata(&file)?.modified()? > long_ago && scene.log()?.is_empty(), "{}", scene.log()?);
    fs::write(&file, [&code[..100], &[code[100] ^ 1], &code[101..]].concat())?;
    drop(scene.serve(None, TIME, "")?);
    ensure!(scene.log()?.contains("compiled again"), "{}", scene.log()?);
    Ok(())
}

#[test]
fn a_cached_component_is_compiled_again_unless_each_byte_is_what_this_host_wrote_for_it() -> Result<()> {
    let (scene, component, other) = (Scene::new()?, variant(b"one"), variant(b"two"));
    let of_other = fs::read(&scene.fill(Some(&other), "", &[&other])?[0])?;
    let files = scene.fill(Some(&component), "", &[&component, &other])?;
    let digest = Digest::of(&component);
    let is_its = |file: &&PathBuf| file.to_string_lossy().contains(digest.as_str());
    let file = files.iter().find(is_its).context("no file")?;
    let code = fs::read(file)?;

    let elsewhere = Scene::new()?;
    let of_another_key = fs::read(&elsewhere.fill(Some(&component), "", &[&component])?[0])?;
    ensure!(of_another_key.len() == code.len() && of_another_key != code, "both caches have one key");

    let flipped = |at: usize| {
        let mut code = code.clone();
        code[at] ^= 0x80;
        code
    };
    for (what, changed) in [
        ("the first bit of the code", flipped(0)),
        ("a bit of its last byte", flipped(code.len() - 33)),
        ("a bit of the tag", flipped(code.len() - 1)),
        ("cut off", code[..code.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("longer", [&*code, b"\0"].concat()),
        ("another component's", of_other),
        ("another host's", of_another_key),
    ] {
        fs::write(file, &changed)?;
        let _server = scene.serve(Some(&component), TIME, "").with_context(|| what)?;
        let log = scene.log()?;
        ensure!(log.lines().count() == 1 && log.contains("compiled again"), "{what}: {log}");
        let end = Instant::now() + Duration::from_secs(60);
        while fs::read(file)? != code {
            ensure!(Instant::now() < end, "{what}: it was not written anew");
            thread::sleep(Duration::from_millis(10));
        }
    }
    drop(scene.serve(Some(&component), NO_TIME, "")?);
    Ok(())
}

#[test]
fn the_cache_is_held_to_its_size_and_forgets_what_was_not_used_for_longest() -> Result<()> {
    let scene = Scene::new()?;
    let components = [b"0", b"1", b"2", b"3"].map(|text| variant(text));
    let bytes = fs::metadata(&scene.fill(Some(&components[0]), "", &[&components[0]])?[0])?.len();
    // Room for two and a half.
    let size = format!("compile.cache-size = \"{}B\"", bytes * 5 / 2);
    scene.fill(Some(&components[1]), &size, &[&components[0], &components[1]])?;
    // The first is used once more.
    drop(scene.serve(Some(&components[0]), NO_TIME, &size)?);
    scene.fill(Some(&components[2]), &size, &[&components[0], &components[2]])?;
    // What is larger than all of it is not kept.
    scene.fill(Some(&components[3]), "compile.cache-size = \"1KiB\"", &[&components[0], &components[2]])?;
    Ok(())
}

#[test]
fn several_hosts_share_a_cache_from_the_start() -> Result<()> {
    let (scene, component) = (Scene::new()?, variant(b"one"));
    drop(scene.start(Some(&component), NO_TIME, "").err().context("it is compiled in no time")?);
    fs::remove_dir_all(scene.path("cache"))?;
    let text = fs::read_to_string(scene.path("gateway.toml"))?.replace(NO_TIME, TIME);
    fs::write(scene.path("gateway.toml"), text)?;
    let hosts = thread::scope(|scope| {
        let start = || {
            let mut command = scene.tenants.deployment().server(&["--config", "gateway.toml"]);
            let server = Server::start(&mut command)?;
            let answer = server.create(&scene.key, "{}")?;
            ensure!(answer.status == 201, "{answer:?}");
            Ok(server)
        };
        let hosts = [(); 4].map(|()| scope.spawn(start));
        let hosts = hosts.into_iter().map(|host| host.join().map_err(|_| anyhow::anyhow!("panicked"))?);
        hosts.collect::<Result<Vec<_>>>()
    })?;
    scene.wait_for(&[&component])?;
    drop(hosts);
    drop(scene.serve(Some(&component), NO_TIME, "")?);
    Ok(())
}

#[test]
fn a_cache_that_others_can_write_or_whose_key_they_can_read_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    drop(scene.serve(None, TIME, "")?);
    for (path, mode, remedy) in [("cache", 0o770, "chmod go-w"), ("cache/key", 0o640, "remove the cache")] {
        let path = scene.path(path);
        let before = fs::metadata(&path)?.permissions();
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        ensure!(scene.start(None, TIME, "").is_err(), "{}", path.display());
        let log = scene.log()?;
        ensure!(log.contains("can't use the component cache") && log.contains(remedy), "{log}");
        fs::set_permissions(&path, before)?;
    }
    fs::write(scene.path("cache/key"), "short")?;
    ensure!(scene.start(None, TIME, "").is_err() && scene.log()?.contains("remove it"), "{}", scene.log()?);
    Ok(())
}
