//! Bearer tokens of an identity provider: JWTs (RFC 7519), beside the credentials of another [`Auth`].

mod address;
mod key;
mod keys;
mod token;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

#[cfg(feature = "cli")]
pub(crate) use self::keys::KEY_FILE;
#[cfg(feature = "cli")]
pub(crate) use self::keys::check;
pub use self::{
    address::Address,
    keys::{KEYS_MAX_AGE, KeySource, KeysError, MIN_KEYS_AGE},
    token::MAX_TOKEN,
};
use self::{
    key::Key,
    keys::Keys,
    token::{Claims, Reason, Token},
};
use super::{
    Auth, Caller, Credential, Denial, Grant,
    subject::{Subject, Subjects},
};
use crate::now;

/// Requirements on tokens, and the claim that names the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOptions {
    /// The `iss` that a token must have, to the letter.
    pub issuer: String,
    /// The `aud` that a token must have, alone or among others.
    pub audience: String,
    /// The claim that holds the caller's account as a UUID, `sub` or one of the provider's own, for tokens whose
    /// subject is not linked to an account.
    pub account_claim: String,
    /// Maximum difference of the clocks, up to [`MAX_LEEWAY`], which also stands for more.
    pub leeway: Duration,
    /// Maximum age of keys that were fetched from an address, [`MIN_KEYS_AGE`] at least. Older ones verify
    /// nothing: tokens get [`Denial::Unavailable`] until new keys are fetched.
    pub keys_max_age: Duration,
    /// Make an account for a subject that has none, the first time that it presents a token. Otherwise such a
    /// token gets [`Denial::NoAccount`].
    pub create_accounts: bool,
}

impl TokenOptions {
    /// Returns the requirements on a token for `audience` by `issuer`. The account is the one that
    /// the `sub` is linked to or else names, the leeway is [`MAX_LEEWAY`], keys are valid for [`KEYS_MAX_AGE`], and
    /// no accounts are made.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            account_claim: ACCOUNT_CLAIM.into(),
            leeway: MAX_LEEWAY,
            keys_max_age: KEYS_MAX_AGE,
            create_accounts: false,
        }
    }
}

/// Claim that holds the caller's account by default.
pub const ACCOUNT_CLAIM: &str = "sub";

/// Maximum leeway: a token is not valid for much longer than its `exp` says.
pub const MAX_LEEWAY: Duration = Duration::from_secs(30);

/// Maximum length of a subject, in bytes (OpenID Connect Core, section 2).
pub const MAX_SUBJECT: usize = 255;

/// Maximum number of keys that one token is verified with. A stranger's token costs as many verifications.
const MAX_TRIED: usize = 8;

/// [`Auth`] that takes JWTs for bearer tokens, and passes the rest to another: API keys, and what a caller may
/// reach.
pub struct Jwt {
    keys: Keys,
    options: TokenOptions,
    subjects: Arc<dyn Subjects>,
    rest: Arc<dyn Auth>,
}

impl Jwt {
    /// Returns auth by tokens that the keys of `source` verify, of `subjects` that have accounts. Keys at an address are fetched in the background
    /// from now on, and the first token waits for them.
    ///
    /// # Errors
    ///
    /// [`KeysError`] where a file holds no usable key, or the maximum age of keys is too short.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn new(
        source: KeySource,
        options: TokenOptions,
        subjects: Arc<dyn Subjects>,
        rest: Arc<dyn Auth>,
    ) -> Result<Self, KeysError> {
        Ok(Self { keys: Keys::new(source, options.keys_max_age).await?, options, subjects, rest })
    }

    async fn caller(&self, token: &str) -> Result<Caller, Denial> {
        let token = Token::parse(token).map_err(Denial::Unauthenticated)?;
        let keys = self.keys.current().await?;
        if let Err(reason) = verify(&token, &keys) {
            let newer = self.keys.newer_than(&keys).await;
            newer.map_or(Err(reason), |keys| verify(&token, &keys)).map_err(Denial::Unauthenticated)?;
        }
        let claims = token.claims(&self.options, seconds()).map_err(Denial::Unauthenticated)?;
        self.account(&claims).await.map(Caller::new)
    }

    /// Returns the account of a verified token: the one that its subject is linked to, the one that its claim
    /// names, or a new one.
    async fn account(&self, claims: &Claims) -> Result<Uuid, Denial> {
        let name = claims.text("sub").ok_or(Denial::Unauthenticated("token sub missing"))?.to_owned();
        let subject = Subject { issuer: self.options.issuer.clone(), name };
        let found = self.subjects.find_subject(&subject, self.named(claims)).await;
        let account = match found {
            Ok(None) if self.options.create_accounts => self.subjects.account_of_subject(&subject).await.map(Some),
            found => found,
        };
        match account {
            Ok(Some(account)) => Ok(account),
            Ok(None) => {
                let Subject { issuer, name } = &subject;
                tracing::info!(issuer, subject = name, "no account is linked: `workspaces account link` links one");
                Err(Denial::NoAccount)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the account that the configured claim names.
    fn named(&self, claims: &Claims) -> Option<Uuid> {
        let account = claims.text(&self.options.account_claim)?;
        // Hyphenated alone: the other forms would be other names for the same account.
        Uuid::try_parse(account).ok().filter(|id| id.hyphenated().to_string() == *account)
    }
}

/// Verifies a token with each key that fits it: several may have the same `kid`, or none (RFC 7517, section 4.5).
/// The key's algorithm must be the token's: a token does not choose how a key is used.
fn verify(token: &Token<'_>, keys: &[Key]) -> Result<(), Reason> {
    let fits = |key: &&Key| {
        let is_named = token.key_id.is_none() || key.id.is_none() || key.id == token.key_id;
        key.algorithm == token.algorithm && is_named
    };
    // Those that the token names first.
    let (named, unnamed): (Vec<_>, Vec<_>) = keys.iter().filter(fits).partition(|key| key.id.is_some());
    let fitting = [named, unnamed].concat();
    match fitting.iter().take(MAX_TRIED).any(|key| token.is_signed_by(key)) {
        true => Ok(()),
        false if fitting.is_empty() => Err("no key of the token's kid and alg"),
        false => Err("token signature not verified"),
    }
}

/// Returns the time in seconds since the Unix epoch.
fn seconds() -> f64 {
    // Exact: milliseconds fit 53 bits for a quarter of a million years.
    now() as f64 / 1000.0
}

#[async_trait]
impl Auth for Jwt {
    async fn authenticate(&self, credential: &Credential) -> Result<Caller, Denial> {
        match credential {
            Credential::Bearer(token) => self.caller(token).await,
            other @ Credential::ApiKey(_) => self.rest.authenticate(other).await,
        }
    }

    async fn authenticate_now(&self, credential: &Credential) -> Result<Caller, Denial> {
        match credential {
            Credential::Bearer(token) => self.caller(token).await,
            other @ Credential::ApiKey(_) => self.rest.authenticate_now(other).await,
        }
    }

    async fn authorize(
        &self,
        caller: &Caller,
        account: Option<Uuid>,
        organization: Option<Uuid>,
    ) -> Result<Grant, Denial> {
        self.rest.authorize(caller, account, organization).await
    }
}
