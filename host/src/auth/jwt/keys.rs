//! The keys that tokens are verified with: from a file, or from the provider's address, where they change.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::Mutex,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    address::{Address, Fetcher},
    key::{self, Found, Key},
};
use crate::{
    auth::Denial,
    files::{self, Limit},
};

/// Source of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySource {
    /// A PEM file with public keys, or a JWKS file (RFC 7517). Read once.
    File(PathBuf),
    /// An address that answers with a JWKS.
    Address(Address),
}

impl FromStr for KeySource {
    type Err = KeysError;

    /// Reads an address where the text starts as one, and otherwise the path of a file.
    fn from_str(text: &str) -> Result<Self, KeysError> {
        match text.starts_with("https://") || text.starts_with("http://") {
            true => Ok(Self::Address(text.parse()?)),
            false => Ok(Self::File(text.into())),
        }
    }
}

/// Reason for which keys can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The file can't be read.
    #[error("the key file {0}: {1}")]
    File(PathBuf, std::io::Error),
    /// The file holds no key that can verify signatures.
    #[error(
        "{0} holds no public key that can verify tokens ({1}): give a PEM file with keys of P-256, P-384, Ed25519 or RSA, or a JWKS file with such keys"
    )]
    NoKey(PathBuf, String),
    /// The address is not one to fetch keys from.
    #[error("not an address for keys: {0}")]
    Address(String),
    /// The maximum age of keys is shorter than [`MIN_KEYS_AGE`].
    #[error("keys are kept for {MIN_KEYS_AGE:?} at least: give a longer maximum age")]
    MaxAge,
    /// TLS can't be set up.
    #[error("keys can't be fetched: {0}")]
    Tls(String),
}

/// Maximum age of fetched keys by default. A key that was withdrawn is valid for no longer, even if the provider
/// can't be reached.
pub const KEYS_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Minimum of the maximum age: below it the provider would be asked all the time.
pub const MIN_KEYS_AGE: Duration = Duration::from_secs(1);

/// Time after which keys are fetched again; half of their maximum age where that is less.
const FRESH: Duration = Duration::from_secs(600);

/// Minimum time between two fetches, whatever tokens ask for: a stranger makes up a `kid` for nothing. A quarter
/// of the maximum age of keys where that is less.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);

/// Timeout of a fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum size of a JWKS, in bytes.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// Maximum size of a key file: as much as a fetch may bring.
pub(crate) const KEY_FILE: Limit = Limit::fixed(MAX_BYTES as u64);

/// Maximum number of skipped keys that one line of the log names.
const MAX_NAMED: usize = 8;

/// Current keys.
pub(super) enum Keys {
    Fixed(Arc<Vec<Key>>),
    Fetched { remote: Arc<Remote>, refreshing: AbortHandle },
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Self::Fetched { refreshing, .. } = self {
            refreshing.abort();
        }
    }
}

impl Keys {
    /// Reads a file, or begins to fetch from an address, without waiting for the answer.
    pub(super) async fn new(source: KeySource, max_age: Duration) -> Result<Self, KeysError> {
        match source {
            KeySource::File(path) => {
                let found = read_file(&path).await?;
                if found.keys.is_empty() {
                    return Err(KeysError::NoKey(path, named(&found.skipped)));
                }
                if !found.skipped.is_empty() {
                    let skipped = named(&found.skipped);
                    tracing::warn!(file = %path.display(), skipped, "skipped keys for tokens");
                }
                Ok(Self::Fixed(Arc::new(found.keys)))
            }
            KeySource::Address(address) => {
                let remote = Arc::new(Remote::new(address, max_age)?);
                let refreshing = tokio::spawn(refresh(remote.clone())).abort_handle();
                Ok(Self::Fetched { remote, refreshing })
            }
        }
    }

    /// Returns the keys, after the first fetch where there was none. Keys that are not too old are returned at
    /// once.
    ///
    /// # Errors
    ///
    /// [`Denial::Unavailable`] where there are none, or they are too old.
    pub(super) async fn current(&self) -> Result<Arc<Vec<Key>>, Denial> {
        let remote = match self {
            Self::Fixed(keys) => return Ok(keys.clone()),
            Self::Fetched { remote, .. } => remote,
        };
        if let Some(keys) = remote.usable() {
            return Ok(keys);
        }
        remote.clone().renew_in_background().await;
        remote.usable().ok_or_else(|| {
            remote.log_outage();
            Denial::Unavailable
        })
    }

    /// Returns keys that are newer than these, after a fetch where one is due. A token that these keys do not
    /// verify may be signed by a new one.
    pub(super) async fn newer_than(&self, keys: &Arc<Vec<Key>>) -> Option<Arc<Vec<Key>>> {
        let Self::Fetched { remote, .. } = self else { return None };
        if remote.usable().is_none_or(|current| Arc::ptr_eq(&current, keys)) {
            remote.clone().renew_in_background().await;
        }
        remote.usable().filter(|current| !Arc::ptr_eq(current, keys))
    }
}

async fn read_file(path: &Path) -> Result<Found, KeysError> {
    let file = path.to_owned();
    let text = files::unblocked(move || files::read_text(&file, KEY_FILE)).await.flatten();
    let text = text.map_err(|error| KeysError::File(path.into(), error))?;
    key::read(&text).map_err(|reason| KeysError::NoKey(path.into(), reason))
}

