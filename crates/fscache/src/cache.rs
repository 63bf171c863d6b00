//! [`Cache`]: hands out cookies, one a key.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cookie::Name;
use crate::stats::add;
use crate::{Backend, Cookie, CookieKey, Counts, Error, Table, VolumeKey};

/// A backend with the cookies that are in use.
pub struct Cache<B> {
    backend: B,
    cookies: Table<Name, Cookie>,
    /// Counters of the cookies that are gone.
    past: Arc<Mutex<Counts>>,
}

impl<B: Backend> Cache<B> {
    /// Returns a cache over `backend`.
    pub fn new(backend: B) -> Self {
        Self { backend, cookies: Table::new(), past: Arc::default() }
    }

    /// The backend, for what only it can tell.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Returns the cookie `key` of `volume`, an object of `size` bytes: the same one to everybody.
    ///
    /// Blocks for I/O, and while another thread acquires the same cookie.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] when it is in use with another size; what [`Backend::acquire`] says.
    pub fn acquire_cookie(
        &self,
        volume: &VolumeKey,
        key: &CookieKey,
        size: u64,
    ) -> Result<Arc<Cookie>, Error> {
        let name = (volume.clone(), key.clone());
        let cookie = self.cookies.get_or_open(&name, |lease| {
            let object = self.backend.acquire(volume, key, size)?;
            Ok(Cookie::new(name.clone(), object, Arc::clone(&self.past), lease))
        })?;
        if cookie.size() != size {
            return Err(Error::Size { cookie: key.clone(), expected: size, found: cookie.size() });
        }
        add(&cookie.stats().acquires, 1);
        tracing::debug!(%volume, cookie = %key, size, "fscache_acquire");
        Ok(cookie)
    }

    /// Returns the cookies in use, in no order.
    pub fn cookies(&self) -> Vec<Arc<Cookie>> {
        self.cookies.values()
    }

    /// Returns what happened to all cookies, those in use and those that are gone.
    pub fn counts(&self) -> Counts {
        let live = self.cookies();
        let mut sum = *self.past.lock().unwrap_or_else(PoisonError::into_inner);
        for cookie in live {
            sum += cookie.stats().counts();
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    fn keys() -> (VolumeKey, CookieKey) {
        (VolumeKey::new("v").expect("valid"), CookieKey::new("c").expect("valid"))
    }

    #[test]
    fn the_same_key_twice_is_the_same_cookie_and_volumes_do_not_share() {
        let cache = Cache::new(Memory::new());
        let (volume, key) = keys();
        let other = VolumeKey::new("w").expect("valid");
        let first = cache.acquire_cookie(&volume, &key, 100).expect("memory");
        assert!(Arc::ptr_eq(&first, &cache.acquire_cookie(&volume, &key, 100).expect("memory")));
        let elsewhere = cache.acquire_cookie(&other, &key, 100).expect("memory");
        first.write(0, &[1; 100]).expect("fits");
        assert!(first.is_complete() && !elsewhere.is_complete());
    }

    #[test]
    fn a_cookie_in_use_is_not_given_out_with_another_size() {
        let cache = Cache::new(Memory::new());
        let (volume, key) = keys();
        let _first = cache.acquire_cookie(&volume, &key, 100).expect("memory");
        let second = cache.acquire_cookie(&volume, &key, 101);
        assert!(matches!(second, Err(Error::Size { expected: 101, found: 100, .. })), "{second:?}");
    }

    #[test]
    fn bytes_outlive_the_cookie_and_so_do_its_counters() {
        let cache = Cache::new(Memory::new());
        let (volume, key) = keys();
        cache.acquire_cookie(&volume, &key, 100).expect("memory").write(0, &[1; 100]).expect("fits");
        assert!(cache.cookies().is_empty());
        assert!(cache.acquire_cookie(&volume, &key, 100).expect("memory").is_complete());
        let counts = cache.counts();
        assert_eq!((counts.acquires, counts.writes, counts.write_bytes), (2, 1, 100));
    }

    #[test]
    fn an_object_is_removed_only_when_nobody_has_it() {
        let cache = Cache::new(Memory::new());
        let (volume, key) = keys();
        let cookie = cache.acquire_cookie(&volume, &key, 100).expect("memory");
        cookie.write(0, &[1; 100]).expect("fits");
        assert!(matches!(cache.backend().remove(&volume, &key), Err(Error::Busy { .. })));
        drop(cookie);
        cache.backend().remove(&volume, &key).expect("idle");
        assert!(!cache.acquire_cookie(&volume, &key, 100).expect("memory").is_complete());
    }
}
