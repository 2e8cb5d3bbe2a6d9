//! Components that are pulled from a registry: Debian's `docker-registry`.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use workspaces_host::{COMPONENT, runtime::Digest};
use workspaces_tests::{Process, Server, Tenants, installed, minisign::Key, variant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Media type of a component's layer.
const WASM: &str = "application/wasm";

/// User and password of the registry, as in HTTP and as bcrypt has them.
const LOGIN: &str = "ada:a secret";
const LOGIN_BASE64: &str = "YWRhOmEgc2VjcmV0";
const LOGIN_BCRYPT: &str = "ada:$2b$04$sTF0/A0A8MmAnaOSL0C32eMq0jh1F1l4nAyne5ViwQZdNL1KPFEyS\n";

/// Running registry that wants a login.
struct Registry {
    folder: TempDir,
    address: String,
    process: Process,
}

impl Registry {
    fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let path = folder.path().display();
        fs::write(folder.path().join("htpasswd"), LOGIN_BCRYPT)?;
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {path}/htpasswd}}}}");
        let configuration = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n{auth}\n"
        );
        fs::write(folder.path().join("config.yml"), configuration)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml"));
        let process = Process::launch(&mut command, folder.path().join("log"), "listening on ")?.context("no port")?;
        let logged = process.logged();
        let address = logged.split_once("listening on ").and_then(|(_, after)| after.split(['"', ' ']).next());
        let address = address.context("no address")?.to_owned();
        Ok(Self { folder, address, process })
    }

    /// Sends a request, and returns the value of a header of its answer.
    fn send(&self, arguments: &[&str], header: &str) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--user", LOGIN, "--output", "/dev/null"]);
        let output = command.args(["--write-out", &format!("%header{{{header}}}")]).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Pushes the content of a layer, and returns its descriptor.
    fn blob(&self, media_type: &str, title: &str, content: &[u8]) -> Result<Value> {
        let (file, digest) = (self.folder.path().join("blob"), format!("sha256:{}", Digest::of(content)));
        fs::write(&file, content)?;
        let uploads = format!("http://{}/v2/acme/workspaces/blobs/uploads/", self.address);
        let place = self.send(&["--request", "POST", &uploads], "location")?;
        let content_type = ["--header", "Content-Type: application/octet-stream", "--data-binary"];
        let (body, place) = (format!("@{}", file.display()), format!("{place}&digest={digest}"));
        self.send(&[&["--request", "PUT"], &content_type[..], &[&body, &place]].concat(), "location")?;
        let annotations = json!({ "org.opencontainers.image.title": title });
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": content.len(), "annotations": annotations }))
    }

    /// Pushes an image of these layers under a tag.
    fn push(&self, tag: &str, layers: &[Value]) -> Result<()> {
        let config = self.blob("application/vnd.wasm.config.v0+json", "config", b"{}")?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let file = self.folder.path().join("manifest");
        fs::write(&file, manifest.to_string())?;
        let to = format!("http://{}/v2/acme/workspaces/manifests/{tag}", self.address);
        let (header, body) = (format!("Content-Type: {media_type}"), format!("@{}", file.display()));
        self.send(&["--request", "PUT", "--header", &header, "--data-binary", &body, &to], "location")?;
        Ok(())
    }

    /// Pushes a component without a signature.
    fn push_component(&self, tag: &str, component: &[u8]) -> Result<()> {
        self.push(tag, &[self.blob(WASM, "component.wasm", component)?])
    }

    /// Returns the image of a tag.
    fn image(&self, tag: &str) -> String {
        format!("{}/acme/workspaces:{tag}", self.address)
    }

    /// Returns the file of a layer.
    fn file_of(&self, content: &[u8]) -> PathBuf {
        let digest = Digest::of(content).to_string();
        self.folder.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{digest}/data", &digest[..2]))
    }
}

/// A gateway whose tenant has its component from a registry.
struct Scene {
    registry: Registry,
    tenants: Tenants,
    key: String,
}

