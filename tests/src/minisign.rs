//! Signatures, by the program `minisign`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

/// Key of minisign, in a folder.
pub struct Key<'a> {
    folder: &'a Path,
    name: &'static str,
    /// Text of the public key.
    pub public: String,
}

impl<'a> Key<'a> {
    /// Makes a key of this name.
    ///
    /// # Errors
    ///
    /// Where minisign fails.
    pub fn new(folder: &'a Path, name: &'static str) -> Result<Self> {
        let (secret, public) = (format!("{name}.key"), format!("{name}.pub"));
        minisign(folder, &["-G", "-W", "-p", &public, "-s", &secret])?;
        let text = fs::read_to_string(folder.join(public))?;
        let public = text.lines().last().context("no key")?.to_owned();
        Ok(Self { folder, name, public })
    }

    /// Signs a file at a time, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// Where minisign fails.
    pub fn sign(&self, file: &str, time: u64) -> Result<()> {
        let (secret, comment) = (format!("{}.key", self.name), format!("timestamp:{time}\tfile:{file}"));
        minisign(self.folder, &["-S", "-s", &secret, "-m", file, "-t", &comment])
    }
}

/// Runs minisign in a folder.
///
/// # Errors
///
/// Where it fails.
pub fn minisign(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("minisign").args(arguments).current_dir(folder).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
