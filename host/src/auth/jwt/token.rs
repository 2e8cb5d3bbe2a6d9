//! Token form, header and claims. This module fetches no keys and reads no clock.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, crypto};
use serde_json::{Map, Value};

use super::{TokenOptions, key::Key};

/// Maximum length of a token, in bytes. An Entra token that lists 200 groups has 10,734.
pub const MAX_TOKEN: usize = 16 << 10;

/// Reason for which a token is refused. A constant text, so that no part of a token reaches the log.
pub(super) type Reason = &'static str;

/// A token in the compact form of RFC 7515 whose header asks for nothing that is unknown here. Not verified.
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    /// The `kid`, the provider's name for the key.
    pub(super) key_id: Option<String>,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Token<'a> {
    /// Reads the header of a token.
    ///
    /// `jku`, `jwk`, `x5u` and `x5c` are ignored: a token does not choose the keys that vouch for it.
    pub(super) fn parse(text: &'a str) -> Result<Self, Reason> {
        if text.len() > MAX_TOKEN {
            return Err("token longer than 16 KiB");
        }
        let (message, signature) = text.rsplit_once('.').ok_or(NO_JWT)?;
        let (header, payload) = message.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or(NO_JWT)?;
        let header = object(header).ok_or("token header is no JSON object")?;
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => name.parse().map_err(|_| "token alg not supported")?,
            _ => return Err("token alg missing"),
        };
        // Extensions that must be understood (RFC 7515, section 4.1.11), of which this host knows none.
        if header.contains_key("crit") {
            return Err("token has a crit header");
        }
        // A payload that is not base64url (RFC 7797).
        if header.get("b64").is_some_and(|encoded| *encoded != Value::Bool(true)) {
            return Err("token has a b64 header");
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(kind)) if is_access_token(kind) => {}
            Some(_) => return Err("token typ is not JWT or at+jwt"),
        }
        let key_id = match header.get("kid") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err("token kid is no string"),
        };
        Ok(Self { algorithm, key_id, message, payload, signature })
    }

    /// Returns whether the key signed this token.
    pub(super) fn is_signed_by(&self, key: &Key) -> bool {
        key.algorithm == self.algorithm
            && crypto::verify(self.signature, self.message.as_bytes(), &key.key, key.algorithm).unwrap_or(false)
    }

    /// Returns the claims of a token whose signature is verified, where they meet the options at `now`, in
    /// seconds since the Unix epoch.
    pub(super) fn claims(&self, options: &TokenOptions, now: f64) -> Result<Claims, Reason> {
        let claims = Claims(object(self.payload).ok_or("token claims are no JSON object")?);
        claims.check(options, now)?;
        Ok(claims)
    }
}

const NO_JWT: Reason = "bearer token is no JWT";

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Returns whether a `typ` is one of an access token or of a plain JWT. Other types are for other recipients
/// (RFC 8725, section 3.11). The prefix `application/` may be left out (RFC 7515, section 4.1.9).
fn is_access_token(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
}

