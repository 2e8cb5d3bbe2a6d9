//! TLS to other servers: rustls with ring, the newest protocol versions, certificates always verified.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// A client that trusts these authorities.
///
/// # Errors
///
/// Where rustls and its cryptography do not fit each other.
pub(crate) fn client(authorities: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    Ok(client)
}

/// The authorities that this system trusts; none where it has no list, and then no server is believed.
pub(crate) fn system_authorities() -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    authorities
}
