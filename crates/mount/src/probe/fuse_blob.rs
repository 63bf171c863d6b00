//! The front end `fuse-blob`: a FUSE, and an EROFS that can be mounted on its files. Found out by doing it, with an
//! image of our own that nobody sees.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::mount::{FsOpenFlags, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::erofs::probe_erofs;
use super::{BE_ROOT, Unavailable, unavailable};
use crate::erofs::scratch_image;
use crate::fuse::{
    Attributes, Data, Entry, FileSystem, ListAt, Listing, NodeId, Outcome, ReadAt, Size, Validity,
};
use crate::fuse_blob::Connection;
use crate::sys::child::create_in_child;

const NEWER: &str =
    "Linux 6.12 or newer, with CONFIG_EROFS_FS_BACKED_BY_FILE, has them; else choose another front end";

pub(super) fn probe() -> Result<(), Unavailable> {
    if !rustix::process::geteuid().is_root() {
        return Err(unavailable("mounting EROFS needs CAP_SYS_ADMIN", BE_ROOT));
    }
    probe_erofs(NEWER)?;
    super::fuse::probe()?;
    let connection = Connection::new().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => unavailable("mounting FUSE needs CAP_SYS_ADMIN", BE_ROOT),
        _ => unavailable(format!("no FUSE can be mounted: {error}"), "see the kernel's log"),
    })?;
    mount_on(&connection).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTBLK) => unavailable("the kernel's EROFS knows no mounts on files", NEWER),
        _ => {
            unavailable(format!("EROFS cannot be mounted on a FUSE's file: {error}"), "see the kernel's log")
        }
    })
}

/// Mounts without a place; nothing of it is left.
fn mount_on(connection: &Connection) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    connection.serve(Arc::new(OneFile(scratch_image(1)?)), runtime.handle())?;
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "image")?;
    fsconfig_set_flag(&context, "ro")?;
    create_in_child(context.as_fd(), connection.root())
}

/// A directory in which every name is the same file.
struct OneFile(Vec<u8>);

impl OneFile {
    const NODE: NodeId = NodeId(2);

    fn attributes(&self, node: NodeId) -> Attributes {
        let kind = if node == NodeId::ROOT { libc::S_IFDIR | 0o500 } else { libc::S_IFREG | 0o400 };
        let size = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        Attributes { ino: node.0, size, mode: kind, nlink: 1, ..Attributes::default() }
    }
}

impl FileSystem for OneFile {
    fn lookup(&self, _: NodeId, _: &[u8]) -> Outcome<Entry> {
        let node = Some((Self::NODE, self.attributes(Self::NODE)));
        Outcome::Now(Ok(Entry { node, valid: Validity::FOREVER }))
    }

    fn getattr(&self, node: NodeId) -> Outcome<(Attributes, Validity)> {
        Outcome::Now(Ok((self.attributes(node), Validity::FOREVER)))
    }

    fn read(&self, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data> {
        let start = usize::try_from(at.offset).unwrap_or(usize::MAX).min(self.0.len());
        let end = start.saturating_add(at.len).min(self.0.len());
        buf.clear();
        buf.extend_from_slice(&self.0[start..end]);
        Outcome::Now(Ok(Data::InBuffer))
    }

    fn readdir(&self, _: ListAt, listing: Listing) -> Outcome<Listing> {
        Outcome::Now(Ok(listing))
    }

    fn statfs(&self) -> Size {
        Size::default()
    }
}
