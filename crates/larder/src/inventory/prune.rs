//! Removing what nobody uses: `larder cache prune`.

use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use larder_cachefiles::Prune;
use larder_fscache::VolumeKey;

use super::Inventory;
use crate::api::cache_types::{PruneRequest, Pruned};

impl Inventory<'_> {
    /// Removes objects that are neither in use nor pinned, the least recently used first. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// When the request makes no sense, or an object cannot be removed.
    pub fn prune(&self, request: &PruneRequest) -> anyhow::Result<Pruned> {
        let policy = self.policy(request)?;
        let culled = if request.dry_run { self.rehearse(&policy) } else { self.remove(&policy)? };
        Ok(Pruned { dry_run: request.dry_run, ..culled })
    }

    fn remove(&self, policy: &Prune) -> anyhow::Result<Pruned> {
        let culled = self.cachefiles.prune(policy)?;
        Ok(Pruned { dry_run: false, objects: culled.objects, freed_bytes: culled.bytes })
    }

    fn policy(&self, request: &PruneRequest) -> anyhow::Result<Prune> {
        let unused_since = request.unused_for_ms.map(|ms| {
            SystemTime::now().checked_sub(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH)
        });
        let until_free = request.until_free_percent.map(|percent| self.bytes_for(percent)).transpose()?;
        let until_bytes = match (request.to_bytes, until_free) {
            (Some(to), Some(free)) => Some(to.min(free)),
            (to, free) => to.or(free),
        };
        let volume = request.volume.as_deref().map(VolumeKey::new).transpose()?;
        Ok(Prune { volume, unused_since, until_bytes })
    }

    /// What the cache may still take for so many hundredths of the file system to be free.
    fn bytes_for(&self, percent: u8) -> anyhow::Result<u64> {
        let root = self.cachefiles.root();
        let space = rustix::fs::statvfs(root).with_context(|| format!("{}: statvfs", root.display()))?;
        let wanted = u128::from(space.f_blocks) * u128::from(percent) / 100;
        let missing = wanted.saturating_sub(u128::from(space.f_bavail)) * u128::from(space.f_frsize);
        let missing = u64::try_from(missing).unwrap_or(u64::MAX);
        Ok(self.cachefiles.usage().stored_bytes.saturating_sub(missing))
    }

    /// What the policy would remove now.
    fn rehearse(&self, policy: &Prune) -> Pruned {
        let mut chosen = Vec::new();
        self.cachefiles.objects(|info| {
            let wanted = policy.volume.as_ref().is_none_or(|volume| *volume == info.volume)
                && policy.unused_since.is_none_or(|since| info.last_used < since);
            if wanted && !info.pinned && !self.cachefiles.is_in_use(&info.volume, &info.cookie) {
                chosen.push((info.last_used, info.stored_bytes));
            }
            ControlFlow::Continue(())
        });
        chosen.sort_unstable();
        let mut pruned = Pruned::default();
        let mut left = self.cachefiles.usage().stored_bytes;
        for (_, bytes) in chosen {
            if policy.until_bytes.is_some_and(|until| left <= until) {
                break;
            }
            left = left.saturating_sub(bytes);
            pruned.objects += 1;
            pruned.freed_bytes = pruned.freed_bytes.saturating_add(bytes);
        }
        pruned
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use larder_cachefiles::{BootId, Cachefiles, Config, Limits, NoHolder};
    use larder_fscache::{Backend as _, CookieKey, ObjectSpec};

    use super::*;
    use crate::inventory::Catalogue;

    const OBJECT_BYTES: usize = 256 << 10;

    #[test]
    fn no_more_is_removed_than_was_asked_for_though_upkeep_would_cull() {
        let dir = tempfile::tempdir().expect("a directory");
        let quota = Some(16 * OBJECT_BYTES as u64);
        let cachefiles = Cachefiles::open(Config {
            limits: Limits { quota, ..Limits::default() },
            ..Config::new(dir.path().join("cache"), BootId::from_bytes([1; 16]), Arc::new(NoHolder))
        });
        let cachefiles = cachefiles.expect("fit");
        let volume = VolumeKey::new("v").expect("valid");
        for n in 0..15 {
            let key = CookieKey::new(&format!("c{n}")).expect("valid");
            let spec = ObjectSpec::of_size(OBJECT_BYTES as u64);
            let object = cachefiles.acquire(&volume, &key, &spec).expect("space");
            object.write(0, &vec![7; OBJECT_BYTES]).expect("space");
            object.commit().expect("a healthy disk");
        }
        let catalogue = Catalogue::new(dir.path().join("images"));
        let inventory = Inventory { cachefiles: &cachefiles, catalogue: &catalogue };
        let unused = PruneRequest { unused_for_ms: Some(3_600_000), ..PruneRequest::default() };
        assert_eq!(inventory.prune(&unused).expect("a healthy disk").objects, 0);
        assert_eq!(cachefiles.usage().objects, 15);
        assert_eq!(cachefiles.maintain().expect("a healthy disk").objects, 1, "there was something to cull");
    }
}
