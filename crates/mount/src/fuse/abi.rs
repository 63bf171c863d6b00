//! The wire of /dev/fuse: the messages of a read-only server, protocol 7.31 to 7.45.
//!
//! Source of truth: include/uapi/linux/fuse.h (v6.18). Native endian, every structure a multiple of 8 bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol version that this server speaks; the kernel steps down to an older minor by itself.
pub(crate) const MAJOR: u32 = 7;
/// See [`MAJOR`].
pub(crate) const MINOR: u32 = 41;
/// The root's node id is fixed by the protocol.
pub(crate) const ROOT_ID: u64 = 1;
/// `error` of the notification that asks for a resend of the requests in hand (since 7.40, Linux 6.9).
pub(crate) const NOTIFY_RESEND: i32 = 7;
/// `error` of the notification that a node has changed, [`InvalInodeOut`]; ENOENT means that the kernel does not know it.
pub(crate) const NOTIFY_INVAL_INODE: i32 = 2;
/// `error` of the notification that the names of some nodes are to be forgotten unless they are in use, [`PruneOut`] (since
/// 7.45, Linux 6.18).
pub(crate) const NOTIFY_PRUNE: i32 = 9;

/// Bits of the INIT exchange that a read-only server wants.
pub(crate) mod init {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    /// Reads of a file may go to a local one (since 7.40, Linux 6.9).
    pub(crate) const PASSTHROUGH: u64 = 1 << 37;
    pub(crate) const HAS_RESEND: u64 = 1 << 39;

    /// What is asked for where the kernel offers it.
    pub(crate) const WANTED: u64 = ASYNC_READ
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | PARALLEL_DIROPS
        | POSIX_ACL
        | MAX_PAGES
        | CACHE_SYMLINKS
        | INIT_EXT
        | HAS_RESEND;
    /// What a file system to which opening means nothing wants besides.
    pub(crate) const STATELESS: u64 = NO_OPEN_SUPPORT | NO_OPENDIR_SUPPORT;
}

/// Flags of the answers to OPEN and OPENDIR.
pub(crate) mod open_flags {
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
    pub(crate) const PASSTHROUGH: u32 = 1 << 7;
}

/// What the kernel asks: the opcodes that this server answers with more than an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opcode {
    Lookup,
    Forget,
    GetAttr,
    ReadLink,
    Read,
    StatFs,
    GetXattr,
    ListXattr,
    Init,
    ReadDir,
    Interrupt,
    Destroy,
    BatchForget,
    ReadDirPlus,
    Open,
    Release,
    OpenDir,
    ReleaseDir,
    /// Flushing and syncing need no server: ENOSYS, once, makes the kernel stop asking.
    Stateless,
    /// Whatever would write: EROFS.
    Write,
    /// Not known or not offered: ENOSYS.
    Other,
}

impl Opcode {
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Lookup,
            2 => Self::Forget,
            3 => Self::GetAttr,
            5 => Self::ReadLink,
            15 => Self::Read,
            17 => Self::StatFs,
            22 => Self::GetXattr,
            23 => Self::ListXattr,
            26 => Self::Init,
            28 => Self::ReadDir,
            36 => Self::Interrupt,
            38 => Self::Destroy,
            42 => Self::BatchForget,
            44 => Self::ReadDirPlus,
            14 => Self::Open,
            18 => Self::Release,
            27 => Self::OpenDir,
            29 => Self::ReleaseDir,
            20 | 25 | 30 | 34 => Self::Stateless,
            4 | 6 | 8..=13 | 16 | 21 | 24 | 35 | 43 | 45 | 47 | 51 => Self::Write,
            _ => Self::Other,
        }
    }
}

/// `struct fuse_in_header`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, IntoBytes)]
#[repr(C)]
pub(crate) struct InHeader {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub total_extlen: u16,
    pub padding: u16,
}

/// `struct fuse_out_header`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct OutHeader {
    pub len: u32,
    pub error: i32,
    pub unique: u64,
}

/// `struct fuse_init_in` without its unused rest; `flags2` only counts with [`init::INIT_EXT`].
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InitIn {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
}

/// `struct fuse_init_out`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct InitOut {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    pub time_gran: u32,
    pub max_pages: u16,
    pub map_alignment: u16,
    pub flags2: u32,
    pub max_stack_depth: u32,
    pub request_timeout: u16,
    pub unused: [u16; 11],
}

/// `struct fuse_attr`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Attr {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub atime: u64,
    pub mtime: u64,
    pub ctime: u64,
    pub atimensec: u32,
    pub mtimensec: u32,
    pub ctimensec: u32,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
    pub flags: u32,
}

/// `struct fuse_entry_out`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct EntryOut {
    pub nodeid: u64,
    pub generation: u64,
    pub entry_valid: u64,
    pub attr_valid: u64,
    pub entry_valid_nsec: u32,
    pub attr_valid_nsec: u32,
    pub attr: Attr,
}

