//! Bearer tokens of an identity provider: JWTs (RFC 7519), beside the credentials of another [`Auth`].

mod keys;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

#[cfg(feature = "cli")]
pub(crate) use self::keys::KEY_FILE;
use self::keys::{Key, Keys};
pub use self::keys::{KeySource, KeysError};
use super::{Auth, Caller, Credential, Denial, Grant};

/// Which tokens are taken, and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The `iss` that a token has to have, to the letter.
    pub issuer: String,
    /// The `aud` that a token has to have, alone or among others.
    pub audience: String,
    /// The claim that holds the caller's account as a UUID, `sub` or one of the provider's own.
    pub account_claim: String,
    /// How far the clocks may be apart; at most [`MAX_LEEWAY`], which also stands for more.
    pub leeway: Duration,
}

/// The most that clocks may be apart: a token is not valid for much longer than its `exp` says.
pub const MAX_LEEWAY: Duration = Duration::from_secs(30);

/// The longest token that is looked at, in bytes; a provider's has some hundred to two thousand.
const MAX_TOKEN: usize = 8 << 10;

/// The claims that a token has to have (RFC 7519, section 4.1).
const REQUIRED: [&str; 5] = ["iss", "aud", "exp", "nbf", "sub"];

/// [`Auth`] that takes JWTs for bearer tokens, and asks another for all else: API keys, and what a
/// caller may reach.
pub struct Jwt {
    keys: Keys,
    options: Options,
    rest: Arc<dyn Auth>,
}

impl Jwt {
    /// Tokens that the keys of `source` vouch for. Keys at an address are fetched in the background: the first token
    /// waits for them, and is answered with [`Denial::Unavailable`] where they can't be had.
    ///
    /// # Errors
    ///
    /// [`KeysError`] where a file holds no usable key, or an address is none.
    pub async fn new(source: KeySource, options: Options, rest: Arc<dyn Auth>) -> Result<Self, KeysError> {
        Ok(Self { keys: Keys::new(source).await?, options, rest })
    }

    async fn caller(&self, token: &str) -> Result<Caller, Denial> {
        let unknown = Denial::Unauthenticated;
        if token.len() > MAX_TOKEN {
            return Err(unknown);
        }
        let header = decode_header(token).map_err(|_| unknown)?;
        // Extensions that must be understood (RFC 7515, section 4.1.11): none is.
        if header.crit.is_some() {
            return Err(unknown);
        }
        let key = self.keys.find(header.kid.as_deref()).await?.ok_or(unknown)?;
        self.verified(token, &key).ok_or(unknown)
    }

    /// The account of a token that a key vouches for.
    fn verified(&self, token: &str, key: &Key) -> Option<Caller> {
        /// `iss` as one string: the crate would take a list.
        #[derive(Deserialize)]
        struct Claims {
            #[expect(dead_code, reason = "its form is what is asked for")]
            iss: String,
            sub: String,
            #[serde(flatten)]
            others: HashMap<String, Value>,
        }
        // The key says how it signs, never the token.
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = self.options.leeway.min(MAX_LEEWAY).as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.options.issuer]);
        validation.set_audience(&[&self.options.audience]);
        validation.set_required_spec_claims(&REQUIRED);
        let claims = match decode::<Claims>(token, &key.key, &validation) {
            Ok(token) => token.claims,
            Err(error) => {
                tracing::debug!(%error, "a token is refused");
                return None;
            }
        };
        let account = match self.options.account_claim.as_str() {
            "sub" => &claims.sub,
            claim => claims.others.get(claim)?.as_str()?,
        };
        // Hyphenated alone: the other forms would be other names for the same account.
        let account_id = Uuid::try_parse(account).ok().filter(|id| id.hyphenated().to_string() == *account)?;
        Some(Caller::new(account_id))
    }
}

#[async_trait]
impl Auth for Jwt {
    async fn authenticate(&self, credential: &Credential) -> Result<Caller, Denial> {
        match credential {
            Credential::Bearer(token) => self.caller(token).await,
            other @ Credential::ApiKey(_) => self.rest.authenticate(other).await,
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
