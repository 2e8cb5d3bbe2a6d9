//! The keys that tokens are verified with: from a file, or from the provider's address, where they change.

use std::{
    path::PathBuf,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use axum::http::Uri;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    auth::Denial,
    files::{self, Limit},
    tls,
};

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A PEM file with one public key, or a JWKS file (RFC 7517). Read once.
    File(PathBuf),
    /// An address that answers with a JWKS: `https`, or `http` on this machine.
    Address(Uri),
}

/// Shows an address without its user, password and query, any of which may be a secret.
fn shown(address: &Uri) -> String {
    let [scheme, host] = [address.scheme_str(), address.host()].map(Option::unwrap_or_default);
    let port = address.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{}", address.path())
}

impl FromStr for KeySource {
    type Err = KeysError;

    /// An address where it starts as one, and otherwise a file.
    fn from_str(text: &str) -> Result<Self, KeysError> {
        if !text.starts_with("https://") && !text.starts_with("http://") {
            return Ok(Self::File(text.into()));
        }
        let uri = Uri::from_str(text).map_err(|error| KeysError::Address(error.to_string()))?;
        require_safe(&uri)?;
        Ok(Self::Address(uri))
    }
}

fn require_safe(address: &Uri) -> Result<(), KeysError> {
    let local = matches!(address.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match address.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if local => Ok(()),
        _ => Err(KeysError::Address("keys come over https: whoever can change them can be anybody".into())),
    }
}

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file can't be read.
    #[error("the key file {0}: {1}")]
    File(PathBuf, std::io::Error),
    /// It holds no public key for signatures of a kind that is known.
    #[error(
        "{0} holds no public key: a PEM file with a key of P-256, P-384, Ed25519 or RSA, or a JWKS file with such keys"
    )]
    NoKey(String),
    /// The address is not one to fetch keys from.
    #[error("not an address for keys: {0}")]
    Address(String),
    /// TLS can't be set up.
    #[error("keys can't be fetched: {0}")]
    Tls(String),
}

/// A public key, and the one way it signs.
pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The time between two fetches at least, whatever tokens ask for: a stranger's `kid` is free to make up.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);

/// How old keys may be before they are fetched again: how long a key that was withdrawn may go on.
const FRESH: Duration = Duration::from_secs(600);

/// How long a fetch may take, and how much it may bring.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BYTES: usize = 256 << 10;

/// Maximum size of a key file: as much as a fetch may bring.
pub(crate) const KEY_FILE: Limit = Limit::fixed(MAX_BYTES as u64);

/// The keys by now.
pub(super) struct Keys {
    known: Arc<RwLock<Known>>,
    remote: Option<Arc<Remote>>,
}

struct Known {
    keys: Vec<Arc<Key>>,
    since: Option<Instant>,
}

/// Where keys change.
struct Remote {
    address: Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// When keys were last asked for. Locked while they are.
    asked: Mutex<Option<Instant>>,
}