impl Scene {
    /// `None` where a program is missing.
    fn new() -> Result<Option<Self>> {
        if !installed(&["docker-registry"], "docker-registry")? || !installed(&["curl"], "curl")? {
            return Ok(None);
        }
        let (registry, tenants) = (Registry::start()?, Tenants::new(PROGRAM)?);
        let auths = json!({ "auths": { &registry.address: { "auth": LOGIN_BASE64 } } });
        tenants.write("config.json", auths.to_string())?;
        let key = tenants.key("acme")?;
        Ok(Some(Self { registry, tenants, key }))
    }

    fn folder(&self) -> &Path {
        self.tenants.deployment().folder()
    }

    fn configure(&self, tag: &str, pins: &str) -> Result<()> {
        let image = self.registry.image(tag);
        self.tenants.configure(&format!(
            "[tenants.acme]\ndatabase = \"sqlite:acme.db\"\ncomponent = {{ file = \"acme.wasm\", oci = \"{image}\"{pins} }}\n"
        ))
    }

    /// Starts the server, which has the login that `docker login` would keep.
    fn serve(&self) -> Result<Server> {
        let mut command = self.tenants.deployment().server(&["--config", "gateway.toml", "--admin", "127.0.0.1:0"]);
        command.env("DOCKER_CONFIG", self.folder()).stderr(File::create(self.folder().join("log"))?);
        Tenants::loaded(Server::start(&mut command)?)
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder().join("log"))?)
    }

    fn require_service(&self, server: &Server) -> Result<()> {
        let answer = server.create(&self.key, "{}")?;
        ensure!(answer.status == 201, "{answer:?}: {}", self.log()?);
        Ok(())
    }

    /// Reloads, and returns the outcome of the tenant with its reason.
    fn reload(&self, server: &Server) -> Result<(String, String)> {
        let Output { stdout, .. } = self.tenants.reload(server)?;
        let report: Value = serde_json::from_slice(&stdout)?;
        let text = |key: &str| report["tenants"][0][key].as_str().unwrap_or_default().to_owned();
        Ok((text("outcome"), text("reason")))
    }

    /// Reloads, which has to be refused, and requires that the old component serves on and stays in the file.
    fn refused(&self, server: &Server, part: &str) -> Result<()> {
        let before = fs::read(self.folder().join("acme.wasm"))?;
        let (outcome, reason) = self.reload(server)?;
        ensure!(outcome == "failed" && reason.contains(part), "{part}: {outcome}: {reason}");
        ensure!(fs::read(self.folder().join("acme.wasm"))? == before, "{part}: the file is another one");
        self.require_service(server)
    }
}

#[test]
fn a_component_is_pulled_at_each_load_and_kept_for_a_start_without_the_registry() -> Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    scene.registry.push_component("stable", COMPONENT)?;
    scene.configure("stable", "")?;
    let server = scene.serve()?;
    scene.require_service(&server)?;
    assert_eq!(fs::read(scene.folder().join("acme.wasm"))?, COMPONENT);
    assert_eq!(scene.reload(&server)?.0, "unchanged");
    let next = variant(b"next");
    scene.registry.push_component("stable", &next)?;
    assert_eq!(scene.reload(&server)?.0, "swapped");
    scene.require_service(&server)?;
    assert_eq!(fs::read(scene.folder().join("acme.wasm"))?, next);

    scene.registry.process.kill()?;
    scene.refused(&server, "can't pull 127.0.0.1:")?;
    drop(server);
    let server = scene.serve()?;
    scene.require_service(&server)?;
    ensure!(scene.log()?.contains("image not pulled, the file of the last one is loaded"), "{}", scene.log()?);
    drop(server);
    fs::remove_file(scene.folder().join("acme.wasm"))?;
    let failed = scene.serve();
    ensure!(failed.is_err() && scene.log()?.contains("can't pull 127.0.0.1:"), "{}", scene.log()?);
    Ok(())
}

