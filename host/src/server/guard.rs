//! Access to the administration. A web page of another origin has none, also not under a name that its owner has made
//! point here; with a token, only who sends it has.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Json,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::files::{self, Limit};

/// Maximum size of a file with a token.
const TOKEN_FILE: Limit = Limit::fixed(4 << 10);

/// Minimum length of a token, in bytes.
const SHORTEST_TOKEN: usize = 16;

const WRONG_HOST: &str =
    "Use the administration's own address as the host, as in http://127.0.0.1:9090; for another name see --admin-host";
const WRONG_ORIGIN: &str = "The administration answers no page of another origin";
const NO_TOKEN: &str =
    "Send the administration's token in Authorization: Bearer, as `workspaces reload --token-file` does";

/// Conditions that each request to the administration has to meet.
pub(super) struct Guard {
    /// The address that it listens at; `None` for a Unix socket, which no web page reaches.
    pub(super) address: Option<SocketAddr>,
    /// Names beside the address itself.
    pub(super) hosts: Vec<String>,
    pub(super) token: Option<Token>,
}

impl Guard {
    pub(super) async fn check(State(guard): State<Arc<Self>>, request: Request, next: Next) -> Response {
        if !guard.is_own_host(&request) {
            return refused(StatusCode::FORBIDDEN, WRONG_HOST);
        }
        if !guard.is_own_origin(request.headers()) {
            return refused(StatusCode::FORBIDDEN, WRONG_ORIGIN);
        }
        if guard.token.as_ref().is_some_and(|token| !token.is_sent(request.headers())) {
            let mut response = refused(StatusCode::UNAUTHORIZED, NO_TOKEN);
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        next.run(request).await
    }

    /// Returns whether the request is for this address. A name that somebody else owns may point to it.
    fn is_own_host(&self, request: &Request) -> bool {
        if self.address.is_none() {
            return true;
        }
        let named = only(request.headers(), &HOST).is_some_and(|host| self.allows(host));
        named && request.uri().authority().is_none_or(|target| self.allows(target.as_str()))
    }

    fn allows(&self, host: &str) -> bool {
        let (Some(address), Ok(authority)) = (self.address, host.parse::<Authority>()) else { return false };
        if host.contains('@') {
            return false;
        }
        let name = authority.host().trim_end_matches('.');
        if self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return true;
        }
        let is_local = address.ip().is_loopback() || address.ip().is_unspecified();
        let is_address = match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => ip == address.ip() || address.ip().is_unspecified() || (is_local && ip.is_loopback()),
            Err(_) => is_local && name.eq_ignore_ascii_case("localhost"),
        };
        // The scheme's own port is left out.
        is_address && authority.port_u16().unwrap_or(80) == address.port()
    }

    /// Returns whether the request comes from no web page, or from one of this very address.
    fn is_own_origin(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(ORIGIN) {
            return true;
        }
        let (Some(origin), Some(host)) = (only(headers, &ORIGIN), only(headers, &HOST)) else { return false };
        // Under another name there may be a proxy with TLS before it.
        let origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        self.address.is_some() && origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host))
    }
}

/// Returns an error in the form that all errors have.
pub(super) fn refused(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": status.as_u16(), "message": message}))).into_response()
}

/// Returns the value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The secret that every request has to bring; kept as its hash, which takes the same time to compare whatever is sent.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token([u8; 32]);

impl Token {
    /// Reads a token's file.
    ///
    /// # Errors
    ///
    /// A file that can't be read, or a token that is short or can't be sent.
    pub(super) fn read(file: &Path) -> Result<Self> {
        Ok(Self(Sha256::digest(read_token(file)?).into()))
    }

    fn is_sent(&self, headers: &HeaderMap) -> bool {
        let Some((scheme, token)) = only(headers, &AUTHORIZATION).and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let sent: [u8; 32] = Sha256::digest(token.trim()).into();
        let difference = sent.iter().zip(self.0).fold(0, |difference, (one, other)| difference | (one ^ other));
        scheme.eq_ignore_ascii_case("bearer") && difference == 0
    }
}

/// Reads the administration's token as it is sent.
///
/// # Errors
///
/// As [`Token::read`].
pub(crate) fn read_token(file: &Path) -> Result<String> {
    let name = file.display();
    let text = files::read_text(file, TOKEN_FILE).with_context(|| format!("can't read the token in {name}"))?;
    // A line break behind it is not part of it.
    let token = text.trim_end_matches(['\n', '\r']);
    ensure!(
        token.len() >= SHORTEST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic()),
        "the token in {name} has to be {SHORTEST_TOKEN} visible characters or more: make one with `openssl rand -hex 32`"
    );
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, hosts: &[&str]) -> Guard {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Guard { address: address.parse().ok(), hosts, token: None }
    }

    #[test]
    fn the_host_is_the_address_itself_or_a_name_that_was_given() {
        for (address, host, allowed) in [
            ("127.0.0.1:9090", "127.0.0.1:9090", true),
            ("127.0.0.1:9090", "localhost:9090", true),
            ("127.0.0.1:9090", "LOCALHOST.:9090", true),
            ("127.0.0.1:9090", "[::1]:9090", true),
            ("127.0.0.1:80", "127.0.0.1", true),
            ("127.0.0.1:9090", "127.0.0.1", false),
            ("127.0.0.1:9090", "127.0.0.1:9091", false),
            ("127.0.0.1:9090", "10.0.0.1:9090", false),
            ("127.0.0.1:9090", "evil.example:9090", false),
            ("127.0.0.1:9090", "localhost.evil.example:9090", false),
            ("127.0.0.1:9090", "evil@127.0.0.1:9090", false),
            ("127.0.0.1:9090", "", false),
            ("127.0.0.1:9090", "admin.example", true),
            ("127.0.0.1:9090", "ADMIN.example:443", true),
            ("10.0.0.1:9090", "10.0.0.1:9090", true),
            ("10.0.0.1:9090", "localhost:9090", false),
            ("10.0.0.1:9090", "127.0.0.1:9090", false),
            ("0.0.0.0:9090", "10.0.0.1:9090", true),
            ("[::]:9090", "[fd00::1]:9090", true),
            ("0.0.0.0:9090", "evil.example:9090", false),
        ] {
            assert_eq!(guard(address, &["admin.example"]).allows(host), allowed, "{address} {host}");
        }
    }
}
