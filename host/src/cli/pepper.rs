//! Options that give the pepper.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::{
    files,
    server::pepper::{NO_PEPPER, PEPPER, checked, without_line_break},
};

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