#[test]
fn an_image_that_is_not_what_is_pinned_is_refused_and_the_old_one_serves_on() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    scene.registry.push_component("stable", COMPONENT)?;
    scene.configure("stable", &format!(", digest = \"sha256:{}\"", Digest::of(COMPONENT)))?;
    let server = scene.serve()?;
    scene.require_service(&server)?;
    scene.registry.push_component("stable", &variant(b"next"))?;
    scene.refused(&server, "and not the one of the configuration")?;

    // Without a pin: a bit of what the registry holds is another one, and images that hold no component.
    scene.configure("stable", "")?;
    assert_eq!(scene.reload(&server)?.0, "changed");
    let newest = variant(b"newest");
    scene.registry.push_component("stable", &newest)?;
    let mut flipped = newest.clone();
    *flipped.last_mut().context("empty")? ^= 1;
    fs::write(scene.registry.file_of(&newest), &flipped)?;
    scene.refused(&server, "can't pull 127.0.0.1:")?;
    let text = scene.registry.blob("text/plain", "a.txt", b"a text")?;
    let wasm = scene.registry.blob(WASM, "component.wasm", COMPONENT)?;
    for layers in [&[text][..], &[wasm.clone(), wasm]] {
        scene.registry.push("stable", layers)?;
        scene.refused(&server, "it has no layer of the type application/wasm, or several")?;
    }
    Ok(())
}

#[test]
fn an_image_that_the_key_did_not_sign_is_refused_and_the_old_one_serves_on() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    if !installed(&["minisign"], "minisign")? {
        return Ok(());
    }
    let work = TempDir::new()?;
    let (own, other) = (Key::new(work.path(), "own")?, Key::new(work.path(), "other")?);
    let push = |component: &[u8], key: &Key<'_>, time: u64| -> Result<()> {
        fs::write(work.path().join("component.wasm"), component)?;
        key.sign("component.wasm", time)?;
        let signature = fs::read(work.path().join("component.wasm.minisig"))?;
        let signature = scene.registry.blob("text/plain", "component.wasm.minisig", &signature)?;
        scene.registry.push("stable", &[scene.registry.blob(WASM, "component.wasm", component)?, signature])
    };
    push(COMPONENT, &own, 1_000)?;
    scene.configure("stable", &format!(", signed-by = \"{}\"", own.public))?;
    let server = scene.serve()?;
    scene.require_service(&server)?;
    let (next, before) = (variant(b"next"), COMPONENT);
    scene.registry.push_component("stable", &next)?;
    scene.refused(&server, "it is not signed")?;
    push(&next, &other, 2_000)?;
    scene.refused(&server, "does not show that the key of the configuration signed it")?;
    push(&next, &own, 500)?;
    scene.refused(&server, "signed before the one that is served")?;
    push(&next, &own, 2_000)?;
    assert_eq!(scene.reload(&server)?.0, "swapped");
    push(before, &own, 1_000)?;
    scene.refused(&server, "signed before the one that is served")?;
    // The signature is kept too: without the registry the component is loaded with it.
    drop(server);
    scene.configure("gone", &format!(", signed-by = \"{}\"", own.public))?;
    let server = scene.serve()?;
    scene.require_service(&server)?;
    assert_eq!(fs::read(scene.folder().join("acme.wasm"))?, next);
    Ok(())
}

#[test]
fn an_image_that_needs_another_login_is_an_error_that_says_so() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    scene.registry.push_component("stable", COMPONENT)?;
    scene.configure("stable", "")?;
    scene.tenants.write("config.json", "{}")?;
    let failed = scene.serve();
    let log = scene.log()?;
    ensure!(failed.is_err() && log.contains("can't pull") && log.to_lowercase().contains("not authorized"), "{log}");
    Ok(())
}

#[test]
fn images_that_are_none_and_files_of_two_images_are_errors_of_the_configuration() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let checked = |sections: &str| -> Result<String> {
        tenants.configure(sections)?;
        let output = tenants.deployment().output(&["config", "check", "--offline", "gateway.toml"])?;
        ensure!(!output.status.success(), "{sections}");
        Ok(String::from_utf8([output.stdout, output.stderr].concat())?)
    };
    let tenant = |name: &str, component: &str| {
        format!("[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:{name}.db\"\ncomponent = {component}\n")
    };
    let said = checked(&tenant("acme", "{ file = \"acme.wasm\", oci = \"not an image\" }"))?;
    assert!(said.contains("no reference of an image"), "{said}");
    let [one, two] = ["1", "2"].map(|tag| format!("{{ file = \"acme.wasm\", oci = \"localhost:5000/acme:{tag}\" }}"));
    let said = checked(&[tenant("acme", &one), tenant("globex", &two)].concat())?;
    assert!(said.contains("tenant acme pulls another image into this file"), "{said}");
    Ok(())
}