/// Claims of a token (RFC 7519, section 4).
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// Returns a claim that is a string.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn check(&self, options: &TokenOptions, now: f64) -> Result<(), Reason> {
        // One string each: a list of issuers or subjects names none.
        if self.text("iss") != Some(&options.issuer) {
            return Err("token iss is not the configured issuer");
        }
        let is_meant = match self.0.get("aud") {
            Some(Value::String(audience)) => *audience == options.audience,
            Some(Value::Array(audiences)) => audiences.iter().any(|audience| *audience == *options.audience),
            _ => false,
        };
        if !is_meant {
            return Err("token aud does not hold the configured audience");
        }
        if self.text("sub").is_none_or(|subject| subject.is_empty() || subject.len() > super::MAX_SUBJECT) {
            return Err("token sub missing, empty or longer than 255 bytes");
        }
        let leeway = options.leeway.min(super::MAX_LEEWAY).as_secs_f64();
        let time = |name, wrong: Reason| self.0.get(name).map(|time| time.as_f64().ok_or(wrong)).transpose();
        // Not valid at the expiry itself (RFC 7519, section 4.1.4).
        if time("exp", "token exp is no number")?.ok_or("token exp missing")? + leeway <= now {
            return Err("token expired");
        }
        if time("nbf", "token nbf is no number")?.is_some_and(|start| start - leeway > now) {
            return Err("token not valid yet");
        }
        if time("iat", "token iat is no number")?.is_some_and(|issued| issued - leeway > now) {
            return Err("token issued in the future");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fuzz::fuzz;

    fn with_header(header: &str) -> String {
        format!("{}.e30.c2lnbmVk", URL_SAFE_NO_PAD.encode(header))
    }

    #[test]
    fn headers_of_providers_are_read() {
        for (header, key_id) in [
            (r#"{"alg":"ES256"}"#, None),
            (r#"{"alg":"RS256","typ":"JWT","kid":"a"}"#, Some("a")),
            (r#"{"alg":"RS256","typ":"jwt","kid":null}"#, None),
            (r#"{"alg":"RS256","typ":"at+JWT"}"#, None),
            (r#"{"alg":"RS256","typ":"application/at+jwt"}"#, None),
            (r#"{"alg":"RS256","typ":"Application/JWT"}"#, None),
            // Ignored, whatever they are.
            (
                r#"{"alg":"EdDSA","jku":"https://evil.example","jwk":{"kty":"oct","k":"AA"},"x5u":1,"x5c":"","zip":1}"#,
                None,
            ),
            (r#"{"alg":"EdDSA","b64":true}"#, None),
        ] {
            let text = with_header(header);
            let key = Token::parse(&text).map(|token| token.key_id);
            assert_eq!(key, Ok(key_id.map(str::to_owned)), "{header}");
        }
    }

    #[test]
    fn headers_that_ask_for_more_are_refused() {
        for header in [
            "",
            "[]",
            "{}",
            r#"{"alg":"none"}"#,
            r#"{"alg":"NONE"}"#,
            r#"{"alg":null}"#,
            r#"{"alg":["ES256"]}"#,
            r#"{"alg":"ES256","crit":null}"#,
            r#"{"alg":"ES256","crit":[]}"#,
            r#"{"alg":"ES256","crit":["b64"],"b64":true}"#,
            r#"{"alg":"ES256","b64":false}"#,
            r#"{"alg":"ES256","b64":null}"#,
            r#"{"alg":"ES256","typ":null}"#,
            r#"{"alg":"ES256","typ":""}"#,
            r#"{"alg":"ES256","typ":"secevent+jwt"}"#,
            r#"{"alg":"ES256","typ":"dpop+jwt"}"#,
            r#"{"alg":"ES256","typ":"logout+jwt"}"#,
            r#"{"alg":"ES256","typ":"application/jose"}"#,
            r#"{"alg":"ES256","typ":["JWT"]}"#,
            r#"{"alg":"ES256","kid":1}"#,
        ] {
            assert!(Token::parse(&with_header(header)).is_err(), "{header}");
        }
        for text in ["", ".", "..", "a.b", "a.b.c", "e30.e30.e30.e30", "e30.e30.e30.e30.e30"] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
        assert!(Token::parse(&format!("{}{}", with_header(r#"{"alg":"ES256"}"#), "A".repeat(MAX_TOKEN))).is_err());
    }

    #[test]
    fn a_token_may_have_the_maximum_length() {
        let token = with_header(r#"{"alg":"ES256"}"#);
        let padding = |length: usize| format!("{token}{}", "A".repeat(length - token.len()));
        assert!(Token::parse(&padding(MAX_TOKEN)).is_ok());
        assert!(Token::parse(&padding(MAX_TOKEN + 1)).is_err());
    }

    /// Tries the claims of access or id tokens as each provider documents them, at 1,700,000,000.
    #[test]
    fn tokens_of_documented_providers_are_taken() {
        let (issued, expires) = (1_700_000_000, 1_700_003_600);
        for (provider, issuer, audience, claims) in [
            (
                "Auth0 access token",
                "https://tenant.auth0.com/",
                "https://api.example",
                json!({"iss": "https://tenant.auth0.com/", "sub": "auth0|507f1f77bcf86cd799439011", "aud": ["https://api.example", "https://tenant.auth0.com/userinfo"], "iat": issued, "exp": expires, "azp": "client", "scope": "openid"}),
            ),
            (
                "Supabase",
                "https://project.supabase.co/auth/v1",
                "authenticated",
                json!({"iss": "https://project.supabase.co/auth/v1", "aud": "authenticated", "exp": expires, "iat": issued, "sub": "123e4567-e89b-42d3-a456-426614174000", "email": "a@b.example", "phone": "", "app_metadata": {"provider": "email"}, "user_metadata": {}, "role": "authenticated", "aal": "aal1", "amr": [{"method": "password", "timestamp": issued}], "session_id": "s", "is_anonymous": false}),
            ),
            (
                "Keycloak",
                "https://sso.example/realms/main",
                "account",
                json!({"exp": expires, "iat": issued, "auth_time": issued, "jti": "j", "iss": "https://sso.example/realms/main", "aud": "account", "sub": "123e4567-e89b-42d3-a456-426614174000", "typ": "Bearer", "azp": "web", "sid": "s", "acr": "1"}),
            ),
            (
                "Google",
                "https://accounts.google.com",
                "1234.apps.googleusercontent.com",
                json!({"iss": "https://accounts.google.com", "azp": "1234.apps.googleusercontent.com", "aud": "1234.apps.googleusercontent.com", "sub": "110169484474386276334", "at_hash": "h", "email_verified": true, "iat": issued, "exp": expires}),
            ),
            (
                "Microsoft Entra v2.0",
                "https://login.microsoftonline.com/tenant/v2.0",
                "api-client-id",
                json!({"aud": "api-client-id", "iss": "https://login.microsoftonline.com/tenant/v2.0", "iat": issued, "nbf": issued, "exp": expires, "aio": "x", "azp": "c", "azpacr": "0", "groups": ["g"], "oid": "123e4567-e89b-42d3-a456-426614174000", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "tid": "t", "ver": "2.0"}),
            ),
            (
                "Okta",
                "https://org.okta.com/oauth2/default",
                "api://default",
                json!({"ver": 1, "jti": "AT.x", "iss": "https://org.okta.com/oauth2/default", "aud": "api://default", "iat": issued, "exp": expires, "cid": "c", "uid": "00uk1u7AsAk6dZL3z0g3", "scp": ["openid"], "sub": "ada@example.com"}),
            ),
            (
                "Amazon Cognito id token",
                "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example",
                "xxxxxxxxxxxxexample",
                json!({"sub": "aaaaaaaa-bbbb-cccc-dddd-example", "aud": "xxxxxxxxxxxxexample", "email_verified": true, "token_use": "id", "auth_time": issued, "iss": "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example", "cognito:username": "ada", "exp": expires, "iat": issued}),
            ),
            (
                "Firebase",
                "https://securetoken.google.com/project",
                "project",
                json!({"iss": "https://securetoken.google.com/project", "aud": "project", "auth_time": issued, "user_id": "u", "sub": "zHqZ8Xl2h4", "iat": issued, "exp": expires, "firebase": {"identities": {}, "sign_in_provider": "custom"}}),
            ),
            (
                "Clerk with an audience",
                "https://clerk.example",
                "workspaces",
                json!({"azp": "https://app.example", "exp": expires, "iat": issued, "iss": "https://clerk.example", "nbf": issued - 10, "sid": "sess_x", "sub": "user_2abc", "aud": "workspaces", "v": 2}),
            ),
            (
                "Privy",
                "privy.io",
                "app-id",
                json!({"sid": "s", "iss": "privy.io", "iat": issued, "aud": "app-id", "sub": "did:privy:clabc", "exp": expires}),
            ),
            (
                "RFC 9068",
                "https://authorization-server.example.com/",
                "https://rs.example.com/",
                json!({"iss": "https://authorization-server.example.com/", "sub": "5ba552d67", "aud": "https://rs.example.com/", "exp": expires, "iat": issued, "jti": "dbe39bf3a3ba4238a513f51d6e1691c4", "client_id": "s6BhdRkqt3", "scope": "openid profile reademail"}),
            ),
            (
                "fractions of a second",
                "i",
                "a",
                json!({"iss": "i", "sub": "s", "aud": ["a"], "exp": 1_700_000_000.5, "iat": 1_699_999_999.25}),
            ),
        ] {
            assert_eq!(check(&claims, issuer, audience), Ok(()), "{provider}");
        }
    }

    fn check(claims: &Value, issuer: &str, audience: &str) -> Result<(), Reason> {
        Claims(claims.as_object().cloned().unwrap_or_default())
            .check(&TokenOptions::new(issuer, audience), 1_700_000_000.0)
    }

    #[test]
    fn claims_at_their_limits_are_taken() {
        let longest = "s".repeat(255);
        let claims = json!({"iss": "i", "aud": "a", "sub": longest, "exp": 1_699_999_970.5, "nbf": 1_700_000_030, "iat": 1_700_000_030});
        assert_eq!(check(&claims, "i", "a"), Ok(()));
    }

    #[test]
    fn claims_that_are_missing_or_wrong_are_refused() {
        let good = json!({"iss": "i", "aud": "a", "sub": "s", "exp": 1_700_000_100, "nbf": 1_700_000_000, "iat": 1_700_000_000});
        assert_eq!(check(&good, "i", "a"), Ok(()));
        for (claim, value, reason) in [
            ("iss", Value::Null, "iss"),
            ("iss", json!(["i"]), "iss"),
            ("iss", json!("i/"), "iss"),
            ("aud", Value::Null, "aud"),
            ("aud", json!([]), "aud"),
            ("aud", json!({"a": "a"}), "aud"),
            ("aud", json!(["b", ["a"]]), "aud"),
            ("sub", Value::Null, "sub"),
            ("sub", json!(""), "sub"),
            ("sub", json!(7), "sub"),
            ("sub", json!("s".repeat(256)), "sub"),
            ("exp", json!("1700000100"), "exp"),
            ("exp", Value::Null, "exp"),
            ("exp", json!(1_699_999_970), "expired"),
            ("nbf", json!("0"), "nbf"),
            ("nbf", Value::Null, "nbf"),
            ("nbf", json!(1_700_000_031), "not valid yet"),
            ("iat", json!(true), "iat"),
            ("iat", json!(1_700_000_031), "in the future"),
        ] {
            let mut claims = good.clone();
            claims[claim] = value;
            let refused = check(&claims, "i", "a");
            assert!(refused.is_err_and(|said| said.contains(reason)), "{claims}: {refused:?}");
        }
    }

    #[test]
    fn fuzzed_tokens_are_parsed_or_refused() {
        let seeds: [&[u8]; 3] =
            [b"eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJpIn0.c2ln", b"eyJhbGciOiJub25lIn0..", b"a.b.c"];
        fuzz(&seeds, |input| {
            if let Ok(text) = std::str::from_utf8(input) {
                let parsed = Token::parse(text);
                assert!(parsed.is_err() || text.matches('.').count() == 2, "{text}");
            }
        });
    }
}
