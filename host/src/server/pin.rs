//! Pins of a component file: the digest that it has to have, and the key that has to have signed it.

use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use minisign_verify::{PublicKey, Signature};
use tokio::task::block_in_place;

use crate::{
    files::{self, Limit},
    runtime::Digest,
};

/// Maximum size of a signature.
const SIGNATURE: Limit = Limit::fixed(4 << 10);

/// Requirements of a component file that are checked before it is compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) digest: Option<PinnedDigest>,
    pub(crate) signed_by: Option<Signer>,
}

/// Digest of a component, from text such as `sha256:…` with 64 digits of hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinnedDigest(String);

impl FromStr for PinnedDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        let is_digest = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest
            .then(|| Self(digits.to_ascii_lowercase()))
            .ok_or_else(|| "no digest: give sha256: and 64 digits of hex, which `sha256sum` prints".into())
    }
}

/// Public key of minisign, from its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signer(PublicKey);

impl FromStr for Signer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PublicKey::from_base64(text)
            .map(Self)
            .map_err(|_| "no public key of minisign: give the line of 56 letters that its .pub file ends with".into())
    }
}

/// Time at which a component was signed, in seconds since 1970, from the trusted comment of its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SignedAt(u64);

/// Text of a component's signature.
#[derive(Debug)]
pub(crate) struct SignatureText {
    /// Name in messages.
    pub(crate) name: String,
    /// The text, or why there is none.
    pub(crate) text: Result<String, String>,
}

impl SignatureText {
    /// Reads the signature beside a component file.
    pub(crate) async fn beside(component: &Path) -> Self {
        let path = signature_of(component);
        let name = path.display().to_string();
        let text = files::unblocked(move || files::read_text(&path, SIGNATURE)).await.flatten();
        let text = text.map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("it is not signed: there is no {name}, which `minisign -S` makes"),
            _ => format!("can't read {name}: {error}"),
        });
        Self { name, text }
    }
}

/// Returns the file of a component's signature.
pub(crate) fn signature_of(component: &Path) -> PathBuf {
    let mut name = OsString::from(component);
    name.push(".minisig");
    name.into()
}

impl Pin {
    /// Checks a component against the pin. Returns when it was signed, where it has to be. Blocks its thread for the time that
    /// hashing takes.
    ///
    /// # Errors
    ///
    /// Another digest, no signature, one of another key, or one without a time.
    pub(crate) fn check(&self, wasm: &[u8], digest: &Digest, signature: &SignatureText) -> Result<Option<SignedAt>> {
        if let Some(PinnedDigest(pinned)) = &self.digest {
            ensure!(pinned == digest.as_str(), "its digest is sha256:{digest}, and not the one of the configuration");
        }
        let Some(Signer(key)) = &self.signed_by else { return Ok(None) };
        let SignatureText { name, text } = signature;
        let text = text.as_ref().map_err(|reason| anyhow!("{reason}"))?;
        let signature = Signature::decode(text).map_err(|_| anyhow!("{name} is no signature of minisign"))?;
        // The whole file is hashed, which takes a large one some time.
        block_in_place(|| key.verify(wasm, &signature, false))
            .map_err(|error| anyhow!("{name} does not show that the key of the configuration signed it: {error}"))?;
        signed_at(signature.trusted_comment()).map(Some).with_context(|| {
            format!(
                "the trusted comment in {name} has no time: sign without -t, or give -t a text with timestamp:SECONDS"
            )
        })
    }
}

/// Returns the time in a trusted comment.
fn signed_at(comment: &str) -> Option<SignedAt> {
    comment.split_whitespace().find_map(|word| word.strip_prefix("timestamp:")?.parse().ok()).map(SignedAt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha256_in_hex() {
        let digits = "aB".repeat(32);
        assert_eq!(format!("sha256:{digits}").parse(), Ok(PinnedDigest(digits.to_lowercase())));
        for text in [
            "",
            "sha256:",
            &digits,
            &format!("sha512:{digits}"),
            &format!("sha256:{digits}0"),
            &format!("sha256:{}zz", &digits[2..]),
        ] {
            assert!(text.parse::<PinnedDigest>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_from_trusted_comments() {
        assert_eq!(signed_at("timestamp:1700000000\tfile:a.wasm\thashed"), Some(SignedAt(1_700_000_000)));
        assert_eq!(signed_at("version 2, timestamp:7"), Some(SignedAt(7)));
        assert_eq!(signed_at("timestamp: 7"), None);
    }
}
