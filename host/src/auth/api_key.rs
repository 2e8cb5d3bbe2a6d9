//! API keys: random secrets, of which only a keyed hash is stored.

use std::{fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use super::{
    Auth, Caller, Credential, Denial, Grant, LookUpError,
    access::{Facts, Question},
    key_cache::KeyCache,
};
use crate::{hex::hex, now};

/// Look-ups that API keys need of a database.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Returns the key whose hash this is, expired or not, of an account that exists.
    ///
    /// # Errors
    ///
    /// Where the database can't answer.
    async fn find_key(&self, hash: &str) -> Result<Option<StoredKey>, LookUpError>;

    /// Returns the facts that bear on a question of access, all of one moment.
    ///
    /// # Errors
    ///
    /// Where the database can't answer.
    async fn facts(&self, question: &Question) -> Result<Facts, LookUpError>;

    /// Returns how many keys were revoked through this value and its clones. [`ApiKeys`] keeps keys for a second, and
    /// asks for them again after another was revoked.
    fn revocations(&self) -> u64 {
        0
    }
}

/// A key as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The key's id.
    pub id: Uuid,
    /// The account it stands for.
    pub account_id: Uuid,
    /// Time from which it is not valid, in milliseconds since the Unix epoch; never where `None`.
    pub expires_at: Option<i64>,
}

/// [`Auth`] by API keys, with the access rules of [`access`](super::access).
///
/// A key that was found is kept for a second. Another process that revokes it is noticed after that time, the
/// [`Directory`] itself at once. Storage checks the key again in the transaction that writes, so that nothing is created
/// for a revoked one.
pub struct ApiKeys {
    directory: Arc<dyn Directory>,
    pepper: Pepper,
    administrators: Option<Uuid>,
    cache: KeyCache,
}

impl ApiKeys {
    /// Keys that `directory` holds, hashed with `pepper`. Members of `administrators` may act for
    /// any account.
    pub fn new(directory: Arc<dyn Directory>, pepper: &[u8], administrators: Option<Uuid>) -> Self {
        Self { directory, pepper: Pepper::new(pepper), administrators, cache: KeyCache::default() }
    }

    /// Returns the holder of a key. Looks the key up in the directory, unless `uses_cache` is set and the cache has it.
    async fn holder(&self, credential: &Credential, uses_cache: bool) -> Result<Caller, Denial> {
        let Credential::ApiKey(key) = credential else {
            return Err(Denial::Unauthenticated("bearer token is no API key, and no tokens are configured"));
        };
        if !is_well_formed(key) {
            return Err(Denial::Unauthenticated("API key malformed"));
        }
        let hash = self.pepper.hash(key);
        let (asked, revocations) = (Instant::now(), self.directory.revocations());
        let cached = uses_cache.then(|| self.cache.get(&hash, asked, revocations)).flatten();
        let found = match cached {
            Some(key) => Some(key),
            None => self.directory.find_key(&hash).await.map_err(Denial::from)?.inspect(|key| {
                self.cache.insert(hash, key.clone(), asked, revocations);
            }),
        };
        match found {
            Some(key) if is_valid_at(key.expires_at, now()) => {
                Ok(Caller { account_id: key.account_id, key_id: Some(key.id) })
            }
            Some(_) => Err(Denial::Unauthenticated("API key expired")),
            None => Err(Denial::Unauthenticated("API key unknown or revoked")),
        }
    }
}

#[async_trait]
impl Auth for ApiKeys {
    async fn authenticate(&self, credential: &Credential) -> Result<Caller, Denial> {
        self.holder(credential, true).await
    }

    async fn authenticate_now(&self, credential: &Credential) -> Result<Caller, Denial> {
        self.holder(credential, false).await
    }

    async fn authorize(
        &self,
        caller: &Caller,
        account: Option<Uuid>,
        organization: Option<Uuid>,
    ) -> Result<Grant, Denial> {
        let question = Question::new(caller, account, organization, self.administrators);
        let facts = match question.is_own() {
            true => Facts::OWN,
            false => self.directory.facts(&question).await.map_err(Denial::from)?,
        };
        question.decide(facts).map(|grant| Grant { key_id: caller.key_id, ..grant })
    }
}

/// The secret that keys are hashed with, so that a stolen database alone can't check guesses.
#[derive(Clone)]
pub struct Pepper(Hmac<Sha256>);

impl Pepper {
    /// Returns a pepper of any length.
    #[allow(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104)")]
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// Returns what is stored of a key: lower-case hex of HMAC-SHA-256(pepper, whole key).
    pub fn hash(&self, key: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(key.as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    /// Returns what is stored beside a key's hash, so that a server with another pepper, to which the key
    /// means nothing, notices when it starts.
    pub fn check(&self) -> String {
        // No key can have this text: it has no prefix.
        self.hash("pepper check")
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pepper(…)")
    }
}

/// Number of random bytes in a key.
const KEY_BYTES: usize = 32;

/// Returns a new key: [`Credential::API_KEY_PREFIX`] and 43 characters of base64url.
///
/// # Errors
///
/// Where the operating system has no random bytes.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{}{}", Credential::API_KEY_PREFIX, URL_SAFE_NO_PAD.encode(bytes)))
}

/// Returns whether a text has the form of a key. A guess without it costs no look-up.
fn is_well_formed(key: &str) -> bool {
    key.strip_prefix(Credential::API_KEY_PREFIX).is_some_and(|secret| {
        secret.len() == KEY_BYTES * 8 / 6 + 1
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

/// Returns whether a key with this expiry is valid: one that expires now is not.
fn is_valid_at(expires_at: Option<i64>, now: i64) -> bool {
    expires_at.is_none_or(|expiry| expiry > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_the_deployment_does() {
        // RFC 4231, test case 2.
        let hash = Pepper::new(b"Jefe").hash("what do ya want for nothing?");
        assert_eq!(hash, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn generated_keys_are_well_formed_and_differ() -> Result<(), getrandom::Error> {
        let (one, two) = (generate()?, generate()?);
        assert!(is_well_formed(&one) && is_well_formed(&two), "{one} {two}");
        assert_ne!(one, two);
        assert_eq!(one.len(), 10 + 43);
        assert!(
            !is_well_formed(&one[..52])
                && !is_well_formed(&format!("{one}A"))
                && !is_well_formed(&one.replace("sk", "pk"))
        );
        Ok(())
    }

    #[test]
    fn a_key_that_expires_now_is_expired() {
        assert!(is_valid_at(None, 5) && is_valid_at(Some(6), 5));
        assert!(!is_valid_at(Some(5), 5) && !is_valid_at(Some(4), 5));
    }
}
