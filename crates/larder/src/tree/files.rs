//! [`Files`]: opens versions of files over the cache, and lets go of their cookies.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_cachefiles::Cachefiles;
use larder_fscache::{
    AuxData, Cache, CacheResources, Cookie, CookieKey, Error, ObjectSpec, Volume, VolumeKey,
};
use larder_netfs::{Cached, File, Netfs, Version};
use larder_remote::tree::{FileVersion, TreePath, TreeStore};
use sha2::{Digest as _, Sha256};

use super::source::Remote;

/// The volume of everything that no digest vouches for: it never shares bytes with images.
const VOLUME: &str = "trees";
/// How often a cookie may be given back between being found and being used.
const TRIES: usize = 3;

/// Opens versions of files over the cache. One for all trees: two mounts of one tree share what is cached.
#[derive(Clone)]
pub struct Files {
    netfs: Arc<Netfs>,
    volume: Arc<Volume>,
    cookies: Arc<Mutex<Cookies>>,
}

#[derive(Default)]
struct Cookies {
    /// Those of files that are open, or were a moment ago.
    known: HashMap<CookieKey, Arc<Cookie>>,
    /// Those to be given back when nobody uses them.
    left: BTreeSet<CookieKey>,
}

impl Files {
    /// Files over `cache`, downloaded by `netfs`.
    ///
    /// # Errors
    ///
    /// When the cache cannot ready the volume.
    pub fn new(netfs: Arc<Netfs>, cache: &Cache<Cachefiles>) -> anyhow::Result<Self> {
        let volume = cache.acquire_volume(&VolumeKey::new(VOLUME)?, &AuxData::default())?;
        Ok(Self { netfs, volume, cookies: Arc::default() })
    }

    /// What all of them share.
    pub fn netfs(&self) -> &Arc<Netfs> {
        &self.netfs
    }

    /// Opens one version of a file. A cache that has no place for it is passed by. Blocks for I/O.
    pub fn open(&self, store: &Arc<dyn TreeStore>, path: &TreePath, version: &FileVersion) -> Arc<File> {
        let cached = self.cached(&**store, path, version);
        let source = Remote { store: Arc::clone(store), path: path.clone(), version: version.clone() };
        self.netfs.open(Arc::new(source), &as_netfs(version), cached)
    }

    fn cached(&self, store: &dyn TreeStore, path: &TreePath, version: &FileVersion) -> Cached {
        // What is cached of a version that is not settled could be of several contents.
        if version.size == 0 || !version.is_settled {
            return Cached::none();
        }
        match self.resources(store, path, version) {
            Ok(Some(resources)) => Cached::new(resources),
            // Given back again and again while it was being opened.
            Ok(None) => Cached::none(),
            Err(error) => {
                tracing::warn!(file = %path, %error, "read without the cache");
                Cached::none()
            }
        }
    }