/// `struct fuse_attr_out`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct AttrOut {
    pub attr_valid: u64,
    pub attr_valid_nsec: u32,
    pub dummy: u32,
    pub attr: Attr,
}

/// `struct fuse_read_in`, for READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ReadIn {
    pub fh: u64,
    pub offset: u64,
    pub size: u32,
    pub read_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}

/// `struct fuse_interrupt_in`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InterruptIn {
    pub unique: u64,
}

/// `struct fuse_forget_in`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ForgetIn {
    pub nlookup: u64,
}

/// `struct fuse_batch_forget_in`, followed by `count` of [`ForgetOne`].
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct BatchForgetIn {
    pub count: u32,
    pub dummy: u32,
}

/// `struct fuse_forget_one`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ForgetOne {
    pub nodeid: u64,
    pub nlookup: u64,
}

/// `struct fuse_open_out`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct OpenOut {
    pub fh: u64,
    pub open_flags: u32,
    pub backing_id: u32,
}

/// `struct fuse_notify_inval_inode_out`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct InvalInodeOut {
    pub ino: u64,
    /// Negative when only the attributes have changed.
    pub off: i64,
    pub len: i64,
}

/// `struct fuse_notify_prune_out` for one node, whose id follows it.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct PruneOut {
    pub count: u32,
    pub padding: u32,
    pub spare: u64,
    pub nodeid: u64,
}

/// `struct fuse_release_in`, for RELEASE and RELEASEDIR.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ReleaseIn {
    pub fh: u64,
    pub flags: u32,
    pub release_flags: u32,
    pub lock_owner: u64,
}

/// `struct fuse_getxattr_in`, for GETXATTR and LISTXATTR.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct GetXattrIn {
    pub size: u32,
    pub padding: u32,
}

/// `struct fuse_getxattr_out`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct GetXattrOut {
    pub size: u32,
    pub padding: u32,
}

/// `struct fuse_kstatfs`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct StatFsOut {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
    pub padding: u32,
    pub spare: [u32; 6],
}

/// `struct fuse_dirent` before its name, which is padded to 8 bytes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Dirent {
    pub ino: u64,
    pub off: u64,
    pub namelen: u32,
    pub kind: u32,
}

/// One request, as far as its bytes could be made out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub header: InHeader,
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Takes apart what one read of /dev/fuse gave; `None` when it is shorter than it says.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = InHeader::read_from_prefix(bytes).ok()?;
        let len = usize::try_from(header.len).ok()?;
        let body = len.checked_sub(size_of::<InHeader>())?;
        Some(Self { header, body: rest.get(..body)? })
    }

    pub(crate) fn opcode(&self) -> Opcode {
        Opcode::from_number(self.header.opcode)
    }

    /// The fixed part of the body.
    pub(crate) fn arguments<T: FromBytes + KnownLayout + Immutable>(&self) -> Option<T> {
        T::read_from_prefix(self.body).ok().map(|(arguments, _)| arguments)
    }

    /// A name that ends with a NUL, `skip` bytes into the body.
    pub(crate) fn name(&self, skip: usize) -> Option<&'a [u8]> {
        let rest = self.body.get(skip..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        Some(&rest[..end])
    }
}

#[cfg(test)]
impl InHeader {
    /// A question about the root, by nobody.
    pub(crate) fn of_root(len: u32, opcode: u32, unique: u64) -> Self {
        Self { len, opcode, unique, nodeid: 1, uid: 0, gid: 0, pid: 0, total_extlen: 0, padding: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernels_header() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<StatFsOut>(), 80);
        assert_eq!(size_of::<Dirent>(), 24);
        assert_eq!(size_of::<OpenOut>(), 16);
        assert_eq!(size_of::<ReleaseIn>(), 24);
        assert_eq!(size_of::<ForgetOne>(), 16);
        assert_eq!(size_of::<InvalInodeOut>(), 24);
        assert_eq!(size_of::<PruneOut>(), 24);
    }

    fn request(len: u32, body: &[u8]) -> Vec<u8> {
        [InHeader::of_root(len, 1, 7).as_bytes(), body].concat()
    }

    #[test]
    fn a_request_shorter_than_it_says_is_refused() {
        assert!(Request::parse(&[0; 39]).is_none());
        assert!(Request::parse(&request(39, b"")).is_none());
        assert!(Request::parse(&request(45, b"name")).is_none());
        let bytes = request(45, b"name\0");
        let parsed = Request::parse(&bytes).expect("whole");
        assert_eq!((parsed.opcode(), parsed.name(0)), (Opcode::Lookup, Some(&b"name"[..])));
        assert_eq!(parsed.name(6), None);
        assert!(parsed.arguments::<ReadIn>().is_none());
    }
}
