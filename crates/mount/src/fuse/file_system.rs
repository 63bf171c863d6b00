//! [`FileSystem`]: what the loop serves. Read-only; whatever would write is refused by the loop.
//!
//! Two file systems implement it: an EROFS image (`image.rs`) and, outside this crate, the tree of a remote store.

use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_imagefs::SealedPiece;

use super::abi::ROOT_ID;
use super::dir::Listing;

/// Names an inode to the kernel, for as long as the kernel remembers it; the root is 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root's id is fixed by the protocol.
    pub const ROOT: Self = Self(ROOT_ID);
}

/// An error number of Linux, positive.
pub type Errno = i32;

/// An answer that is there, or one that has to be waited for, on the runtime.
pub enum Outcome<T> {
    /// It is here.
    Now(Result<T, Errno>),
    /// It takes a network, or a disk.
    Later(Pin<Box<dyn Future<Output = Result<T, Errno>> + Send>>),
}

impl<T> Outcome<T> {
    /// An error number.
    pub fn error(errno: Errno) -> Self {
        Self::Now(Err(errno))
    }

    /// An answer that has to be waited for.
    pub fn later(answer: impl Future<Output = Result<T, Errno>> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Time of the last change, in seconds since 1970; also given for the other times.
    pub mtime_s: i64,
    /// Its nanoseconds, below a second.
    pub mtime_ns: u32,
    /// Type and permissions: `st_mode`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as Linux encodes it.
    pub rdev: u32,
    /// Preferred size of a read, in bytes.
    pub block_bytes: u32,
}

/// How long the kernel may go by what it was told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity(pub Duration);

impl Validity {
    /// For what cannot change.
    pub const FOREVER: Self = Self(Duration::from_secs(1 << 30));
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The node; `None` when nothing has this name.
    pub node: Option<(NodeId, Attributes)>,
    /// How long that holds.
    pub valid: Validity,
}

/// What an open file is.
#[derive(Debug, Default)]
pub struct Opened {
    /// Comes back with every read and with the release.
    pub handle: u64,
    /// Whether the kernel may keep what it has of the node's contents.
    pub keep_cache: bool,
    /// A local file with the same contents at the same offsets: the kernel reads it without asking. All opens of a node
    /// at one time must agree about it.
    pub backing: Option<Backing>,
}

/// What an open directory is.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenedDir {
    /// Comes back with every listing and with the release.
    pub handle: u64,
    /// Whether the kernel may keep what it has of the listing: it has not changed.
    pub keep_cache: bool,
    /// Whether the kernel is to keep what is listed now, and to list from that without asking.
    pub list_cache: bool,
}

/// A local file that the kernel reads in place of a node.
#[derive(Debug)]
pub enum Backing {
    /// To be registered: [`FileSystem::backed`] tells what came of it.
    New(OwnedFd),
    /// Registered before.
    Known(BackingId),
}

/// The kernel's name for a registered local file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BackingId(pub u32);

/// Bytes of a file.
#[derive(Debug)]
pub enum Data {
    /// They stand in the buffer that came with the question.
    InBuffer,
    /// They are here, in order.
    Pieces(Vec<Bytes>),
    /// They lie in a file in which nothing changes any more.
    Sealed(SealedPiece),
}

/// A question for bytes of a file.
#[derive(Clone, Copy, Debug)]
pub struct ReadAt {
    /// The node.
    pub node: NodeId,
    /// What its open file said.
    pub handle: u64,
    /// First byte.
    pub offset: u64,
    /// How many at most.
    pub len: usize,
    /// Who asks.
    pub pid: u32,
}

/// How a directory is to be listed.
#[derive(Clone, Copy, Debug)]
pub struct ListAt {
    /// The directory.
    pub node: NodeId,
    /// What its open directory said.
    pub handle: u64,
    /// 0, or the offset that came with the last entry.
    pub offset: u64,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    /// Blocks of `block_bytes` in all; none of them is free.
    pub blocks: u64,
    /// Number of inodes.
    pub files: u64,
    /// Size of a block.
    pub block_bytes: u32,
}

