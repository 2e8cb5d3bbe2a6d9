//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header).

use axum::http::{HeaderMap, HeaderName};

use super::response::Refusal;
use crate::storage::IdempotencyKey;

/// The header a client names its request with.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Returns the key among the headers, if there is one. The draft has it quoted, as a structured-field string;
/// clients in the field send it bare: both are read, and name the same key.
///
/// # Errors
///
/// A refusal where the header is repeated or holds no key.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok().and_then(unquoted).and_then(|text| IdempotencyKey::new(text).ok()),
        (Some(_), Some(_)) => None,
    };
    key.map(Some).ok_or(Refusal::IdempotencyKey)
}

/// Returns the text of a bare key, or of one in quotes, within which `\"` and `\\` stand for the character
/// behind the backslash (RFC 9651, section 3.3.3); `None` where a quote is never closed.
fn unquoted(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let (mut text, mut characters) = (String::new(), quoted.chars());
    loop {
        match characters.next()? {
            '"' => return characters.as_str().is_empty().then_some(text),
            '\\' => text.push(characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            character => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::fuzz::fuzz;

    /// Returns the key that these values of the header name: `Err` where they are refused.
    fn read(values: &[&'static str]) -> Result<Option<String>, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static(value));
        }
        key(&headers).map(|key| key.map(|key| key.as_str().to_owned())).map_err(drop)
    }

    #[test]
    fn bare_and_quoted_keys_are_the_same() {
        assert_eq!(read(&[]), Ok(None));
        for (value, text) in
            [("abc", "abc"), (r#""abc""#, "abc"), (r#""a\"b\\c""#, r#"a"b\c"#), (r"a\b", r"a\b"), (r#"a"b"#, r#"a"b"#)]
        {
            assert_eq!(read(&[value]), Ok(Some(text.to_owned())), "{value}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for value in ["", r#""""#, r#"""#, r#""a"#, r#""a"b"#, r#""a\b""#, r#""a\"#, "a b", r#""a b""#, r#""a"; x=1"#] {
            assert_eq!(read(&[value]), Err(()), "{value}");
        }
        assert_eq!(read(&["a", "a"]), Err(()));
    }

    #[test]
    fn fuzzed_headers_give_a_key_of_visible_characters_or_none() {
        let seeds: [&[u8]; 4] = [b"abc", br#""abc""#, br#""a\"b\\c""#, b"123e4567-e89b-42d3-a456-426614174000"];
        fuzz(&seeds, |input| {
            let Ok(value) = HeaderValue::from_bytes(input) else { return };
            if let Ok(Some(key)) = key(&[(IDEMPOTENCY_KEY, value)].into_iter().collect()) {
                assert!((1..=IdempotencyKey::MAX_LENGTH).contains(&key.as_str().len()));
            }
        });
    }
}
