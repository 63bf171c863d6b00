//! The blobs that a group watches over, by the identity of their backing files.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use larder_ondemand::Blob;

use super::group::Group;
use crate::content::is_sealed;
use crate::mounts::User;

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

    /// The path of the file, where it has one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.watched.blob.resources().object().path()
    }
}

/// Without users it is one whose mark could not be taken off, or not yet. It keeps the blob, and so the descriptor by which its file
/// is written: one that was opened under the mark would ask this group, and the writer would wait for itself.
struct Entry {
    watched: Arc<Watched>,
    /// The mounts that use it.
    users: Vec<User>,
    marked: bool,
}

impl Entry {
    fn is_used(&self) -> bool {
        !self.users.is_empty()
    }

    /// Takes the mark off, if there is one.
    fn unmark(&mut self, group: &Group) {
        if !self.marked {
            return;
        }
        match group.unmark(self.watched.file()) {
            Ok(()) => tracing::debug!(blob = %self.watched.blob.name(), "mark taken off"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(blob = %self.watched.blob.name(), "no mark to take off");
            }
            Err(error) => {
                tracing::warn!(blob = %self.watched.blob.name(), %error, "its mark stays, and costs each read a question");
                return;
            }
        }
        self.marked = false;
    }
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

    /// Enters `blob` for the mount `user` and marks its file, unless it is complete and durable: then it is to have no mark, not
    /// even one of an earlier worker, which was killed before it could take it off. Any other mark that is there already stays
    /// as it is.
    pub(super) fn watch(&self, group: &Group, user: User, blob: &Arc<Blob>) -> io::Result<Device> {
        let object = blob.resources().object();
        let id = FileId::of(object.file())?;
        let sealed = is_sealed(blob);
        let mut entries = self.write();
        let entry = entries.entry(id).or_insert_with(|| Entry {
            watched: Arc::new(Watched { id, blob: Arc::clone(blob) }),
            users: Vec::new(),
            marked: false,
        });
        if !entry.is_used() && !Arc::ptr_eq(&entry.watched.blob, blob) {
            // What was left of a mount that has gone may be withdrawn, and would fill nothing.
            entry.watched = Arc::new(Watched { id, blob: Arc::clone(blob) });
        }
        if !sealed && !entry.marked {
            if let Err(error) = group.mark(object.file()) {
                if !entry.is_used() {
                    entries.remove(&id);
                }
                return Err(error);
            }
            entry.marked = true;
        }
        if sealed {
            entry.marked = true;
            entry.unmark(group);
        }
        entry.users.push(user);
        Ok(Device { watched: Arc::clone(&entry.watched) })
    }

    /// Notes that the mount `user` uses nothing any more. Its superblock must be gone; what only it used is to be cleaned up.
    pub(super) fn leave(&self, user: User) {
        for entry in self.write().values_mut() {
            entry.users.retain(|other| *other != user);
        }
    }

    /// Takes the marks off what no mount uses any more; those that cannot be taken off stay, and are tried again.
    pub(super) fn unmark_unused(&self, group: &Group) {
        self.write().retain(|_, entry| {
            if !entry.is_used() {
                entry.unmark(group);
            }
            entry.is_used() || entry.marked
        });
    }

    /// Whether there is a blob that no mount uses.
    pub(super) fn is_to_be_cleaned_up(&self) -> bool {
        self.read().values().any(|entry| !entry.is_used())
    }

    /// Forgets the mount `user`, whose superblock lives on. The marks stay: without them the kernel would read holes.
    pub(super) fn forget(&self, user: User) {
        self.write().retain(|_, entry| {
            let was_used = entry.is_used();
            entry.users.retain(|other| *other != user);
            entry.is_used() || !was_used
        });
    }

    /// Whether a mount uses any.
    pub(super) fn is_used(&self) -> bool {
        self.read().values().any(Entry::is_used)
    }

    /// Whether the mount `user` uses any.
    pub(super) fn is_used_by(&self, user: User) -> bool {
        self.read().values().any(|entry| entry.users.contains(&user))
    }

    /// Takes the mark off a blob that is complete and durable. Without a mark nothing is done.
    pub(super) fn on_complete(&self, group: &Group, blob: &Arc<Blob>) {
        let Ok(id) = FileId::of(blob.resources().object().file()) else { return };
        if !self.read().get(&id).is_some_and(|entry| entry.marked) {
            return;
        }
        if !is_sealed(blob) {
            tracing::warn!(blob = %blob.name(), "called complete, but it may have holes after a crash: its mark stays");
            return;
        }
        if let Some(entry) = self.write().get_mut(&id) {
            entry.unmark(group);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<FileId, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<FileId, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
