//! Claims: the request that an idempotency key was used for.

use std::{fmt, time::Duration};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{CreateWorkspaceRequest, auth::Caller};

/// A client's name for one request, under which it may send the request again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// The text is no idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to {max} characters of visible ASCII", max = IdempotencyKey::MAX_LENGTH)]
pub struct InvalidKey;

impl IdempotencyKey {
    /// The longest key, in characters.
    pub const MAX_LENGTH: usize = 255;

    /// Returns a key of 1 to [`MAX_LENGTH`](Self::MAX_LENGTH) characters of visible ASCII.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] for any other text.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let fits = (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(InvalidKey) }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says that there is one: clients put what they like into it.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("IdempotencyKey(…)")
    }
}

/// A caller's claim to a key for one request: who, which operation, which key, which payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Caller that sends it; the same key of another caller is another claim.
    pub caller_id: Uuid,
    /// The key.
    pub key: IdempotencyKey,
    /// SHA-256 of the request as the operation reads it: an absent field and one that is `null` are
    /// the same, and unknown ones do not count.
    pub fingerprint: [u8; 32],
}

impl Claim {
    /// The operation claims are for, kept with each, so that keys of another operation are others.
    pub const ROUTE: &str = "POST /api/workspaces";

    /// Minimum time for which a claim is kept. The draft standard (draft-ietf-httpapi-idempotency-key-header)
    /// leaves it to the service; a day is what the field does.
    pub const KEPT: Duration = Duration::from_hours(24);

    /// Returns a caller's claim to `key` for `request`.
    pub fn new(caller: &Caller, key: IdempotencyKey, request: &CreateWorkspaceRequest) -> Self {
        let mut hash = Sha256::new();
        for field in [&request.name, &request.account_id, &request.organization_id] {
            // The length before each text: no two requests run together into the same bytes.
            match field {
                None => hash.update([0]),
                Some(text) => {
                    hash.update([1]);
                    hash.update((text.len() as u64).to_be_bytes());
                    hash.update(text);
                }
            }
        }
        Self { caller_id: caller.account_id, key, fingerprint: hash.finalize().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_1_to_255_visible_characters() {
        for good in ["a", "\"", "~!", &"k".repeat(255)] {
            assert_eq!(IdempotencyKey::new(good).map(|key| key.0), Ok(good.to_owned()));
        }
        for bad in ["", " ", "a b", "a\tb", "é", "\u{7f}", &"k".repeat(256)] {
            assert_eq!(IdempotencyKey::new(bad), Err(InvalidKey), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_has_no_text_of_the_key() -> Result<(), InvalidKey> {
        assert_eq!(format!("{:?}", IdempotencyKey::new("secret")?), "IdempotencyKey(…)");
        Ok(())
    }

    #[test]
    fn fingerprints_tell_every_request_from_every_other() -> Result<(), InvalidKey> {
        let texts = [None, Some(""), Some("a"), Some("aa"), Some("\0")];
        let mut seen = std::collections::HashSet::new();
        for name in texts {
            for account_id in texts {
                for organization_id in texts {
                    let [name, account_id, organization_id] =
                        [name, account_id, organization_id].map(|text| text.map(str::to_owned));
                    let request = CreateWorkspaceRequest { name, account_id, organization_id };
                    let caller = Caller::new(Uuid::nil());
                    seen.insert(Claim::new(&caller, IdempotencyKey::new("k")?, &request).fingerprint);
                }
            }
        }
        assert_eq!(seen.len(), texts.len().pow(3));
        Ok(())
    }
}
