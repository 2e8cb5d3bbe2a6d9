//! The provider's address, and the client that fetches keys from it.

use std::{
    error::Error as _,
    fmt::{self, Write as _},
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Uri,
    body::Bytes,
    header::{AUTHORIZATION, HeaderValue, InvalidHeaderValue, LOCATION},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::percent_decode_str;

use super::{
    key::{self, Found},
    keys::{KeysError, MAX_BYTES},
};
use crate::{excerpt::excerpt, tls_client};

/// Address of a JWKS: `https`, or `http` on this machine. A user and password in it are sent as basic authorization (RFC
/// 7617). It is printed without these and without its query, which may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The address without user and password.
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl FromStr for Address {
    type Err = KeysError;

    fn from_str(text: &str) -> Result<Self, KeysError> {
        let invalid = |error: &dyn fmt::Display| KeysError::Address(error.to_string());
        let mut uri = Uri::from_str(text).map_err(|error| invalid(&error))?;
        let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let authorization = match authority.rsplit_once('@') {
            None => None,
            Some((user, host)) => {
                let mut parts = uri.into_parts();
                parts.authority = Some(host.parse().map_err(|error| invalid(&error))?);
                uri = Uri::from_parts(parts).map_err(|error| invalid(&error))?;
                Some(basic(user).map_err(|error| invalid(&error))?)
            }
        };
        let local = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match uri.scheme_str() {
            Some("https") => Ok(Self { uri, authorization }),
            Some("http") if local => Ok(Self { uri, authorization }),
            _ => Err(KeysError::Address("keys come over https: whoever can change them can be anybody".into())),
        }
    }
}

/// Returns the header of basic authorization for the user and password of an address.
fn basic(user: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let decoded = [name, password].map(|part| percent_decode_str(part).collect::<Vec<_>>()).join(&b':');
    let mut header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(decoded)))?;
    header.set_sensitive(true);
    Ok(header)
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = (self.uri.scheme_str().unwrap_or_default(), self.uri.host().unwrap_or_default());
        write!(formatter, "{scheme}://{host}")?;
        if let Some(port) = self.uri.port_u16() {
            write!(formatter, ":{port}")?;
        }
        formatter.write_str(self.uri.path())
    }
}

impl Address {
    /// Returns the request that fetches the keys.
    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        request
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Client that fetches the keys of an address.
pub(super) struct Fetcher {
    address: Address,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Fetcher {
    /// # Errors
    ///
    /// [`KeysError::Tls`] where TLS can't be set up.
    pub(super) fn new(address: Address) -> Result<Self, KeysError> {
        Ok(Self { address, client: client()? })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns what the address answers with.
    ///
    /// # Errors
    ///
    /// The reason for the log.
    pub(super) async fn fetch(&self) -> Result<Found, String> {
        let response = self.client.request(self.address.request()).await.map_err(|error| {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let _ = write!(text, ": {cause}");
                source = cause.source();
            }
            text
        })?;
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()?.parse::<Address>().ok());
            let to = to.map_or_else(|| "elsewhere".to_owned(), |to| to.to_string());
            return Err(format!("{status}: redirects are not followed, this one leads to {}", excerpt(&to, 256)));
        }
        if !status.is_success() {
            return Err(status.to_string());
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
        let text = String::from_utf8(body.to_bytes().into()).map_err(|_| "not UTF-8".to_owned())?;
        key::read(&text)
    }
}

fn client() -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, KeysError> {
    let tls =
        tls_client::client(tls_client::system_authorities()).map_err(|error| KeysError::Tls(error.to_string()))?;
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    // Minutes pass between two fetches: no connection is kept.
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

#[cfg(test)]
mod tests {
    use super::{super::keys::KeySource, *};

    #[test]
    fn user_and_password_become_a_header_and_leave_the_address() -> Result<(), KeysError> {
        for (user, sent) in [
            ("", None),
            ("ada:secret@", Some("ada:secret")),
            ("ada@", Some("ada:")),
            (":secret@", Some(":secret")),
            ("ada:s%3Acr%40t%2f@", Some("ada:s:cr@t/")),
            ("ada:a:b@", Some("ada:a:b")),
        ] {
            let address: Address = format!("https://{user}keys.example/jwks").parse()?;
            let request = address.request();
            let expected = sent.map(|sent| format!("Basic {}", STANDARD.encode(sent)));
            let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            assert_eq!((header, request.uri().to_string()), (expected.as_deref(), "https://keys.example/jwks".into()));
            assert!(!format!("{request:?}").contains("c2Vjc"), "{request:?}");
        }
        Ok(())
    }

    #[test]
    fn an_address_is_printed_without_what_may_be_secret() -> Result<(), KeysError> {
        for (text, printed) in [
            ("https://user:secret@keys.example/jwks?token=secret", "https://keys.example/jwks"),
            ("http://secret@[::1]:8080", "http://[::1]:8080/"),
            ("https://keys.example:8443/a/b", "https://keys.example:8443/a/b"),
            ("https://user@keys.example", "https://keys.example/"),
        ] {
            let source: KeySource = text.parse()?;
            let KeySource::Address(address) = &source else { continue };
            assert_eq!(address.to_string(), printed);
            assert!(!format!("{source:?}").contains("secret"), "{source:?}");
        }
        for text in
            ["http://keys.example/secret", "https://", "http://localhost.example/", "http://127.0.0.1@evil.example/"]
        {
            let refused = KeySource::from_str(text);
            assert!(refused.is_err_and(|error| !error.to_string().contains("secret")), "{text}");
        }
        Ok(())
    }
}
