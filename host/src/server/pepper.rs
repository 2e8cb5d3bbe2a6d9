//! Pepper: the secret that API keys are hashed with.

use anyhow::{Result, ensure};

use crate::{files::Limit, storage::ApiKey};

/// Maximum size of a file with a pepper, as `openssl rand` makes them many times over.
pub(crate) const PEPPER: Limit = Limit::fixed(4 << 10);

/// Message where a pepper is needed and none is given.
pub(crate) const NO_PEPPER: &str = "no key pepper: make one with `export WORKSPACES_KEY_PEPPER=$(openssl rand -hex 32)` and keep it, keys are lost without it";

/// Minimum length of a pepper, in bytes: 128 bits, as NIST SP 800-107 asks of an HMAC key.
const MIN_PEPPER: usize = 16;

/// Returns the secret of an option, a variable or a file. A line break behind it is no part of it: files end with
/// one, and not all that reads them drops it.
///
/// # Errors
///
/// Where it is too short to be one.
pub(crate) fn checked(text: &str) -> Result<String> {
    let secret = without_line_break(text);
    ensure!(
        secret.len() >= MIN_PEPPER,
        "the key pepper has {} bytes, {MIN_PEPPER} at least are needed: make one with `openssl rand -hex 32`",
        secret.len()
    );
    Ok(secret.to_owned())
}

/// Returns the text without the line breaks behind it.
pub(crate) fn without_line_break(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// Returns the first keys as a message names them.
pub(crate) fn key_names(keys: &[ApiKey]) -> String {
    const NAMED: usize = 5;
    let mut names: Vec<_> = keys.iter().take(NAMED).map(|key| format!("{} ({})", key.id, key.name)).collect();
    if let Some(more) = keys.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}
