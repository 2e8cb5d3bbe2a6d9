//! The credential of a request, out of its headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use super::response::Refusal;
use crate::auth::Credential;

/// Header of an API key.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const NONE: &str = "No credential: send an API key in x-api-key, or an API key or token in Authorization: Bearer";
const SEVERAL: &str = "More than one credential: send one header alone, either x-api-key or Authorization, and once";
const NOT_BEARER: &str =
    "The credential in Authorization is not of the scheme Bearer: send Authorization: Bearer <API key or token>";
const EMPTY: &str = "The credential is empty or not visible ASCII: send an API key or a token as it was issued";

/// Returns the one credential among the headers.
///
/// # Errors
///
/// A refusal that tells none, more than one and another scheme apart.
pub(super) fn credential(headers: &HeaderMap) -> Result<Credential, Refusal> {
    find(headers).map_err(Refusal::Credential)
}

fn find(headers: &HeaderMap) -> Result<Credential, &'static str> {
    let mut keys = headers.get_all(X_API_KEY).iter();
    let mut authorizations = headers.get_all(AUTHORIZATION).iter();
    match (keys.next(), keys.next(), authorizations.next(), authorizations.next()) {
        (None, _, None, _) => Err(NONE),
        (Some(key), None, None, _) => Ok(Credential::ApiKey(visible(text(key)?)?.to_owned())),
        (None, _, Some(authorization), None) => {
            let value = text(authorization)?;
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            match scheme.eq_ignore_ascii_case("bearer") {
                true => Ok(Credential::from_bearer(visible(token.trim_start_matches(' '))?)),
                false => Err(NOT_BEARER),
            }
        }
        _ => Err(SEVERAL),
    }
}

fn text(value: &HeaderValue) -> Result<&str, &'static str> {
    value.to_str().map_err(|_| EMPTY)
}

fn visible(credential: &str) -> Result<&str, &'static str> {
    match !credential.is_empty() && credential.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(credential),
        false => Err(EMPTY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    fn read(headers: &[(&'static str, &'static str)]) -> Result<Credential, &'static str> {
        let headers =
            headers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        find(&headers.collect())
    }

    #[test]
    fn reads_either_header() {
        assert_eq!(read(&[("x-api-key", "k")]), Ok(Credential::ApiKey("k".into())));
        assert_eq!(read(&[("authorization", "Bearer recoup_sk_x")]), Ok(Credential::ApiKey("recoup_sk_x".into())));
        assert_eq!(read(&[("authorization", "bearer  a.b.c")]), Ok(Credential::Bearer("a.b.c".into())));
    }

    #[test]
    fn none_several_other_schemes_and_empty_ones_are_told_apart() {
        for (headers, message) in [
            (&[][..], NONE),
            (&[("x-api-key", "k"), ("authorization", "Bearer t")], SEVERAL),
            (&[("x-api-key", "k"), ("authorization", "Basic dTpw")], SEVERAL),
            (&[("x-api-key", "k"), ("x-api-key", "k")], SEVERAL),
            (&[("authorization", "Bearer t"), ("authorization", "Bearer t")], SEVERAL),
            (&[("authorization", "Basic dTpw")], NOT_BEARER),
            (&[("authorization", "recoup_sk_x")], NOT_BEARER),
            (&[("authorization", "Bearer:t")], NOT_BEARER),
            (&[("authorization", "")], NOT_BEARER),
            (&[("x-api-key", "")], EMPTY),
            (&[("x-api-key", "a b")], EMPTY),
            (&[("authorization", "Bearer ")], EMPTY),
            (&[("authorization", "Bearer")], EMPTY),
            (&[("authorization", "Bearer a b")], EMPTY),
        ] {
            assert_eq!(read(headers), Err(message), "{headers:?}");
        }
    }

    #[test]
    fn fuzzed_headers_give_a_credential_of_visible_characters_or_none() {
        let seeds: [&[u8]; 4] = [b"Bearer recoup_sk_x", b"bearer  a.b.c", b"Basic dTpw", b"recoup_sk_x"];
        fuzz(&seeds, |input| {
            let Ok(value) = HeaderValue::from_bytes(input) else { return };
            for name in [X_API_KEY, AUTHORIZATION] {
                if let Ok(Credential::ApiKey(text) | Credential::Bearer(text)) =
                    find(&[(name, value.clone())].into_iter().collect())
                {
                    assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
                }
            }
        });
    }
}
