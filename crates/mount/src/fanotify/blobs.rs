//! The blobs that a group watches over, by the identity of their backing files.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use larder_ondemand::Blob;

use super::group::Group;

/// Which file is meant: what fstat(2) says of any descriptor of it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// A blob together with the identity of its backing file; made nowhere else, so that the two belong together.
#[derive(Debug)]
pub(super) struct Watched {
    id: FileId,
    blob: Arc<Blob>,
}

impl Watched {
    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn blob(&self) -> &Arc<Blob> {
        &self.blob
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.blob.resources().object().file()
    }
}

/// A backing file that may be given to the kernel: it has no hole, or the kernel asks before it reads one.
///
/// The mount call takes nothing else, so that a mount before the mark has no spelling (A.6: the kernel decides at
/// open whether an open file ever asks).
#[derive(Debug)]
pub(super) struct Device {
    watched: Arc<Watched>,
}

impl Device {
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.watched.file()
    }
}

/// One mount, as the table knows it; never reused. Not the mount's id: what failed to mount under an id that is in use
/// must not take the marks of the mount that lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct User(u64);

impl User {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

struct Entry {
    watched: Arc<Watched>,
    /// The mounts that use it.
    users: Vec<User>,
    marked: bool,
}

/// All blobs of a group.
#[derive(Default)]
pub(super) struct BlobTable {
    entries: RwLock<HashMap<FileId, Entry>>,
}

impl BlobTable {
    /// The blob whose backing file `id` is.
    pub(super) fn get(&self, id: FileId) -> Option<Arc<Watched>> {
        self.read().get(&id).map(|entry| Arc::clone(&entry.watched))
    }

    /// Enters `blob` for the mount `user` and marks its file, unless it is complete and durable. A mark that is there
    /// already (an earlier worker's) stays as it is.
    pub(super) fn watch(&self, group: &Group, user: User, blob: &Arc<Blob>) -> io::Result<Device> {
        let object = blob.resources().object();
        let id = FileId::of(object.file())?;
        // A mark may only be missing where a lost write cannot bring a hole back: complete is not enough.
        let sealed = object.is_complete() && object.commit().is_ok() && object.is_complete();
        let mut entries = self.write();
        let entry = entries.entry(id).or_insert_with(|| Entry {
            watched: Arc::new(Watched { id, blob: Arc::clone(blob) }),
            users: Vec::new(),
            marked: false,
        });
        if !sealed && !entry.marked {
            if let Err(error) = group.mark(object.file()) {
                if entry.users.is_empty() {
                    entries.remove(&id);
                }
                return Err(error);
            }
            entry.marked = true;
        }
        entry.users.push(user);
        Ok(Device { watched: Arc::clone(&entry.watched) })
    }

    /// Forgets the mount `user`; takes the marks off what no mount uses any more. The superblock must be gone.
    pub(super) fn release(&self, group: &Group, user: User) {
        self.write().retain(|_, entry| {
            entry.users.retain(|other| *other != user);
            if entry.users.is_empty() && entry.marked {
                unmark(group, &entry.watched);
            }
            !entry.users.is_empty()
        });
    }

    /// Forgets the mount `user`, whose superblock lives on. The marks stay: without them the kernel would read holes.
    pub(super) fn forget(&self, user: User) {
        self.write().retain(|_, entry| {
            entry.users.retain(|other| *other != user);
            !entry.users.is_empty()
        });
    }

    /// Whether no mount uses any.
    pub(super) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Whether the mount `user` uses any.
    pub(super) fn is_used_by(&self, user: User) -> bool {
        self.read().values().any(|entry| entry.users.contains(&user))
    }

    /// Takes the mark off a blob that is complete and durable.
    pub(super) fn on_complete(&self, group: &Group, blob: &Arc<Blob>) {
        let Ok(id) = FileId::of(blob.resources().object().file()) else { return };
        if !blob.is_complete() {
            tracing::warn!(blob = %blob.name(), "called complete, but it has holes: its mark stays");
            return;
        }
        if let Some(entry) = self.write().get_mut(&id).filter(|entry| entry.marked) {
            unmark(group, &entry.watched);
            entry.marked = false;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<FileId, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<FileId, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unmark(group: &Group, watched: &Watched) {
    match group.unmark(watched.file().as_fd()) {
        Ok(()) => tracing::debug!(blob = %watched.blob.name(), "mark taken off"),
        Err(error) => tracing::debug!(blob = %watched.blob.name(), %error, "no mark to take off"),
    }
}
