//! The credential of a request, out of its headers.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

/// The header that carries an API key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a caller presents, not yet checked.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// An API key, from `x-api-key` or a bearer token that starts as one.
    ApiKey(String),
    /// Any other bearer token.
    Bearer(String),
}

impl Credential {
    /// How an API key begins; what tells it from other bearer tokens.
    pub const API_KEY_PREFIX: &str = "recoup_sk_";

    /// The one credential among the headers; `None` where there is none, more than one, or one that
    /// is not of a known form.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut keys = headers.get_all(X_API_KEY).iter();
        let mut authorizations = headers.get_all(AUTHORIZATION).iter();
        match (keys.next(), keys.next(), authorizations.next(), authorizations.next()) {
            (Some(key), None, None, None) => Some(Self::ApiKey(text(key)?.to_owned())),
            (None, None, Some(authorization), None) => {
                let (scheme, token) = text(authorization)?.split_once(' ')?;
                let token = token.trim_start_matches(' ');
                if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
                    return None;
                }
                Some(match token.starts_with(Self::API_KEY_PREFIX) {
                    true => Self::ApiKey(token.to_owned()),
                    false => Self::Bearer(token.to_owned()),
                })
            }
            _ => None,
        }
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().filter(|text| !text.is_empty())
}

/// Says which kind it is and never the secret.
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

    fn read(headers: &[(&'static str, &'static str)]) -> Option<Credential> {
        let headers =
            headers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Credential::from_headers(&headers.collect())
    }

    #[test]
    fn reads_either_header() {
        assert_eq!(read(&[("x-api-key", "k")]), Some(Credential::ApiKey("k".into())));
        assert_eq!(read(&[("authorization", "Bearer recoup_sk_x")]), Some(Credential::ApiKey("recoup_sk_x".into())));
        assert_eq!(read(&[("authorization", "bearer  a.b.c")]), Some(Credential::Bearer("a.b.c".into())));
    }

    #[test]
    fn none_two_repeated_and_malformed_are_no_credential() {
        for headers in [
            &[][..],
            &[("x-api-key", "k"), ("authorization", "Bearer t")],
            &[("x-api-key", "k"), ("x-api-key", "k")],
            &[("authorization", "Bearer t"), ("authorization", "Bearer t")],
            &[("x-api-key", "")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer")],
            &[("authorization", "Basic dTpw")],
        ] {
            assert_eq!(read(headers), None, "{headers:?}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        assert!(!format!("{:?}", Credential::ApiKey("secret".into())).contains("secret"));
    }
}
