//! Certificates of this side and their keys, in PEM.

#[cfg(feature = "tls")]
use std::time::Duration;
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

#[cfg(feature = "tls")]
use x509_cert::{der::Decode as _, time::Validity};

use crate::{
    excerpt::excerpt,
    files::{self, Limit},
};

/// Maximum size of a file with a certificate and its chain, or with a key; those have some KiB.
const PEM_FILE: Limit = Limit::fixed(1 << 20);

/// Text of every encrypted key in PEM.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Maximum length of a section's label in a message, in bytes.
const MAX_LABEL: usize = 40;

/// Reason why a certificate can't be presented to the peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[cfg_attr(not(feature = "tls"), allow(unreachable_pub, reason = "public where the server speaks TLS"))]
pub enum CertificateError {
    /// A file can't be read.
    #[error("can't read {0}: {1}")]
    File(PathBuf, io::Error),
    /// A file is empty.
    #[error("{0} is empty: it has to be PEM")]
    Empty(PathBuf),
    /// A file is binary.
    #[error(
        "{0} is binary and has to be PEM: convert DER with `openssl x509 -inform DER` or `openssl pkey -inform DER`, and PKCS#12 with `openssl pkcs12 -nodes`"
    )]
    Binary(PathBuf),
    /// A file holds PEM with a mistake in it.
    #[error("{0} is broken: {reason}", reason = broken(.1))]
    Pem(PathBuf, pem::Error),
    /// The certificate's file holds none.
    #[error(
        "there is no certificate in {file}, which has {found}: it has to be PEM, the server's own first and those between it and its authority behind"
    )]
    NoCertificate {
        /// The file.
        file: PathBuf,
        /// The labels of its sections, in words.
        found: String,
    },
    /// The key's file holds none that can be used without more.
    #[error("there is no private key in {file}, which has {found}: it has to be PEM, without a password")]
    NoKey {
        /// The file.
        file: PathBuf,
        /// The labels of its sections, in words.
        found: String,
    },
    /// The certificate is in the key's file, and the key in the certificate's.
    #[error("the private key is in {certificate} and the certificate in {key}: swap the two")]
    Swapped {
        /// The file given for the certificate.
        certificate: PathBuf,
        /// The file given for the key.
        key: PathBuf,
    },
    /// The key's file holds one that is encrypted.
    #[error(
        "the private key in {0} is encrypted: write it without its password, with `openssl pkey`, into a file of mode 0600"
    )]
    EncryptedKey(PathBuf),
    /// The key is of a kind, a curve or a size that is not supported.
    #[error(
        "the private key in {0} is not supported: use RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519"
    )]
    UnsupportedKey(PathBuf),
    /// TLS has no use for the certificate.
    #[error("the certificate in {0} can't be used: {1}")]
    Certificate(PathBuf, rustls::Error),
    /// The two do not belong together.
    #[error("the key in {key} is not that of the certificate in {certificate}")]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The certificate is no longer valid.
    #[cfg(feature = "tls")]
    #[error("the certificate in {file} has expired: it was valid until {until}")]
    Expired {
        /// The file.
        file: PathBuf,
        /// Its `notAfter`, in UTC.
        until: String,
    },
    /// The certificate is not yet valid.
    #[cfg(feature = "tls")]
    #[error("the certificate in {file} is not valid yet: it will be from {from}")]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// Its `notBefore`, in UTC.
        from: String,
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
    let (certificate_pem, key_pem) = (PemFile::read(certificate)?, PemFile::read(key)?);
    let is_swapped = !certificate_pem.holds("CERTIFICATE") && certificate_pem.holds_key();
    if is_swapped && key_pem.holds("CERTIFICATE") && !key_pem.holds_key() {
        return Err(CertificateError::Swapped { certificate: certificate.into(), key: key.into() });
    }
    let chain = certificate_pem.chain()?;
    let private = key_pem.key()?;
    let unsupported = |_| CertificateError::UnsupportedKey(key.into());
    let signer = provider.key_provider.load_private_key(private).map_err(unsupported)?;
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

/// Checks the dates of a chain's first certificate, and returns for how long it is valid from now on, where that is known.
///
/// # Errors
///
/// [`CertificateError::Expired`] or [`CertificateError::NotYetValid`], with the date.
#[cfg(feature = "tls")]
pub(crate) fn check_dates(file: &Path, certified: &CertifiedKey) -> Result<Option<Duration>, CertificateError> {
    // What can't be parsed here was parsed by rustls: its dates are not known, and the peer decides.
    let Some(dates) = dates(certified) else { return Ok(None) };
    let now = Duration::from_millis(crate::now().unsigned_abs());
    match () {
        () if now > dates.not_after.to_unix_duration() => {
            Err(CertificateError::Expired { file: file.into(), until: dates.not_after.to_string() })
        }
        () if now < dates.not_before.to_unix_duration() => {
            Err(CertificateError::NotYetValid { file: file.into(), from: dates.not_before.to_string() })
        }
        () => Ok(Some(dates.not_after.to_unix_duration().saturating_sub(now))),
    }
}

/// Returns the dates of a chain's first certificate.
#[cfg(feature = "tls")]
fn dates(certified: &CertifiedKey) -> Option<Validity> {
    let certificate = x509_cert::Certificate::from_der(certified.cert.first()?).ok()?;
    Some(certificate.tbs_certificate.validity)
}

/// File of PEM, with the labels of its sections.
struct PemFile<'a> {
    path: &'a Path,
    text: Vec<u8>,
    labels: Vec<String>,
}

impl<'a> PemFile<'a> {
    fn read(path: &'a Path) -> Result<Self, CertificateError> {
        let text = files::read(path, PEM_FILE).map_err(|error| CertificateError::File(path.into(), error))?;
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(CertificateError::Empty(path.into()));
        }
        let lines = String::from_utf8_lossy(&text);
        let label = |line: &str| Some(line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?.to_owned());
        let labels: Vec<_> = lines.lines().filter_map(label).collect();
        if labels.is_empty() && std::str::from_utf8(&text).is_err() {
            return Err(CertificateError::Binary(path.into()));
        }
        Ok(Self { path, labels, text })
    }

    fn holds(&self, label: &str) -> bool {
        self.labels.iter().any(|found| found == label)
    }

    fn holds_key(&self) -> bool {
        self.labels.iter().any(|label| label.ends_with("PRIVATE KEY"))
    }

    /// Names the sections that are there in place of the one that is needed.
    fn found(&self) -> String {
        match self.labels.as_slice() {
            [] => "no section of PEM".into(),
            labels => labels.iter().take(4).map(|label| excerpt(label, MAX_LABEL)).collect::<Vec<_>>().join(", "),
        }
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&self.text).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| CertificateError::Pem(self.path.into(), error))?;
        match chain.is_empty() {
            true => Err(CertificateError::NoCertificate { file: self.path.into(), found: self.found() }),
            false => Ok(chain),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, CertificateError> {
        // `BEGIN ENCRYPTED PRIVATE KEY`, and the older `Proc-Type: 4,ENCRYPTED`.
        if self.text.windows(ENCRYPTED.len()).any(|text| text == ENCRYPTED) {
            return Err(CertificateError::EncryptedKey(self.path.into()));
        }
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| match error {
            // Such as DSA PRIVATE KEY and OPENSSH PRIVATE KEY.
            pem::Error::NoItemsFound if self.holds_key() => CertificateError::UnsupportedKey(self.path.into()),
            pem::Error::NoItemsFound => CertificateError::NoKey { file: self.path.into(), found: self.found() },
            error => CertificateError::Pem(self.path.into(), error),
        })
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
