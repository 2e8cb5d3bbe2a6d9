//! Gives the library its component: in the workspace it is compiled from the same tree, in a package it is `component.wasm`,
//! of which a test holds that it is the same.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

const TARGET: &str = "wasm32-wasip2";

/// Variable that has the component compiled unless it is empty; `.cargo/config.toml` sets it for this workspace alone.
const BUILD: &str = "WORKSPACES_BUILD_COMPONENT";

fn main() {
    let own = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-env-changed={BUILD}");
    let component = match env::var_os(BUILD) {
        Some(build) if !build.is_empty() => compiled(&own.join("..")),
        _ => own.join("component.wasm"),
    };
    println!("cargo::rerun-if-changed={}", component.display());
    println!("cargo::rustc-env=WORKSPACES_COMPONENT={}", component.display());
}

/// Compiles the guest of a workspace.
fn compiled(root: &Path) -> PathBuf {
    for path in ["guest/src", "guest/build.rs", "guest/Cargo.toml", "guest/kit", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }

    require_target();
    // A target directory of its own: the one in use is locked by the cargo that runs this.
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("guest");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(root)
        .args(["build", "--package=workspaces-guest", "--lib", "--profile=component", "--locked"])
        .arg(format!("--target={TARGET}"))
        .arg("--target-dir")
        .arg(&target_dir);
    // Flags and wrappers meant for the host's own compilation (clippy's among them).
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(name);
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("the guest did not compile ({status}); cargo's own messages are above")),
        Err(error) => fail(&format!("cargo could not be started for the guest: {error}")),
    }
    let compiled = target_dir.join(TARGET).join("component/workspaces_guest.wasm");
    let described = PathBuf::from(variable("OUT_DIR")).join("component.wasm");
    let written = fs::read(compiled).and_then(|bytes| fs::write(&described, [bytes, metadata()].concat()));
    written.unwrap_or_else(|error| fail(&format!("the component could not be described: {error}")));
    described
}

/// Returns what tools and registries show of the component, as custom sections: its name, version and licence. Names and
/// contents of the sections are those of wasm-metadata.
fn metadata() -> Vec<u8> {
    let name = prefixed(b"workspaces");
    let [version, licence] = ["VERSION", "LICENSE"].map(|field| variable(&format!("CARGO_PKG_{field}")).into_bytes());
    // The name is in a subsection, number 0.
    let name = [&[0], &*prefixed(&name)].concat();
    [("component-name", name), ("version", version), ("licenses", licence)]
        .into_iter()
        .flat_map(|(section, content)| [&[0], &*prefixed(&[prefixed(section.as_bytes()), content].concat())].concat())
        .collect()
}

/// Returns the bytes with their length before them.
fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let Some(length) = u8::try_from(bytes.len()).ok().filter(|length| *length < 128) else {
        fail("the component's name, version or licence is too long");
    };
    [&[length], bytes].concat()
}

/// Fails with the command to run where the compiler has no standard library for the target.
fn require_target() {
    let sysroot = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output();
    let Ok(sysroot) = sysroot else { fail("rustc could not be asked where its libraries are") };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if !sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        fail(&format!(
            "the component is compiled for {TARGET}, which this toolchain lacks: run `rustup target add {TARGET}`"
        ));
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name}")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
