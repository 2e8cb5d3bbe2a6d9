//! The `Host` of a request: the rules of RFC 9112, section 3.2, and the name that a tenant is found by.

use axum::{
    extract::Request,
    http::{HeaderMap, Uri, Version, header::HOST},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::response::Refusal;

/// Mark of a request that came over a connection of [`server`](super::server). A router that is called within the
/// process needs no `Host`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received;

/// Refuses a request over a connection whose `Host` is missing, repeated or invalid.
pub(super) async fn require_host(request: Request, next: Next) -> Response {
    if request.extensions().get::<Received>().is_none() {
        return next.run(request).await;
    }
    match check(request.version(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(message) => Refusal::Host(message).into_response(),
    }
}

fn check(version: Version, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 => {
            Err("The Host header is missing: send it once, with the server's name")
        }
        (None, _) => Ok(()),
        (Some(host), None) if is_valid(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err("The Host header is not valid: send the server's name, and its port if there is one"),
        (Some(_), Some(_)) => Err("The Host header is repeated: send it once"),
    }
}

/// Returns whether a value is `uri-host [ ":" port ]` (RFC 3986, section 3.2.2), with a host that is not empty.
fn is_valid(value: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    let (host, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (literal, port) = (&rest[..end], &rest[end + 1..]);
            if !literal.iter().all(|byte| is_name(byte) || *byte == b':') {
                return false;
            }
            (literal, port)
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            let (name, port) = value.split_at(end);
            if !name.iter().all(is_name) {
                return false;
            }
            (name, port)
        }
    };
    let digits = port.strip_prefix(b":").unwrap_or(port);
    !host.is_empty() && (port.is_empty() || port[0] == b':') && digits.iter().all(u8::is_ascii_digit)
}

/// Returns the host name that a request is for, without its port: the target's own, or that of the one `Host`
/// header.
pub(super) fn name<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(HOST).iter();
    let authority = match (uri.host(), hosts.next(), hosts.next()) {
        (Some(host), ..) => return Some(host),
        (None, Some(host), None) => host.to_str().ok()?,
        _ => return None,
    };
    // The colons of an IPv6 address stand within brackets.
    let name = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    Some(name.map_or(authority, |(name, _)| name))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::fuzz::fuzz;

    fn hosts(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (HOST, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn http_1_1_needs_exactly_one_valid_host() {
        for value in
            ["a", "a.example", "a.example:8080", "a:", "127.0.0.1:1", "[::1]", "[::1]:8080", "a_b", "%61", "xn--a"]
        {
            assert_eq!(check(Version::HTTP_11, &hosts(&[value])), Ok(()), "{value}");
        }
        for value in [
            "", ":80", "a b", "a/b", "a@b", "http://a", "a:b", "a:80:80", "::1", "[::1", "[]", "[::1]x", "[a/b]",
            "a?b", "a#b", "\"a\"",
        ] {
            assert!(check(Version::HTTP_11, &hosts(&[value])).is_err(), "{value}");
            assert!(check(Version::HTTP_10, &hosts(&[value])).is_err(), "{value}");
        }
        assert!(check(Version::HTTP_11, &hosts(&[])).is_err());
        assert!(check(Version::HTTP_11, &hosts(&["a", "a"])).is_err());
        assert!(check(Version::HTTP_10, &hosts(&["a", "a"])).is_err());
        assert_eq!(check(Version::HTTP_10, &hosts(&[])), Ok(()));
    }

    #[test]
    fn the_host_is_the_targets_or_that_of_the_one_header() -> Result<(), Box<dyn std::error::Error>> {
        for (target, values, expected) in [
            ("/x", &["a.example"][..], Some("a.example")),
            ("/x", &["a.example:8080"], Some("a.example")),
            ("/x", &["[::1]:8080"], Some("[::1]")),
            ("/x", &["[::1]"], Some("[::1]")),
            ("http://b.example:1/x", &["a.example"], Some("b.example")),
            ("/x", &[], None),
            ("/x", &["a.example", "b.example"], None),
        ] {
            assert_eq!(name(&target.parse()?, &hosts(values)), expected, "{target} {values:?}");
        }
        Ok(())
    }

    #[test]
    fn fuzzed_hosts_that_are_valid_are_authorities() {
        let seeds: [&[u8]; 5] = [b"acme.example", b"acme.example:8080", b"[::1]:80", b"a_b~c", b"%41"];
        fuzz(&seeds, |input| {
            if is_valid(input) {
                assert!(
                    !input.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'@' | b'?' | b'#'))
                );
            }
        });
    }
}
