//! [`DescriptorHolder`]: somebody who keeps descriptors open when this process dies.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Keeps descriptors beyond the life of this process: the keeper, or nobody.
pub trait DescriptorHolder: Send + Sync {
    /// Keeps a copy of `fd` under `name` (at most 200 bytes); what stood there before is let go.
    ///
    /// # Errors
    ///
    /// When the holder cannot be reached. The object works on, but its live map ends with this process.
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Returns what an earlier process had kept under `name`, `None` if that is nothing.
    ///
    /// # Errors
    ///
    /// When something is kept, and this process can have no descriptor of it.
    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>>;

    /// Lets go what is kept under `name`, if anything.
    fn release(&self, name: &str);

    /// The same for the last descriptor by which `file` can be written, and which nobody has open but us: whoever watches
    /// over the file may stop that.
    fn release_last(&self, name: &str, _file: BorrowedFd<'_>) {
        self.release(name);
    }

    /// The names of all that is kept, of whatever kind.
    fn names(&self) -> Vec<String>;

    /// Whether anything is ever kept. A holder that keeps nothing has the lock given back the moment its owner lets
    /// it go, whatever copies of its descriptor a child between `fork` and `exec` has.
    fn keeps(&self) -> bool {
        true
    }
}

/// Keeps nothing: for programs that nobody restarts.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHolder;

impl DescriptorHolder for NoHolder {
    fn keep(&self, _name: &str, _fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn take(&self, _name: &str) -> io::Result<Option<OwnedFd>> {
        Ok(None)
    }

    fn release(&self, _name: &str) {}

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn keeps(&self) -> bool {
        false
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// What the keeper does, without the process: what is kept stays until it is released.
    #[derive(Default)]
    pub(crate) struct MapHolder {
        pub(crate) kept: Mutex<HashMap<String, OwnedFd>>,
        /// Whether it takes nothing more.
        pub(crate) is_full: AtomicBool,
        /// Whether no descriptor is left for what it has.
        pub(crate) gives_nothing: AtomicBool,
    }

    impl DescriptorHolder for MapHolder {
        fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
            assert!(name.len() <= 200, "{name}");
            if self.is_full.load(Ordering::Relaxed) {
                return Err(io::Error::other("full"));
            }
            let copy = fd.try_clone_to_owned()?;
            self.kept.lock().expect("no panic under this lock").insert(name.to_owned(), copy);
            Ok(())
        }

        fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
            let kept = self.kept.lock().expect("no panic under this lock");
            if self.gives_nothing.load(Ordering::Relaxed) && kept.contains_key(name) {
                return Err(rustix::io::Errno::MFILE.into());
            }
            kept.get(name).map(OwnedFd::try_clone).transpose()
        }

        fn release(&self, name: &str) {
            self.kept.lock().expect("no panic under this lock").remove(name);
        }

        fn names(&self) -> Vec<String> {
            self.kept.lock().expect("no panic under this lock").keys().cloned().collect()
        }
    }
}
