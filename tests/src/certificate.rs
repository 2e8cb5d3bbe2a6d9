//! Certificates for servers of the tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::clock;

/// Key algorithm of most certificates, in the words of openssl.
pub const EC: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

/// Makes a self-signed certificate for 127.0.0.1, and its key, as `NAME.crt` and `NAME.key`.
///
/// # Errors
///
/// Where openssl is not installed or fails.
pub fn certificate(folder: &Path, name: &str, algorithm: &[&str]) -> Result<(PathBuf, PathBuf)> {
    make(&mut Command::new("openssl"), folder, name, algorithm)
}

/// Makes the same with the clock moved by an offset such as `-10d`: valid from then on, for two days.
///
/// # Errors
///
/// Where openssl or libfaketime is not installed or fails.
pub fn certificate_at(offset: &str, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    let mut openssl = Command::new("openssl");
    clock::shift(&mut openssl, offset)?;
    make(&mut openssl, folder, name, &EC)
}

fn make(openssl: &mut Command, folder: &Path, name: &str, algorithm: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    let output = openssl
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=tests", "-newkey"])
        .args(algorithm)
        // Clients as strict as rustls take no authority's certificate from a server.
        .args(["-addext", "subjectAltName = IP:127.0.0.1", "-addext", "basicConstraints = critical,CA:FALSE", "-out"])
        .args([&certificate, Path::new("-keyout"), &key])
        .output()
        .context("these tests need openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok((certificate, key))
}
