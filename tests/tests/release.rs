//! The archive of a release, made by `.ci/release` of the program that is under test.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use wit_parser::{Resolve, UnresolvedPackageGroup, decoding::decode};
use workspaces_host::COMPONENT;
use workspaces_tests::{Deployment, installed};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Root of the sources.
fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

fn release(arguments: &[&str]) -> Result<std::process::Output> {
    Ok(Command::new(root()?.join(".ci/release")).args(arguments).env("RUST_BACKTRACE", "0").output()?)
}

/// Runs a command in a folder, and returns what it prints.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output()?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns the paths of all files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

#[test]
#[ignore = "compiles tools for minutes: run with --include-ignored"]
fn the_archive_is_whole_says_what_is_in_it_and_is_the_same_each_time() -> Result<()> {
    if !installed(&["strip"], "binutils")? {
        return Ok(());
    }
    let folder = TempDir::new()?;
    // Without debug information, which the archive's program does not have either.
    let program = folder.path().join("program");
    let program = program.to_str().context("the folder's name")?;
    run(folder.path(), "strip", &["-o", program, PROGRAM])?;
    let archive = || -> Result<(PathBuf, Vec<u8>)> {
        let output = release(&["--program", program])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout)?;
        let name = said.split_whitespace().last().context("no name of an archive")?;
        let path = root()?.join("target/release-archive").join(name);
        let bytes = fs::read(&path)?;
        Ok((path, bytes))
    };
    let (path, bytes) = archive()?;
    ensure!(archive()?.1 == bytes, "the archive is another one the second time");

    run(folder.path(), "tar", &["xzf", path.to_str().context("its name")?])?;
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".tar.gz"));
    let unpacked = folder.path().join(name.context("no .tar.gz")?);
    holds_its_checksums(&unpacked)?;
    let version = env!("CARGO_PKG_VERSION");
    let own = unpacked.join("bin/workspaces");
    let own = own.to_str().context("the program's name")?;
    ensure!(run(&unpacked, own, &["--version"])?.contains(version), "another version");
    ensure!(fs::read(unpacked.join("workspaces.wasm"))? == COMPONENT, "another component");
    // The program serves from there.
    let deployment = Deployment::new(own)?;
    deployment.serve(&[])?.send("GET", "/healthz", &[], b"")?;
    run(&unpacked, "bash", &["-n", "completions/workspaces.bash"])?;
    ensure!(fs::read_to_string(unpacked.join("man/workspaces.1"))?.contains(".TH workspaces 1"), "no man page");
    carries_the_contract(&unpacked.join("wit"))?;
    names_its_dependencies(&unpacked)?;
    // What is text names no path of this machine.
    let root = root()?;
    let root = root.to_str().context("the root's name")?;
    for file in files(&unpacked)? {
        if let Ok(text) = fs::read_to_string(&file) {
            ensure!(!text.contains(root), "{} names {root}", file.display());
        }
    }
    Ok(())
}

/// Checks that `SHA256SUMS` holds, and is of all files.
fn holds_its_checksums(unpacked: &Path) -> Result<()> {
    run(unpacked, "sha256sum", &["--check", "--strict", "--quiet", "SHA256SUMS"])?;
    let sums = fs::read_to_string(unpacked.join("SHA256SUMS"))?.lines().count();
    let present = files(unpacked)?.len();
    ensure!(sums + 1 == present && present > 15, "{sums} checksums of {present} files");
    Ok(())
}

/// Checks that the WIT package is the contract that lies beside it in text.
fn carries_the_contract(wit: &Path) -> Result<()> {
    let decoded = decode(&fs::read(wit.join("package.wasm"))?)?;
    let (binary, package) = (decoded.resolve(), decoded.package());
    let mut text = Resolve::default();
    let of_text = text.push_group(UnresolvedPackageGroup::parse_dir(wit)?)?;
    let shown = |resolve: &Resolve, package| -> Result<_> {
        let package = &resolve.packages[package];
        let interfaces: Vec<_> = package
            .interfaces
            .iter()
            .map(|(name, id)| {
                let interface = &resolve.interfaces[*id];
                (
                    name.clone(),
                    interface.functions.keys().cloned().collect::<Vec<_>>(),
                    interface.types.keys().cloned().collect::<Vec<_>>(),
                )
            })
            .collect();
        Ok((package.name.to_string(), interfaces, package.worlds.keys().cloned().collect::<Vec<_>>()))
    };
    let (binary, text) = (shown(binary, package)?, shown(&text, of_text)?);
    ensure!(binary == text && text.0 == "recoup:workspaces@1.0.0", "{binary:?} is not {text:?}");
    Ok(())
}

/// Checks that the bill of materials and the licences name what the program is made of.
fn names_its_dependencies(unpacked: &Path) -> Result<()> {
    let bill: Value = serde_json::from_slice(&fs::read(unpacked.join("sbom.cdx.json"))?)?;
    ensure!(bill["bomFormat"] == "CycloneDX", "{}", bill["bomFormat"]);
    let components = bill["components"].as_array().context("no components")?;
    let named: HashSet<_> = components
        .iter()
        .filter_map(|component| {
            Some((component["name"].as_str()?.to_owned(), component["version"].as_str()?.to_owned()))
        })
        .collect();
    let tree = [
        "tree",
        "--locked",
        "--package",
        "workspaces-host",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let tree = run(&root()?, env!("CARGO"), &tree)?;
    let licences = fs::read_to_string(unpacked.join("licences/third-party.toml"))?;
    let mut count = 0;
    for line in tree.lines().filter(|line| !line.contains("workspaces")) {
        let (name, version) = line.split_once(" v").with_context(|| line.to_owned())?;
        let version = version.split(' ').next().unwrap_or_default();
        ensure!(named.contains(&(name.to_owned(), version.to_owned())), "the bill of materials lacks {name} {version}");
        let entry = format!("package_name = \"{name}\"\npackage_version = \"{version}\"\n");
        ensure!(licences.contains(&entry), "the licences lack {name} {version}");
        count += 1;
    }
    ensure!(count > 100, "only {count} dependencies");
    Ok(())
}

#[test]
fn an_argument_that_is_unknown_or_has_no_value_is_an_error() -> Result<()> {
    for arguments in [&["--profiles", "dist"][..], &["--target"], &["--profile", ""]] {
        let output = release(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains("--program"), "{arguments:?}: {said}");
    }
    Ok(())
}
