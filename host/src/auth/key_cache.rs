//! Cache of API keys that were found valid a moment ago, so that not every request asks the database.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::api_key::StoredKey;

/// Maximum age of a key in the cache, and so the longest time for which a key is accepted after another process has
/// revoked it. Nothing is written for it all the same: the transaction that writes checks the key again.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Maximum number of keys, of about 150 bytes each. When it is reached the cache begins anew.
const CAPACITY: usize = 1024;

/// Keys by their hashes. One that was not found is not kept: strangers have no room in it.
#[derive(Default)]
pub(super) struct KeyCache(Mutex<HashMap<String, Entry>>);

struct Entry {
    key: StoredKey,
    since: Instant,
    revocations: u64,
}

impl KeyCache {
    /// Returns a key that was found at most [`MAX_AGE`] before `now`, where none was revoked in this process since:
    /// `revocations` is their number.
    pub(super) fn get(&self, hash: &str, now: Instant, revocations: u64) -> Option<StoredKey> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = keys.get(hash)?;
        let is_fresh = entry.revocations == revocations && now.saturating_duration_since(entry.since) < MAX_AGE;
        is_fresh.then(|| entry.key.clone())
    }

    /// Keeps a key, with the time and the number of revocations of before its look-up.
    pub(super) fn insert(&self, hash: String, key: StoredKey, since: Instant, revocations: u64) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= CAPACITY {
            keys.clear();
        }
        keys.insert(hash, Entry { key, since, revocations });
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(number: u128) -> StoredKey {
        StoredKey { id: Uuid::from_u128(number), account_id: Uuid::nil(), expires_at: None }
    }

    #[test]
    fn a_key_is_known_for_a_second_and_until_one_is_revoked() {
        let (cache, now) = (KeyCache::default(), Instant::now());
        assert_eq!(cache.get("a", now, 0), None);
        cache.insert("a".into(), key(1), now, 0);
        assert_eq!(cache.get("a", now + MAX_AGE - Duration::from_millis(1), 0), Some(key(1)));
        assert_eq!(cache.get("b", now, 0), None);
        assert_eq!(cache.get("a", now + MAX_AGE, 0), None);
        assert_eq!(cache.get("a", now, 1), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let (cache, now) = (KeyCache::default(), Instant::now());
        for number in 0..10 * CAPACITY as u128 {
            cache.insert(number.to_string(), key(number), now, 0);
            assert_eq!(cache.get(&number.to_string(), now, 0), Some(key(number)));
            assert!(cache.0.lock().unwrap_or_else(PoisonError::into_inner).len() <= CAPACITY);
        }
    }
}