/// What a file system can ask of the kernel that reads from it. No call waits for an answer of the file system.
pub trait Kernel: Send + Sync {
    /// Registers a local file that the kernel is to read in place of nodes; only root may (Linux 6.9).
    ///
    /// # Errors
    ///
    /// EPERM unless [`FileSystem::initialised`] said so; ELOOP for a file on a stacked file system.
    fn register(&self, file: BorrowedFd<'_>) -> io::Result<BackingId>;

    /// Takes a registration back; files that are open go on.
    fn unregister(&self, id: BackingId);

    /// Whether the kernel remembers a node.
    ///
    /// # Errors
    ///
    /// When it cannot tell: the connection has ended.
    fn knows(&self, node: NodeId) -> io::Result<bool>;

    /// Asks the kernel to forget the names of a node that nobody uses just now, and the node with them if that was all.
    ///
    /// # Errors
    ///
    /// EINVAL before Linux 6.18.
    fn forget_unused(&self, node: NodeId) -> io::Result<()>;
}

/// A read-only file system. Calls come from the loop and must not block on anything but local files.
pub trait FileSystem: Send + Sync + 'static {
    /// Whether requests change anything here: they are answered one at a time then, in their order.
    fn has_state(&self) -> bool {
        false
    }

    /// Whether the kernel should agree to read local files in place of nodes.
    fn wants_passthrough(&self) -> bool {
        self.has_state()
    }

    /// Comes first: whom to ask.
    fn connected(&self, _kernel: Arc<dyn Kernel>) {}

    /// The connection begins; whether the kernel has agreed to [passthrough](Self::wants_passthrough). Not called for one that
    /// an earlier worker has begun.
    fn initialised(&self, _passthrough: bool) {}

    /// More may be complete by now: see [`Kernel::forget_unused`].
    fn refresh(&self) {}

    /// Says what `name` in the directory `parent` leads to.
    fn lookup(&self, parent: NodeId, name: &[u8]) -> Outcome<Entry>;

    /// Tells apart what has had one node id, one after the other: the kernel keeps nothing of a node over a change of it.
    fn generation(&self, _node: NodeId) -> u64 {
        0
    }

    /// The kernel has forgotten a node that it was told of `lookups` times.
    fn forget(&self, _node: NodeId, _lookups: u64) {}

    /// Says what `stat` shows of a node.
    fn getattr(&self, node: NodeId) -> Outcome<(Attributes, Validity)>;

    /// Says what a symbolic link has in it.
    fn readlink(&self, _node: NodeId) -> Outcome<Vec<u8>> {
        Outcome::error(libc::EINVAL)
    }

    /// Opens a file. ENOSYS makes the kernel stop asking, for good, and open files by itself.
    fn open(&self, _node: NodeId) -> Outcome<Opened> {
        Outcome::error(libc::ENOSYS)
    }

    /// Says how the kernel calls a local file that came with [`FileSystem::open`]; `None` when it refuses it, and the
    /// open goes on without. The answer is what is used in the end.
    fn backed(&self, _node: NodeId, _handle: u64, id: Option<BackingId>) -> Option<BackingId> {
        id
    }

    /// An open file is closed; returns the local file that nobody reads any more.
    fn release(&self, _node: NodeId, _handle: u64) -> Option<BackingId> {
        None
    }

    /// Opens a directory; ENOSYS as with files, and the kernel keeps all listings then.
    fn opendir(&self, _node: NodeId) -> Outcome<OpenedDir> {
        Outcome::error(libc::ENOSYS)
    }

    /// An open directory is closed.
    fn releasedir(&self, _handle: u64) {}

    /// Reads from a file: into `buf`, or as pieces. Fewer bytes than asked for only at the end.
    fn read(&self, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data>;

    /// Lists a directory into `listing` until it is full; nothing listed means the end.
    fn readdir(&self, at: ListAt, listing: Listing) -> Outcome<Listing>;

    /// Says what `statfs` shows.
    fn statfs(&self) -> Size;

    /// The value of an extended attribute; `None` when there is none.
    fn xattr(&self, _node: NodeId, _name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        Err(libc::ENOSYS)
    }

    /// The names of a node's extended attributes.
    fn xattrs(&self, _node: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        Err(libc::ENOSYS)
    }
}
