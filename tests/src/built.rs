//! Components that are packages of this workspace.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};

/// Builds a component, below a folder for what is built, and returns it.
///
/// # Errors
///
/// Where it does not compile.
pub fn build(folder: &str, package: &str) -> Result<Vec<u8>> {
    let target = Path::new(folder).join("components");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--package", package, "--profile=component", "--locked", "--quiet"])
        .args(["--target=wasm32-wasip2", "--target-dir"])
        .arg(&target);
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    ensure!(status.success(), "{package} did not compile: {status}");
    Ok(fs::read(target.join(format!("wasm32-wasip2/component/{}.wasm", package.replace('-', "_"))))?)
}
