//! [`Kept`]: the keeper as the cache sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use larder_cachefiles::{DescriptorHolder, is_held_for_object};
use larder_mount::keeper::Holder;

use super::front_ends::FrontEnds;
use crate::errors::{Kind, tell};

/// The keeper as the cache sees it: it holds live maps and fill descriptors beyond the life of a worker.
///
/// The cache works on with what the keeper cannot take. A mount does not: the next worker would open a blob's file under its
/// mark, and wait for an answer of its own whenever it fills it.
pub struct Kept {
    holder: Arc<dyn Holder>,
    /// Told of a file before the last descriptor goes by which it can be written unasked.
    front_ends: Arc<FrontEnds>,
    /// What the keeper could not take; without a descriptor when there was none left for a copy either.
    unkept: Mutex<BTreeMap<String, Option<OwnedFd>>>,
}

impl Kept {
    /// Everything goes to `holder`.
    pub fn new(holder: Arc<dyn Holder>, front_ends: Arc<FrontEnds>) -> Self {
        Self { holder, front_ends, unkept: Mutex::default() }
    }

    /// Hands the keeper what it could not take before. To be called before an image is mounted: `needed` are the names of what
    /// belongs to its objects.
    ///
    /// # Errors
    ///
    /// What of that, or of what belongs to the cache as a whole, it still cannot take, and why. What belongs to other objects
    /// is no reason: those who mount them are told.
    pub fn keep_what_is_left(&self, needed: &BTreeSet<String>) -> anyhow::Result<()> {
        let mut unkept = self.unkept();
        if unkept.is_empty() {
            return Ok(());
        }
        // What could not even be copied may have come there since, or have been there already.
        let names = self.holder.names();
        unkept.retain(|name, copy| copy.is_some() || !names.contains(name));
        let is_needed = |name: &str| needed.contains(name) || !is_held_for_object(name);
        let (mine, others): (Vec<_>, Vec<_>) = unkept.keys().cloned().partition(|name| is_needed(name));
        for name in mine {
            self.keep_one(&mut unkept, &name).with_context(|| {
                tell(
                    Kind::Failed,
                    format!("the keeper cannot take {name}, which this mount needs"),
                    "without it the mount would not outlive this worker: give the daemon more descriptors or memory, and \
                     mount again",
                )
            })?;
        }
        // Those without a copy are no matter of the keeper's.
        let has_copy = |name: &String| unkept.get(name).is_some_and(Option::is_some);
        let others: Vec<_> = others.into_iter().filter(has_copy).collect();
        for name in others {
            if let Err(error) = self.keep_one(&mut unkept, &name) {
                // It has no room for the rest either, and each would be waited for.
                tracing::warn!(name, %error, "the keeper still cannot take it; this mount does not need it");
                break;
            }
        }
        Ok(())
    }

    fn keep_one(&self, unkept: &mut BTreeMap<String, Option<OwnedFd>>, name: &str) -> io::Result<()> {
        match unkept.get(name) {
            Some(Some(fd)) => self.holder.keep(name, fd.as_fd())?,
            Some(None) => return Err(rustix::io::Errno::MFILE.into()),
            None => {}
        }
        unkept.remove(name);
        Ok(())
    }

