//! [`Turns`]: one at a time for each cookie.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use larder_fscache::CookieKey;

/// Who works for which cookie, and who waits for a turn.
#[derive(Default)]
pub struct Turns(Mutex<BTreeMap<CookieKey, Arc<tokio::sync::Mutex<()>>>>);

/// A turn, until it is dropped.
pub struct Turn {
    _held: tokio::sync::OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits until nobody else has a turn for `key`.
    pub async fn take(&self, key: &CookieKey) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Only the table has it: nobody works and nobody waits.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key.clone()).or_default())
        };
        Turn { _held: turn.lock_owned().await }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_cookie_is_worked_for_by_one_at_a_time_and_leaves_nothing_behind() {
        let turns = Turns::default();
        let [one, other] = ["one", "other"].map(|key| CookieKey::new(key).expect("a key"));
        let first = turns.take(&one).await;
        assert!(turns.take(&one).now_or_never().is_none(), "it is taken");
        assert!(turns.take(&other).now_or_never().is_some(), "another cookie is not");
        drop(first);
        drop(turns.take(&one).await);
        drop(turns.take(&other).await);
        assert_eq!(turns.0.lock().expect("nobody panics with it").len(), 1, "the last one only");
    }
}