impl Keys {
    pub(super) async fn new(source: KeySource) -> Result<Self, KeysError> {
        let address = match source {
            KeySource::File(path) => {
                let named = path.clone();
                let text = files::unblocked(move || files::read_text(&named, KEY_FILE)).await.flatten();
                let text = text.map_err(|error| KeysError::File(path.clone(), error))?;
                let keys = read(&text).ok_or_else(|| KeysError::NoKey(path.display().to_string()))?;
                return Ok(Self { known: Arc::new(Known { keys, since: None }.into()), remote: None });
            }
            KeySource::Address(address) => address,
        };
        require_safe(&address)?;
        let remote = Arc::new(Remote { client: client()?, address, asked: Mutex::new(None) });
        let known = Arc::new(RwLock::new(Known { keys: Vec::new(), since: None }));
        let (fetching, fetched) = (remote.clone(), known.clone());
        // Nobody waits for a provider before the first token is there.
        tokio::spawn(async move { fetching.renew(&fetched).await });
        Ok(Self { known, remote: Some(remote) })
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of this id, or the only one there is where a token or a key names none.
    pub(super) async fn find(&self, id: Option<&str>) -> Result<Option<Arc<Key>>, Denial> {
        let found = self.known().find(id);
        let Some(remote) = &self.remote else { return Ok(found) };
        if found.is_some() && self.known().since.is_some_and(|since| since.elapsed() < FRESH) {
            return Ok(found);
        }
        self.renew(remote).await;
        let known = self.known();
        if known.keys.is_empty() { Err(Denial::Unavailable) } else { Ok(known.find(id)) }
    }

    /// Asks for the keys again, in a task of its own: a client that goes away takes no fetch with it.
    async fn renew(&self, remote: &Arc<Remote>) {
        let (remote, known) = (remote.clone(), self.known.clone());
        // A panic in it is logged as such, and the keys stay.
        let _ = tokio::spawn(async move { remote.renew(&known).await }).await;
    }
}

impl Known {
    fn find(&self, id: Option<&str>) -> Option<Arc<Key>> {
        match (&self.keys[..], id) {
            ([only], None) => Some(only.clone()),
            ([only], Some(_)) if only.id.is_none() => Some(only.clone()),
            (keys, Some(_)) => keys.iter().find(|key| key.id.as_deref() == id).cloned(),
            _ => None,
        }
    }
}

impl Remote {
    /// Asks for the keys again, where they were not asked for just now. Keeps those it has where that
    /// fails.
    async fn renew(&self, known: &RwLock<Known>) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < BETWEEN_FETCHES) {
            return;
        }
        *asked = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), address = shown(&self.address), "keys for tokens");
                let fetched = Known { keys, since: Some(Instant::now()) };
                *known.write().unwrap_or_else(PoisonError::into_inner) = fetched;
            }
            Err(cause) => {
                tracing::error!(cause, address = shown(&self.address), "no new keys for tokens: it is tried again")
            }
        }
    }

    /// The keys, or for the log why there are none.
    async fn fetch(&self) -> Result<Vec<Arc<Key>>, String> {
        let fetched = timeout(FETCH_TIMEOUT, async {
            let response = self.client.get(self.address.clone()).await.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!("the answer is {}", response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
            Ok(body.map_err(|error| error.to_string())?.to_bytes())
        });
        let bytes = fetched.await.map_err(|_| format!("no answer within {FETCH_TIMEOUT:?}"))??;
        let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string())?;
        read(text).ok_or_else(|| "it holds no public key for signatures".into())
    }
}

fn client() -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, KeysError> {
    let tls = tls::client(tls::system_authorities()).map_err(|error| KeysError::Tls(error.to_string()))?;
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// The keys of a JWKS or PEM text that can verify signatures; `None` where there are none.
fn read(text: &str) -> Option<Vec<Arc<Key>>> {
    let keys: Vec<_> = match serde_json::from_str::<JwkSet>(text) {
        Ok(set) => set.keys.iter().filter_map(of_jwk).map(Arc::new).collect(),
        Err(_) => of_pem(text.as_bytes()).map(Arc::new).into_iter().collect(),
    };
    (!keys.is_empty()).then_some(keys)
}

/// A key of a set; `None` for one that is secret, for encryption, or of a kind that is not known.
fn of_jwk(jwk: &Jwk) -> Option<Key> {
    if matches!(&jwk.common.public_key_use, Some(other) if *other != PublicKeyUse::Signature) {
        return None;
    }
    let own = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Algorithm::ES384,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    let algorithm = match jwk.common.key_algorithm {
        None => own,
        // The one kind that signs in several ways.
        Some(KeyAlgorithm::RS384) if own == Algorithm::RS256 => Algorithm::RS384,
        Some(KeyAlgorithm::RS512) if own == Algorithm::RS256 => Algorithm::RS512,
        Some(KeyAlgorithm::PS256) if own == Algorithm::RS256 => Algorithm::PS256,
        Some(KeyAlgorithm::PS384) if own == Algorithm::RS256 => Algorithm::PS384,
        Some(KeyAlgorithm::PS512) if own == Algorithm::RS256 => Algorithm::PS512,
        Some(named) => (named.to_string() == format!("{own:?}")).then_some(own)?,
    };
    Some(Key { id: jwk.common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
}

/// The key of a PEM file, which signs in the way that its kind signs first.
fn of_pem(pem: &[u8]) -> Option<Key> {
    /// The length of an uncompressed point of P-384: a byte, and two coordinates.
    const P384_POINT: usize = 1 + 2 * 48;
    let elliptic = |key: DecodingKey| {
        let is_p384 = key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == P384_POINT);
        (if is_p384 { Algorithm::ES384 } else { Algorithm::ES256 }, key)
    };
    let (algorithm, key) = DecodingKey::from_ec_pem(pem)
        .map(elliptic)
        .or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key)))
        .or_else(|_| DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key)))
        .ok()?;
    Some(Key { id: None, algorithm, key })
}