    fn resources(
        &self,
        store: &dyn TreeStore,
        path: &TreePath,
        version: &FileVersion,
    ) -> Result<Option<CacheResources>, Error> {
        let key = CookieKey::new(&key(store, path, version))?;
        let aux = AuxData::new(&as_netfs(version).digest())?;
        let spec = ObjectSpec { size: version.size, aux };
        for _ in 0..TRIES {
            let cookie = self.cookie(&key, &spec)?;
            match cookie.use_cookie().and_then(|used| used.begin_write_operation()) {
                Ok(resources) => return Ok(Some(resources)),
                // Given back a moment ago, by whoever closed the file last.
                Err(Error::Relinquished { .. }) => self.drop_cookie(&key),
                Err(error) => {
                    // No file will be closed that could give it back.
                    self.lock().left.insert(key);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The cookie `key`, whatever it stands for just now. No I/O.
    fn cookie(&self, key: &CookieKey, spec: &ObjectSpec) -> Result<Arc<Cookie>, Error> {
        let mut cookies = self.lock();
        cookies.left.remove(key);
        if let Some(cookie) = cookies.known.get(key) {
            return Ok(Arc::clone(cookie));
        }
        let cookie = self.volume.acquire_cookie(key, spec)?;
        cookies.known.insert(key.clone(), Arc::clone(&cookie));
        Ok(cookie)
    }

    fn drop_cookie(&self, key: &CookieKey) {
        self.lock().known.remove(key);
    }

    /// Closes a file. What the cache holds for it is let go later, when it is durable: see [`Files::leaving`].
    pub fn close(&self, file: Option<Arc<File>>) {
        let key = file.as_ref().and_then(|file| Some(file.cached().resources()?.cookie().key().clone()));
        self.lock().left.extend(key);
    }

    /// The cookies of files that were closed: to be given to [`Files::let_go`] once they are durable.
    pub fn leaving(&self) -> Vec<Arc<Cookie>> {
        let cookies = self.lock();
        cookies.left.iter().filter_map(|key| cookies.known.get(key).cloned()).collect()
    }

    /// Lets go what the cache holds for `leaving`, as far as nobody uses it. Blocks for I/O.
    pub fn let_go(&self, leaving: Vec<Arc<Cookie>>) {
        for cookie in leaving {
            if !self.lock().left.contains(cookie.key()) {
                // Opened again meanwhile.
                continue;
            }
            match cookie.relinquish(false) {
                Err(Error::Busy { .. }) => continue,
                Ok(()) | Err(Error::Relinquished { .. }) => {}
                Err(error) => tracing::warn!(cookie = %cookie.key(), %error, "fscache_relinquish"),
            }
            let mut cookies = self.lock();
            cookies.left.remove(cookie.key());
            if cookies.known.get(cookie.key()).is_some_and(|known| Arc::ptr_eq(known, &cookie)) {
                cookies.known.remove(cookie.key());
            }
        }
    }

    /// Nothing panics while it holds the lock, and what it guards is sound at any moment.
    fn lock(&self) -> MutexGuard<'_, Cookies> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn as_netfs(version: &FileVersion) -> Version {
    Version { size: version.size, etag: version.etag.clone(), modified: version.modified }
}

/// The cookie's key: a digest of where the file lies and of its version, which is the cookie's coherency data as well.
///
/// In the key, so that who still reads an old version does not take the new one's place, whatever the backend.
fn key(store: &dyn TreeStore, path: &TreePath, version: &FileVersion) -> String {
    let mut place = Sha256::new();
    place.update(store.describe().as_bytes());
    place.update([0]);
    place.update(path.as_str().as_bytes());
    place.update([0]);
    place.update(as_netfs(version).digest());
    let mut key = String::from("settled-");
    for byte in place.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests {
    use larder_cachefiles::{BootId, Config, NoHolder};
    use larder_netfs::Limits;
    use larder_remote::tree::HttpTree;
    use larder_remote::{HttpClient, Policy};

    use super::*;

    #[tokio::test]
    async fn a_cookie_that_the_cache_fails_for_is_given_back() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let config = Config::new(temp.path().to_owned(), BootId::from_bytes([1; 16]), Arc::new(NoHolder));
        let cache = Cache::new(Cachefiles::open(config).expect("fit"));
        let netfs = Netfs::new(tokio::runtime::Handle::current(), Limits::default()).expect("a thread");
        let files = Files::new(netfs, &cache).expect("a volume");
        let client = HttpClient::new(Policy::default()).expect("a client");
        let url = "http://127.0.0.1:9/".parse().expect("an address");
        let store: Arc<dyn TreeStore> = Arc::new(HttpTree::new(client, url).expect("a tree"));
        let version = FileVersion { size: 1, etag: None, modified: None, is_settled: true };
        let path = TreePath::parse("f").expect("sound");
        // Nothing can be made in the volume.
        let volume = temp.path().join("cache").join(VOLUME);
        std::fs::remove_dir_all(&volume).expect("there");
        std::fs::write(&volume, b"").expect("space");
        let file = files.open(&store, &path, &version);
        assert!(file.cached().resources().is_none(), "the cache fails");
        assert_eq!(files.lock().known.len(), 1);
        files.close(Some(file));
        files.let_go(files.leaving());
        assert_eq!(files.lock().known.len(), 0, "nothing is kept of it");
        assert_eq!(files.lock().left.len(), 0);
    }
}
