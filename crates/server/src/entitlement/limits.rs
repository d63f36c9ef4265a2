//! How often one subscriber or one address may begin: asked before anything is done for a request.
//!
//! Every challenge costs a sequence number at the register, and who asks has proven nothing yet. Known and unknown
//! subscribers are counted alike.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most keys that are remembered at once; what has recovered is forgotten first.
const KEYS_MAX: usize = 200_000;

/// A limit per key: so many at once, then one per interval.
pub struct Limit<K> {
    burst: u32,
    interval: Duration,
    /// When each key will have recovered in full.
    recovered: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash + Clone> Limit<K> {
    /// A limit; a burst of 0 means none.
    pub fn new(burst: u32, interval_ms: u64) -> Limit<K> {
        Limit { burst, interval: Duration::from_millis(interval_ms.max(1)), recovered: Mutex::default() }
    }

    /// Takes one, or says how long to wait.
    pub fn take(&self, key: &K, now: Instant) -> Result<(), Duration> {
        if self.burst == 0 {
            return Ok(());
        }
        let mut all = self.recovered.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEYS_MAX && !all.contains_key(key) {
            all.retain(|_, recovered| *recovered > now);
            if all.len() >= KEYS_MAX {
                return Err(self.interval);
            }
        }
        let recovered = all.get(key).copied().filter(|recovered| *recovered > now).unwrap_or(now);
        let after = recovered + self.interval;
        let debt = after - now;
        let allowed = self.interval * self.burst;
        if debt > allowed {
            return Err(debt - allowed);
        }
        all.insert(key.clone(), after);
        Ok(())
    }

    /// Gives one back.
    pub fn give_back(&self, key: &K) {
        let mut all = self.recovered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recovered) = all.get_mut(key) {
            *recovered = recovered.checked_sub(self.interval).unwrap_or(*recovered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_per_interval() {
        let limit = Limit::new(3, 1_000);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take(&"a", now), Ok(()));
        }
        assert_eq!(limit.take(&"a", now), Err(Duration::from_secs(1)));
        assert_eq!(limit.take(&"b", now), Ok(()));
        assert_eq!(limit.take(&"a", now + Duration::from_secs(1)), Ok(()));
        assert!(limit.take(&"a", now + Duration::from_secs(1)).is_err());
        limit.give_back(&"a");
        assert_eq!(limit.take(&"a", now + Duration::from_secs(1)), Ok(()));
        let without = Limit::new(0, 1);
        assert!((0..1_000).all(|_| without.take(&"a", now).is_ok()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limit = Limit::new(1, 1_000);
        let now = Instant::now();
        for key in 0..KEYS_MAX {
            assert_eq!(limit.take(&key, now), Ok(()));
        }
        assert!(limit.take(&KEYS_MAX, now).is_err());
        assert_eq!(limit.take(&KEYS_MAX, now + Duration::from_secs(2)), Ok(()));
    }
}
