//! [`Dir`]: a directory that is being filled.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use larder_erofs::Inode;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Shared;
use super::attributes::{Kind, Made, is_plain, make_plain, restore};

/// An open directory. When the last job in it is done it is dropped, and gets its own attributes: its parent, which it
/// holds, comes after it.
pub(super) struct Dir<'a> {
    shared: &'a Shared<'a>,
    fd: OwnedFd,
    parent: Option<Arc<Dir<'a>>>,
    name: Vec<u8>,
    /// What it is to become; `None` for a directory that is not ours.
    inode: Option<Inode>,
    /// Whether its owner and mode are those it was made with.
    made_plain: bool,
    /// Whether nothing of it passes to what is made in it.
    plain: bool,
}

impl<'a> Dir<'a> {
    /// The directory that everything goes into.
    pub fn top(shared: &'a Shared<'a>, fd: OwnedFd, inode: Option<Inode>) -> Self {
        let plain = passes_nothing(shared, fd.as_fd(), inode.is_some());
        Self { shared, fd, parent: None, name: Vec::new(), inode, made_plain: false, plain }
    }

    /// Makes the directory `name` in `parent` and opens it.
    pub fn make(parent: &Arc<Self>, name: &[u8], inode: &Inode) -> Result<Self, Errno> {
        let shared = parent.shared;
        let mode = if shared.plan.permissions { 0o700 } else { u32::from(inode.mode) & 0o777 | 0o700 };
        let mut is_new = true;
        match rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) if shared.plan.overwrite => is_new = false,
            made => made?,
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&parent.fd, name, flags, Mode::empty()) {
            // Something else is in the way.
            Err(Errno::NOTDIR | Errno::LOOP) if shared.plan.overwrite => {
                rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty())?;
                rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(mode))?;
                is_new = true;
                rustix::fs::openat(&parent.fd, name, flags, Mode::empty())?
            }
            opened => opened?,
        };
        let made_plain = is_new && parent.plain;
        let plain = made_plain || passes_nothing(shared, fd.as_fd(), true);
        let (parent, name, inode) = (Some(Arc::clone(parent)), name.to_vec(), Some(*inode));
        Ok(Self { shared, fd, parent, name, inode, made_plain, plain })
    }

    /// Whether nothing of it passes to what is made in it: neither its group nor an ACL.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    pub fn shared(&self) -> &'a Shared<'a> {
        self.shared
    }

    /// The path of `name` in this directory, from the target on.
    pub fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name];
        let mut dir = Some(self);
        while let Some(here) = dir {
            if !here.name.is_empty() {
                parts.push(&here.name);
            }
            dir = here.parent.as_deref();
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// Says what went wrong with `name` in this directory.
    pub fn failed(&self, name: &[u8], error: impl std::fmt::Display) {
        self.shared.failures.add(&self.path(name), error);
    }

    /// Runs `make`, which makes `name` and must find nothing there; what is there is removed first if that was asked for.
    pub fn make_anew<T>(
        &self,
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make(self.fd.as_fd()) {
            Err(Errno::EXIST) if self.shared.plan.overwrite => {
                match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => make(self.fd.as_fd()),
                    Err(errno) => Err(errno),
                }
            }
            made => made,
        }
    }
}

/// Whether a directory passes nothing on, once it has been made so if it is ours and is to get exact permissions.
fn passes_nothing(shared: &Shared<'_>, fd: BorrowedFd<'_>, is_ours: bool) -> bool {
    if is_ours && shared.plan.permissions { make_plain(fd) } else { is_plain(fd) }
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Dir<'_> {
    fn drop(&mut self) {
        if let Some(inode) = &self.inode {
            let made = Made { kind: Kind::Directory, plain: self.made_plain };
            restore(self.shared, self.fd.as_fd(), inode, made, &|error| {
                let above = self.parent.as_ref();
                let path = above.map_or_else(|| b".".to_vec(), |parent| parent.path(&self.name));
                self.shared.failures.add(&path, error);
            });
        }
    }
}
