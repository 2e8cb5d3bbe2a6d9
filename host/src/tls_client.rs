//! TLS of a client: rustls with ring, certificates always verified.

use std::{env, path::PathBuf, sync::Arc};

use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::files::{self, Limit};

/// Maximum size of a system's list of authorities; Debian's has 220 KiB.
const SYSTEM_AUTHORITIES: Limit = Limit::fixed(8 << 20);

/// Returns a client that trusts these authorities.
///
/// # Errors
///
/// Where rustls and its cryptography do not fit each other.
#[cfg(feature = "jwt")]
pub(crate) fn client(authorities: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    client_of_versions(authorities, rustls::DEFAULT_VERSIONS)
}

/// Returns a client that trusts these authorities and speaks these versions alone.
///
/// # Errors
///
/// No version, or where rustls and its cryptography do not fit each other.
pub(crate) fn client_of_versions(
    authorities: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, rustls::Error> {
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    Ok(client)
}

/// Returns the authorities that this system trusts; none where it has no list, and then no server is believed.
pub(crate) fn system_authorities() -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    // They are files too: SSL_CERT_FILE may name one of a file system that hangs, or a FIFO.
    let file = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let readable = file.map_or(Ok(()), |file| files::read(&file, SYSTEM_AUTHORITIES).map(drop));
    match readable.and_then(|()| files::within_timeout(|| rustls_native_certs::load_native_certs().certs)) {
        Ok(certificates) => _ = authorities.add_parsable_certificates(certificates),
        Err(error) => tracing::error!(%error, "reading the system's list of authorities failed, see SSL_CERT_FILE"),
    }
    authorities
}
