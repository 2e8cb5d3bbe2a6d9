//! Certificates of this side and their keys, in PEM.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    InconsistentKeys,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    sign::CertifiedKey,
};

use crate::files::{self, Limit};

/// Maximum size of a file with a certificate and its chain, or with a key; those have some KiB.
const PEM_FILE: Limit = Limit::fixed(1 << 20);

/// Text of every encrypted key in PEM: of `BEGIN ENCRYPTED PRIVATE KEY`, and of the older `Proc-Type: 4,ENCRYPTED`.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Reason why a certificate can't be presented to the peer.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(feature = "tls"), allow(unreachable_pub, reason = "public where the server speaks TLS"))]
pub enum CertificateError {
    /// A file can't be read.
    #[error("can't read {0}: {1}")]
    File(PathBuf, io::Error),
    /// A file holds PEM with a mistake in it.
    #[error("{0} is broken: {reason}", reason = broken(.1))]
    Pem(PathBuf, pem::Error),
    /// The certificate's file holds none.
    #[error(
        "there is no certificate in {0}: it has to be PEM, the server's own first and those between it and its authority behind"
    )]
    NoCertificate(PathBuf),
    /// The key's file holds none that can be used without more.
    #[error("there is no private key in {0}: it has to be PEM, without a password")]
    NoKey(PathBuf),
    /// The key's file holds one that is encrypted.
    #[error(
        "the private key in {0} is encrypted: write it without its password, with `openssl pkey`, into a file of mode 0600"
    )]
    EncryptedKey(PathBuf),
    /// TLS has no use for the certificate.
    #[error("the certificate in {0} can't be used: {1}")]
    Certificate(PathBuf, rustls::Error),
    /// TLS has no use for the key.
    #[error("the key in {0} can't be used: {1}")]
    Key(PathBuf, rustls::Error),
    /// The two do not belong together.
    #[error("the key in {key} is not that of the certificate in {certificate}")]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// rustls and its cryptography do not fit each other.
    #[cfg(feature = "tls")]
    #[error("TLS can't be used: {0}")]
    Protocol(rustls::Error),
}

/// Reads a certificate with its chain, and its key, from files in PEM.
///
/// # Errors
///
/// A [`CertificateError`] that names the file.
pub(crate) fn certified_key(
    provider: &CryptoProvider,
    certificate: &Path,
    key: &Path,
) -> Result<Arc<CertifiedKey>, CertificateError> {
    let broken = |file: &Path, error| CertificateError::Pem(file.into(), error);
    let read = |file: &Path| files::read(file, PEM_FILE).map_err(|error| CertificateError::File(file.into(), error));
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken(certificate, error))?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate(certificate.into()));
    }
    let pem = read(key)?;
    if pem.windows(ENCRYPTED.len()).any(|text| text == ENCRYPTED) {
        return Err(CertificateError::EncryptedKey(key.into()));
    }
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey(key.into()),
        error => broken(key, error),
    })?;
    let signer =
        provider.key_provider.load_private_key(private).map_err(|error| CertificateError::Key(key.into(), error))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // Of a key that does not tell its public half nothing is known before the first handshake.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(CertificateError::Mismatch { certificate: certificate.into(), key: key.into() })
        }
        Err(error) => Err(CertificateError::Certificate(certificate.into(), error)),
    }
}

/// Names a mistake in a PEM file. The crate's own texts quote lines of it, which may be a key's.
pub(crate) fn broken(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end: is it half a file?",
        pem::Error::IllegalSectionStart { .. } => {
            "the first line of a section is not as in -----BEGIN CERTIFICATE-----"
        }
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::NoItemsFound => "it holds no section of the kind",
        _ => "it is no PEM",
    }
}
