//! Compiles the guest for wasm32-wasip2, so that the library carries a component from the same tree.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, exit},
};

const TARGET: &str = "wasm32-wasip2";

fn main() {
    let out = PathBuf::from(variable("OUT_DIR"));
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    for path in ["guest/src", "guest/build.rs", "guest/Cargo.toml", "guest/kit", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }

    let check = root.join("host/src/runtime/self_check.wat");
    println!("cargo::rerun-if-changed={}", check.display());
    let wasm = wat::parse_file(&check).unwrap_or_else(|error| fail(&error.to_string()));
    if let Err(error) = std::fs::write(out.join("self_check.wasm"), wasm) {
        fail(&format!("the self-check could not be written: {error}"));
    }

    require_target();
    // A target directory of its own: the one in use is locked by the cargo that runs this.
    let target_dir = out.join("guest");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(&root)
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
    let component = target_dir.join(TARGET).join("component/workspaces_guest.wasm");
    println!("cargo::rustc-env=WORKSPACES_COMPONENT={}", component.display());
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
