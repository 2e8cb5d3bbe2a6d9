//! Files that are no files: what a tenant's lines may point at.

use std::{
    fs::{self, File},
    process::Command,
};

use anyhow::{Result, ensure};

use super::{Adversary, Setup, reload::Reload, setup::section};

/// Bytes of the sparse file.
const SPARSE: u64 = 1 << 30;

pub(super) fn all() -> Vec<Box<dyn Adversary>> {
    vec![
        Reload::boxed("file: component is a FIFO", |setup| {
            fifo(setup)?;
            Ok(vec![component("fifo")])
        }),
        Reload::boxed("file: component is /dev/zero", |_| Ok(vec![component("/dev/zero")])),
        Reload::boxed("file: component is a directory", |setup| {
            fs::create_dir(setup.tenants.deployment().folder().join("directory"))?;
            Ok(vec![component("directory")])
        }),
        Reload::boxed("file: component of 1 GiB, sparse", |setup| {
            File::create(setup.tenants.deployment().folder().join("sparse"))?.set_len(SPARSE)?;
            Ok(vec![component("sparse")])
        }),
        Reload::boxed("file: key pepper is a FIFO, then /dev/zero", |setup| {
            fifo(setup)?;
            Ok(["fifo", "/dev/zero"].map(|file| section("file", &format!("key-pepper-file = \"{file}\""))).to_vec())
        }),
        Reload::boxed("file: keys of tokens are a FIFO, then /dev/zero", |setup| {
            fifo(setup)?;
            let jwt = |file| format!("jwt = {{ keys = \"{file}\", issuer = \"issuer\", audience = \"audience\" }}");
            Ok(["fifo", "/dev/zero"].map(|file| section("file", &jwt(file))).to_vec())
        }),
    ]
}

fn component(file: &str) -> String {
    section("file", &format!("component = \"{file}\""))
}

fn fifo(setup: &Setup) -> Result<()> {
    let status = Command::new("mkfifo").arg(setup.tenants.deployment().folder().join("fifo")).status()?;
    ensure!(status.success(), "mkfifo failed");
    Ok(())
}