    fn unkept(&self) -> MutexGuard<'_, BTreeMap<String, Option<OwnedFd>>> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DescriptorHolder for Kept {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut unkept = self.unkept();
        match self.holder.keep(name, fd) {
            Ok(()) => drop(unkept.remove(name)),
            Err(error) => {
                unkept.insert(name.to_owned(), fd.try_clone_to_owned().ok());
                return Err(error);
            }
        }
        Ok(())
    }

    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.holder.take(name)
    }

    fn release(&self, name: &str) {
        self.unkept().remove(name);
        self.holder.release(name);
    }

    fn release_last(&self, name: &str, file: BorrowedFd<'_>) {
        self.front_ends.let_go(file);
        self.release(name);
    }

    fn names(&self) -> Vec<String> {
        self.holder.names()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicBool, Ordering};

    use larder_ondemand::{Engine, EngineConfig};

    use super::*;

    /// A keeper that takes nothing while it is full.
    #[derive(Default)]
    struct Full(AtomicBool, Mutex<Vec<String>>);

    impl Holder for Full {
        fn keep(&self, name: &str, _: BorrowedFd<'_>) -> io::Result<()> {
            if self.0.load(Ordering::Relaxed) {
                return Err(io::Error::other("full"));
            }
            self.1.lock().expect("no panic").push(name.to_owned());
            Ok(())
        }

        fn take(&self, _: &str) -> io::Result<Option<OwnedFd>> {
            Ok(None)
        }

        fn release(&self, _: &str) {}

        fn names(&self) -> Vec<String> {
            self.1.lock().expect("no panic").clone()
        }
    }

    fn kept_by(keeper: &Arc<Full>) -> Kept {
        let engine = Engine::new(tokio::runtime::Handle::current(), EngineConfig::default());
        let front_ends = FrontEnds::new("/nonexistent".into(), Arc::clone(keeper) as _, engine);
        Kept::new(Arc::clone(keeper) as _, Arc::new(front_ends))
    }

    fn needed<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    fn refusal(kept: &Kept, names: &BTreeSet<String>) -> String {
        format!("{:#}", kept.keep_what_is_left(names).expect_err("the mount would not outlive the worker"))
    }

    #[tokio::test]
    async fn p4_an_image_is_not_mounted_until_the_keeper_has_every_descriptor_of_it() {
        let keeper = Arc::new(Full::default());
        let (kept, both) = (kept_by(&keeper), needed(["fill/v/a", "fill/v/b", "fill/v/c"]));
        kept.keep_what_is_left(&both).expect("there is nothing");
        let file = File::open("/dev/null").expect("every system has it");
        keeper.0.store(true, Ordering::Relaxed);
        kept.keep("fill/v/a", file.as_fd()).expect_err("full");
        kept.keep("fill/v/b", file.as_fd()).expect_err("full");
        let error = refusal(&kept, &both);
        assert!(error.contains("fill/v/a") && error.contains("full"), "{error}");
        kept.release("fill/v/a");
        keeper.0.store(false, Ordering::Relaxed);
        kept.keep_what_is_left(&both).expect("it has room again");
        assert_eq!(keeper.names(), ["fill/v/b"], "and not what nobody needs any more");
        // There was no descriptor left for a copy.
        for name in ["fill/v/b", "fill/v/c"] {
            kept.unkept().insert(name.to_owned(), None);
        }
        let error = refusal(&kept, &both);
        assert!(error.contains("fill/v/c"), "{error}");
        kept.release("fill/v/c");
        kept.keep_what_is_left(&both).expect("the keeper has the other one");
    }

    #[tokio::test]
    async fn p4_what_the_keeper_lacks_of_one_image_keeps_no_other_from_being_mounted() {
        let keeper = Arc::new(Full::default());
        let kept = kept_by(&keeper);
        let file = File::open("/dev/null").expect("every system has it");
        keeper.0.store(true, Ordering::Relaxed);
        kept.keep("fill/v/a", file.as_fd()).expect_err("full");
        kept.unkept().insert("live/v/a".to_owned(), None);
        kept.keep_what_is_left(&needed(["fill/v/b", "live/v/b"]))
            .expect("the other image has all of its own");
        refusal(&kept, &needed(["fill/v/a", "live/v/a"]));
        // Once there is room, whoever mounts brings what others lack.
        keeper.0.store(false, Ordering::Relaxed);
        kept.keep_what_is_left(&needed(["fill/v/b"])).expect("it has all of its own");
        assert_eq!(keeper.names(), ["fill/v/a"]);
        // What belongs to no object stands for the whole cache.
        keeper.0.store(true, Ordering::Relaxed);
        kept.keep("lock", file.as_fd()).expect_err("full");
        assert!(refusal(&kept, &needed(["fill/v/b"])).contains("lock"));
    }
}
