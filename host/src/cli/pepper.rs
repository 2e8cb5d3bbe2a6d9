//! The secret that API keys are hashed with.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use crate::files::{self, Limit};

/// Maximum size of a file with a pepper, as `openssl rand` makes them many times over.
pub(super) const PEPPER: Limit = Limit::fixed(4 << 10);

/// Message where a pepper is needed and none is given.
pub(super) const NO_PEPPER: &str = "no key pepper: make one with `export WORKSPACES_KEY_PEPPER=$(openssl rand -hex 32)` and keep it, keys are lost without it";

/// Minimum length of a pepper, in bytes: 128 bits, as NIST SP 800-107 asks of an HMAC key.
const MIN_PEPPER: usize = 16;

/// The options that give the pepper.
#[derive(clap::Args)]
pub(super) struct PepperArguments {
    /// The secret that API keys are hashed with, the same for every command; 16 bytes at least
    #[arg(long, env = "WORKSPACES_KEY_PEPPER", value_name = "SECRET", hide_env_values = true)]
    key_pepper: Option<String>,
    /// The file that holds the secret, in place of the secret itself
    #[arg(long, env = "WORKSPACES_KEY_PEPPER_FILE", value_name = "FILE", hide_env_values = true)]
    key_pepper_file: Option<PathBuf>,
}

impl PepperArguments {
    /// Returns the secret.
    ///
    /// # Errors
    ///
    /// Where there is none, or two, or it is too short.
    pub(super) fn secret(&self) -> Result<String> {
        self.given()?.context(NO_PEPPER)
    }

    /// Returns the secret, or none where the options give none.
    ///
    /// # Errors
    ///
    /// As [`secret`](Self::secret).
    pub(super) fn given(&self) -> Result<Option<String>> {
        let secret = match (&self.key_pepper, &self.key_pepper_file) {
            (Some(_), Some(_)) => bail!(
                "--key-pepper (WORKSPACES_KEY_PEPPER) and --key-pepper-file (WORKSPACES_KEY_PEPPER_FILE): give one of the two"
            ),
            (Some(text), None) => text.clone(),
            (None, Some(file)) => files::read_text(file, PEPPER)
                .with_context(|| format!("--key-pepper-file: can't read {}", file.display()))?,
            (None, None) => return Ok(None),
        };
        match without_line_break(&secret) {
            "" => Ok(None),
            secret => Ok(Some(checked(secret)?)),
        }
    }
}

/// Returns the secret of an option, a variable or a file. A line break behind it is no part of it: files end with
/// one, and not all that reads them drops it.
///
/// # Errors
///
/// Where it is too short to be one.
pub(super) fn checked(text: &str) -> Result<String> {
    let secret = without_line_break(text);
    ensure!(
        secret.len() >= MIN_PEPPER,
        "the key pepper has {} bytes, {MIN_PEPPER} at least are needed: make one with `openssl rand -hex 32`",
        secret.len()
    );
    Ok(secret.to_owned())
}

/// Returns the text without the line breaks behind it.
pub(super) fn without_line_break(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}