/// Reads the keys of a source once.
///
/// Returns what is wrong with keys that are skipped, if there are any.
///
/// # Errors
///
/// The reason why tokens could not be verified.
#[cfg(feature = "cli")]
pub(crate) async fn check(source: &KeySource) -> Result<Option<String>, String> {
    let Found { keys, skipped } = match source {
        KeySource::File(path) => read_file(path).await.map_err(|error| error.to_string())?,
        KeySource::Address(address) => {
            let fetcher = Fetcher::new(address.clone()).map_err(|error| error.to_string())?;
            let fetched = timeout(FETCH_TIMEOUT, fetcher.fetch()).await;
            let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {FETCH_TIMEOUT:?}")));
            fetched.map_err(|reason| format!("{address}: {reason}"))?
        }
    };
    match (keys.is_empty(), skipped.is_empty()) {
        (true, _) => Err(format!("no key can verify tokens: {}", named(&skipped))),
        (false, true) => Ok(None),
        (false, false) => Ok(Some(named(&skipped))),
    }
}

/// Keeps the keys fresh, so that no token with a known key waits for a fetch.
async fn refresh(remote: Arc<Remote>) {
    loop {
        let pause = if remote.renew().await { remote.fresh } else { remote.between };
        sleep(pause).await;
    }
}

/// Keys at an address.
pub(super) struct Remote {
    fetcher: Fetcher,
    max_age: Duration,
    fresh: Duration,
    between: Duration,
    /// The keys of the last fetch that succeeded, and its time.
    known: RwLock<Option<(Arc<Vec<Key>>, Instant)>>,
    /// Locked during a fetch.
    last: Mutex<Fetch>,
    /// The log says that tokens are refused.
    outage_logged: AtomicBool,
}

/// End of the last fetch.
#[derive(Default)]
struct Fetch {
    ended: Option<Instant>,
    succeeded: bool,
    /// The last message logged about it, so that each is logged once.
    logged: Option<String>,
}

impl Remote {
    fn new(address: Address, max_age: Duration) -> Result<Self, KeysError> {
        if max_age < MIN_KEYS_AGE {
            return Err(KeysError::MaxAge);
        }
        Ok(Self {
            fetcher: Fetcher::new(address)?,
            max_age,
            fresh: FRESH.min(max_age / 2),
            between: BETWEEN_FETCHES.min(max_age / 4),
            known: RwLock::default(),
            last: Mutex::default(),
            outage_logged: AtomicBool::new(false),
        })
    }

    /// Returns the keys where there are some and they are not too old.
    fn usable(&self) -> Option<Arc<Vec<Key>>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .as_ref()
            .filter(|(keys, at)| !keys.is_empty() && at.elapsed() < self.max_age)
            .map(|(keys, _)| keys.clone())
    }

    fn log_outage(&self) {
        if !self.outage_logged.swap(true, Relaxed) {
            let (address, max_age) = (self.fetcher.address(), self.max_age);
            tracing::error!(%address, ?max_age, "tokens get 503: no keys, or keys older than their maximum age");
        }
    }

    /// Fetches the keys in a task of its own: a client that goes away cancels no fetch.
    async fn renew_in_background(self: Arc<Self>) {
        // A panic in it is logged as such, and the keys stay.
        let _ = tokio::spawn(async move { self.renew().await }).await;
    }

    /// Fetches the keys where none were fetched just now, and keeps the ones it has where that fails. Waits for a
    /// fetch in progress. Returns whether the last fetch succeeded.
    async fn renew(&self) -> bool {
        let mut last = self.last.lock().await;
        // Since its end, so that whoever waited for a fetch begins no other.
        if last.ended.is_some_and(|ended| ended.elapsed() < self.between) {
            return last.succeeded;
        }
        let fetched = timeout(FETCH_TIMEOUT, self.fetcher.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {FETCH_TIMEOUT:?}")));
        last.ended = Some(Instant::now());
        let address = self.fetcher.address();
        let (succeeded, outcome) = match fetched {
            Ok(Found { keys, skipped }) => {
                let usable = keys.len();
                let known = Some((Arc::new(keys), Instant::now()));
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
                if usable > 0 {
                    self.outage_logged.store(false, Relaxed);
                }
                (true, format!("{usable} usable, skipped: {}", named(&skipped)))
            }
            Err(cause) => (false, cause),
        };
        last.succeeded = succeeded;
        if last.logged.as_ref() != Some(&outcome) {
            match succeeded {
                true => tracing::info!(%address, keys = outcome, "fetched keys for tokens"),
                false => tracing::error!(%address, reason = outcome, "fetching keys for tokens failed, retrying"),
            }
            last.logged = Some(outcome);
        }
        succeeded
    }
}

/// Returns some of the reasons in one text.
fn named(skipped: &[String]) -> String {
    match skipped {
        [] => "none".into(),
        _ if skipped.len() > MAX_NAMED => {
            format!("{} and {} more", skipped[..MAX_NAMED].join("; "), skipped.len() - MAX_NAMED)
        }
        _ => skipped.join("; "),
    }
}
