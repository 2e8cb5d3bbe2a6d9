use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};

use crate::http::tls::Tls;

/// The certificate of a server that speaks TLS.
#[derive(clap::Args)]
#[group(requires_all = ["tls_certificate", "tls_key"])]
pub(super) struct TlsArguments {
    /// Speak TLS with this certificate: a PEM file, the certificates between it and its authority behind it
    #[arg(long, env = "WORKSPACES_TLS_CERTIFICATE", hide_env_values = true, value_name = "FILE", required = false)]
    tls_certificate: PathBuf,
    /// The certificate's private key: a PEM file, without a password
    #[arg(long, env = "WORKSPACES_TLS_KEY", hide_env_values = true, value_name = "FILE", required = false)]
    tls_key: PathBuf,
}

impl TlsArguments {
    pub(super) fn read(&self) -> Result<Arc<Tls>> {
        read(self.tls_certificate.clone(), self.tls_key.clone())
    }
}

/// Reads a certificate and its key.
pub(super) fn read(certificate: PathBuf, key: PathBuf) -> Result<Arc<Tls>> {
    Ok(Arc::new(Tls::read(certificate, key).context("can't serve TLS")?))
}
