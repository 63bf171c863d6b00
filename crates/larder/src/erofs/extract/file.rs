//! [`OpenFile`]: a regular file that is being filled, perhaps by several threads.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_erofs::Inode;
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::attributes::{Kind, Made, mode_at_birth, restore};
use super::copy::{Buffer, copy};
use super::dir::Dir;

/// A new file. When the last piece is written it is dropped, and gets its attributes; or is removed, when its contents
/// could not be had: what is there is right.
pub(super) struct OpenFile<'a> {
    dir: Arc<Dir<'a>>,
    name: Vec<u8>,
    inode: Inode,
    fd: OwnedFd,
    failed: AtomicBool,
}

impl<'a> OpenFile<'a> {
    /// Makes the file `name`, of its final length.
    pub fn make(
        dir: Arc<Dir<'a>>,
        name: Vec<u8>,
        inode: Inode,
    ) -> Result<Self, (Arc<Dir<'a>>, Vec<u8>, Errno)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = mode_at_birth(dir.shared(), &inode, dir.is_plain());
        match dir.make_anew(&name, |at| rustix::fs::openat(at, name.as_slice(), flags, mode)) {
            Ok(fd) => Ok(Self { dir, name, inode, fd, failed: AtomicBool::new(false) }),
            Err(errno) => Err((dir, name, errno)),
        }
    }

    /// Writes the bytes from `start` to `end`.
    pub fn fill(&self, start: u64, end: u64, buffer: &mut Buffer) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let shared = self.dir.shared();
        match copy(shared, self.fd.as_fd(), &self.inode, start..end, buffer) {
            Ok(()) => shared.advance(end - start),
            Err(error) => {
                // Only the first piece tells.
                if !self.failed.swap(true, Ordering::Relaxed) {
                    self.dir.failed(&self.name, format_args!("{error:#}"));
                }
            }
        }
    }

    /// Removes what could not be filled. Other names of it stay, with nothing in them.
    fn remove(&self) {
        let emptied = rustix::fs::ftruncate(&self.fd, 0);
        let removed = rustix::fs::unlinkat(&self.dir, self.name.as_slice(), AtFlags::empty());
        if let Err(errno) = emptied.and(removed) {
            self.dir.failed(&self.name, format_args!("not removed: {errno}"));
        }
    }
}

impl Drop for OpenFile<'_> {
    fn drop(&mut self) {
        if *self.failed.get_mut() {
            self.remove();
            return;
        }
        let (shared, fd) = (self.dir.shared(), self.fd.as_fd());
        let made = Made { kind: Kind::File, plain: self.dir.is_plain() };
        restore(shared, fd, &self.inode, made, &|error| self.dir.failed(&self.name, error));
        shared.count();
    }
}
