//! TLS to the server: the authorities that are trusted, and the certificate that is shown.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    certificate,
    files::{self, Limit},
    private, tls_client,
};

/// Maximum size of a file of authorities; a system's list has a quarter of it.
const AUTHORITIES_FILE: Limit = Limit::fixed(1 << 20);

/// Settings of TLS.
#[derive(Debug)]
pub(super) struct Encryption {
    /// File of the authorities to trust; the system's where `None`.
    pub(super) authorities: Option<String>,
    /// File of the certificate to show a server that asks for one.
    pub(super) certificate: Option<String>,
    /// File of its key.
    pub(super) key: Option<String>,
    /// A certificate is never shown.
    pub(super) is_anonymous: bool,
    /// The name of the server is sent in the clear, for proxies that choose by it.
    pub(super) sends_name: bool,
    pub(super) takes_1_2: bool,
    pub(super) takes_1_3: bool,
}

impl Default for Encryption {
    fn default() -> Self {
        Self {
            authorities: None,
            certificate: None,
            key: None,
            is_anonymous: false,
            sends_name: true,
            takes_1_2: true,
            takes_1_3: true,
        }
    }
}

impl Encryption {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// The reason, with the parameter and its file.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
        versions.extend(self.takes_1_2.then_some(&TLS12));
        versions.extend(self.takes_1_3.then_some(&TLS13));
        if versions.is_empty() {
            return Err("ssl_min_protocol_version is above ssl_max_protocol_version".into());
        }
        let trusted = match &self.authorities {
            None => tls_client::system_authorities(),
            Some(file) => read_authorities(file).map_err(|reason| format!("sslrootcert {file}: {reason}"))?,
        };
        let mut client = tls_client::client_of_versions(trusted, &versions).map_err(|error| error.to_string())?;
        client.enable_sni = self.sends_name;
        match (&self.certificate, &self.key) {
            _ if self.is_anonymous => {}
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                let key_file = Path::new(key);
                private::require_owner_or_roots_group(key_file).map_err(|error| format!("sslkey {key}: {error}"))?;
                let certified = certificate::certified_key(&ring::default_provider(), Path::new(certificate), key_file)
                    .map_err(|error| format!("sslcert and sslkey: {error}"))?;
                client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
            }
            (Some(certificate), None) => {
                return Err(format!("sslcert {certificate} has no key: name its file with sslkey="));
            }
            (None, Some(key)) => {
                return Err(format!("sslkey {key} has no certificate: name its file with sslcert="));
            }
        }
        Ok(MakeRustlsConnect::new(client))
    }
}

fn read_authorities(file: &str) -> Result<RootCertStore, String> {
    let pem = files::read(file.as_ref(), AUTHORITIES_FILE).map_err(|error| error.to_string())?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| certificate::broken(&error).to_owned())?;
    let mut trusted = RootCertStore::empty();
    match trusted.add_parsable_certificates(certificates).0 {
        0 => Err("it holds no certificate".into()),
        _ => Ok(trusted),
    }
}
