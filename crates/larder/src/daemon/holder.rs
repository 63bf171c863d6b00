//! [`Kept`]: the keeper as the cache sees it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use larder_cachefiles::DescriptorHolder;
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

    /// Hands the keeper what it could not take before. To be called before a mount.
    ///
    /// # Errors
    ///
    /// What it still cannot take, and why.
    pub fn keep_what_is_left(&self) -> anyhow::Result<()> {
        let mut unkept = self.unkept();
        if !unkept.is_empty() {
            // What could not even be copied may have come there since, or have been there already.
            let names = self.holder.names();
            unkept.retain(|name, copy| copy.is_some() || !names.contains(name));
        }
        while let Some(entry) = unkept.first_entry() {
            let kept = match entry.get() {
                Some(fd) => self.holder.keep(entry.key(), fd.as_fd()),
                None => Err(rustix::io::Errno::MFILE.into()),
            };
            kept.with_context(|| {
                tell(
                    Kind::Failed,
                    format!("the keeper cannot take {}", entry.key()),
                    "without it no mount would outlive this worker: give the daemon more descriptors or memory, and mount again",
                )
            })?;
            entry.remove();
        }
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

    #[tokio::test]
    async fn p4_nothing_is_mounted_until_the_keeper_has_every_descriptor() {
        let keeper = Arc::new(Full::default());
        let engine = Engine::new(tokio::runtime::Handle::current(), EngineConfig::default());
        let front_ends = FrontEnds::new("/nonexistent".into(), keeper.clone(), engine);
        let kept = Kept::new(keeper.clone(), Arc::new(front_ends));
        kept.keep_what_is_left().expect("there is nothing");
        let file = File::open("/dev/null").expect("every system has it");
        keeper.0.store(true, Ordering::Relaxed);
        kept.keep("fill/v/a", file.as_fd()).expect_err("full");
        kept.keep("fill/v/b", file.as_fd()).expect_err("full");
        let error =
            format!("{:#}", kept.keep_what_is_left().expect_err("a mount would not outlive the worker"));
        assert!(error.contains("fill/v/a") && error.contains("full"), "{error}");
        kept.release("fill/v/a");
        keeper.0.store(false, Ordering::Relaxed);
        kept.keep_what_is_left().expect("it has room again");
        assert_eq!(keeper.names(), ["fill/v/b"], "and not what nobody needs any more");
        // There was no descriptor left for a copy.
        for name in ["fill/v/b", "fill/v/c"] {
            kept.unkept().insert(name.to_owned(), None);
        }
        let error = format!("{:#}", kept.keep_what_is_left().expect_err("one is not there"));
        assert!(error.contains("fill/v/c"), "{error}");
        kept.release("fill/v/c");
        kept.keep_what_is_left().expect("the keeper has the other one");
    }
}
