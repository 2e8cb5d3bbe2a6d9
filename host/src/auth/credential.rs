//! Credentials.

use std::fmt;

/// Credential of a request, not checked yet.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// An API key, from `x-api-key` or a bearer token that starts as one.
    ApiKey(String),
    /// Any other bearer token.
    Bearer(String),
}

impl Credential {
    /// Prefix of API keys, by which they differ from other bearer tokens.
    pub const API_KEY_PREFIX: &str = "recoup_sk_";

    /// Returns the credential that a bearer token is: an API key where it starts as one.
    pub fn from_bearer(token: impl Into<String>) -> Self {
        let token = token.into();
        match token.starts_with(Self::API_KEY_PREFIX) {
            true => Self::ApiKey(token),
            false => Self::Bearer(token),
        }
    }
}

/// Prints the kind and never the secret.
impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ApiKey(_) => "ApiKey(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        assert!(!format!("{:?}", Credential::ApiKey("secret".into())).contains("secret"));
    }
}
