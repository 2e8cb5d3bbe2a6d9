//! The crate as others get it: as a package, vendored and offline, and as a dependency from git.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use wasm_metadata::{Metadata, Payload};
use workspaces_host::COMPONENT;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Component in the package.
const PREBUILT: &[u8] = include_bytes!("../../host/component.wasm");

#[test]
fn the_component_in_the_package_is_the_one_of_these_sources() -> Result<()> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("component.wasm");
    fs::write(&path, COMPONENT)?;
    ensure!(PREBUILT == COMPONENT, "host/component.wasm is of other sources: copy {} there", path.display());
    Ok(())
}

#[test]
fn the_component_carries_its_name_version_and_licence() -> Result<()> {
    let payload = Payload::from_binary(COMPONENT)?;
    let Metadata { name, version, licenses, .. } = payload.metadata();
    assert_eq!(name.as_deref(), Some("workspaces"));
    let [version, licenses] =
        [version.as_ref().context("version")?.to_string(), licenses.as_ref().context("licence")?.to_string()];
    assert_eq!([&*version, &*licenses], [env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_LICENSE")]);
    Ok(())
}

#[test]
fn the_component_of_the_self_check_is_its_text() -> Result<()> {
    let assembled = wat::parse_str(include_str!("../../host/src/runtime/self_check.wat"))?;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("self_check.wasm");
    fs::write(&path, &assembled)?;
    let kept: &[u8] = include_bytes!("../../host/src/runtime/self_check.wasm");
    ensure!(kept == assembled, "host/src/runtime/self_check.wasm is of another text: copy {} there", path.display());
    Ok(())
}

/// Runs cargo outside of the workspace. The settings of this one's configuration are not passed on.
fn cargo(folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(folder);
    for name in ["WORKSPACES_BUILD_COMPONENT", "LIBSQLITE3_FLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command.env("CARGO_TARGET_DIR", target());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside")
}

/// Makes a project that embeds the host.
fn project(dependency: &str) -> Result<TempDir> {
    let folder = TempDir::new()?;
    let manifest = format!(
        "[package]\nname = \"gateway\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\nworkspaces-host = {{ {dependency}, default-features = false, features = [\"sqlite\"] }}\n\n[workspace]\n"
    );
    fs::write(folder.path().join("Cargo.toml"), manifest)?;
    fs::create_dir(folder.path().join("src"))?;
    let main = "fn main() {\n    assert!(workspaces_host::COMPONENT.starts_with(b\"\\0asm\"));\n}\n";
    fs::write(folder.path().join("src/main.rs"), main)?;
    // The versions that are tested here.
    fs::copy(Path::new(ROOT).join("Cargo.lock"), folder.path().join("Cargo.lock"))?;
    Ok(folder)
}

/// Checks that no component was compiled.
fn has_compiled_nothing() -> Result<()> {
    for build in fs::read_dir(target().join("debug/build"))? {
        let guest = build?.path().join("out/guest");
        ensure!(!guest.exists(), "{} is there", guest.display());
    }
    Ok(())
}

#[test]
#[ignore = "takes minutes: run with --include-ignored"]
fn the_package_is_built_offline_of_vendored_sources_and_from_git() -> Result<()> {
    let root = Path::new(ROOT).canonicalize()?;
    cargo(&root, &["package", "--package", "workspaces-host", "--no-verify", "--exclude-lockfile", "--allow-dirty"])?;
    let unpacked = TempDir::new()?;
    let package = target().join("package/workspaces-host-1.0.0.crate");
    let tar = Command::new("tar").arg("-xzf").arg(package).current_dir(unpacked.path()).status()?;
    ensure!(tar.success(), "tar failed");
    let package = unpacked.path().join("workspaces-host-1.0.0");

    let vendored = project(&format!("path = {package:?}"))?;
    let configuration = cargo(vendored.path(), &["vendor", "--quiet", "vendor"])?;
    fs::create_dir(vendored.path().join(".cargo"))?;
    fs::write(vendored.path().join(".cargo/config.toml"), configuration)?;
    cargo(vendored.path(), &["check", "--offline", "--locked"]).context("vendored")?;
    has_compiled_nothing()?;

    let from_git = project(&format!("git = \"file://{}\"", root.display()))?;
    cargo(from_git.path(), &["check"]).context("from git")?;
    has_compiled_nothing()
}
