//! The loop of one FUSE mount: a request is read, answered at once where everything is here, else handed to the
//! engine's runtime.

use std::sync::Arc;

use larder_erofs::{Error, FileType, Image, Inode};
use larder_imagefs::ImageFs;
use rustix::io::Errno;
use tokio::runtime::Handle;
use zerocopy::IntoBytes;

use super::abi::{
    GetXattrIn, GetXattrOut, InitIn, InitOut, MAJOR, MINOR, Opcode, ReadIn, Request, StatFsOut, init,
};
use super::channel::Channel;
use super::{dir, node};

/// Room for any request of a read-only file system: names and small structures. The kernel asks for 8 KiB at least.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The largest answer to a READ: 256 pages.
const READ_BYTES_MAX: u32 = 1 << 20;
const READ_PAGES_MAX: u16 = 256;
/// Reads ahead that the kernel may have in flight; waiting readers are not limited.
const BACKGROUND_MAX: u16 = 64;

/// Serves one mount.
#[derive(Clone)]
pub(crate) struct Server {
    fs: Arc<ImageFs>,
    channel: Channel,
    runtime: Handle,
}

/// What a handler says: the body of the answer, or an error number.
type Answer = Result<Vec<u8>, i32>;

impl Server {
    pub(crate) fn new(fs: Arc<ImageFs>, channel: Channel, runtime: Handle) -> Self {
        Self { fs, channel, runtime }
    }

    /// Answers requests until the file system is unmounted. Blocks.
    pub(crate) fn run(&self) {
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        let mut data = Vec::new();
        loop {
            match self.channel.receive(&mut buffer) {
                Ok(Some(bytes)) => match Request::parse(bytes) {
                    Some(request) => self.dispatch(&request, &mut data),
                    None => tracing::error!(len = bytes.len(), "a request of the kernel cannot be made out"),
                },
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "reading requests failed: the mount is no longer served");
                    return;
                }
            }
        }
    }

    fn dispatch(&self, request: &Request<'_>, data: &mut Vec<u8>) {
        let unique = request.header.unique;
        let answer = match request.opcode() {
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => return,
            Opcode::Read => return self.read(request, data),
            Opcode::Init => init_answer(request),
            Opcode::Destroy => Ok(Vec::new()),
            Opcode::Lookup => self.lookup(request),
            Opcode::GetAttr => self.getattr(request),
            Opcode::ReadLink => self.readlink(request),
            Opcode::ReadDir => self.readdir(request, false),
            Opcode::ReadDirPlus => self.readdir(request, true),
            Opcode::StatFs => Ok(self.statfs().as_bytes().to_vec()),
            Opcode::GetXattr => self.getxattr(request),
            Opcode::ListXattr => self.listxattr(request),
            Opcode::Write => Err(Errno::ROFS.raw_os_error()),
            Opcode::Stateless | Opcode::Other => Err(Errno::NOSYS.raw_os_error()),
        };
        match answer {
            Ok(body) => self.channel.reply(unique, &body),
            Err(errno) => self.channel.reply_errno(unique, errno),
        }
    }

    fn image(&self) -> &Image {
        self.fs.image()
    }

    fn inode(&self, request: &Request<'_>) -> Result<Inode, i32> {
        let nid =
            node::nid_of(request.header.nodeid, self.image().root()).ok_or(Errno::STALE.raw_os_error())?;
        self.image().inode(nid).map_err(|error| failed(&error))
    }

    fn lookup(&self, request: &Request<'_>) -> Answer {
        let directory = self.inode(request)?;
        let name = request.name(0).ok_or(Errno::INVAL.raw_os_error())?;
        let Some(found) = self.image().lookup(&directory, name).map_err(|error| failed(&error))? else {
            return Ok(node::no_entry().as_bytes().to_vec());
        };
        let inode = self.image().inode(found.nid).map_err(|error| failed(&error))?;
        Ok(node::entry(&inode, self.image().root(), block_bytes(self.image())).as_bytes().to_vec())
    }

    fn getattr(&self, request: &Request<'_>) -> Answer {
        let inode = self.inode(request)?;
        Ok(node::attr_out(&inode, block_bytes(self.image())).as_bytes().to_vec())
    }

    fn readlink(&self, request: &Request<'_>) -> Answer {
        let inode = self.inode(request)?;
        self.image().read_link(&inode).map_err(|error| failed(&error))
    }

    fn readdir(&self, request: &Request<'_>, plus: bool) -> Answer {
        let inode = self.inode(request)?;
        let asked: ReadIn = request.arguments().ok_or(Errno::INVAL.raw_os_error())?;
        let size = usize::try_from(asked.size.min(READ_BYTES_MAX)).unwrap_or(0);
        dir::list(self.image(), &inode, asked.offset, size, plus).map_err(|error| failed(&error))
    }

    fn statfs(&self) -> StatFsOut {
        let superblock = self.image().superblock();
        let devices: u64 = self.image().devices().iter().map(|device| device.blocks).sum();
        StatFsOut {
            blocks: superblock.blocks.saturating_add(devices),
            bfree: 0,
            bavail: 0,
            files: superblock.inodes,
            ffree: 0,
            bsize: block_bytes(self.image()),
            namelen: 255,
            frsize: block_bytes(self.image()),
            padding: 0,
            spare: [0; 6],
        }
    }

    fn getxattr(&self, request: &Request<'_>) -> Answer {
        let inode = self.inode(request)?;
        let asked: GetXattrIn = request.arguments().ok_or(Errno::INVAL.raw_os_error())?;
        let name = request.name(size_of::<GetXattrIn>()).ok_or(Errno::INVAL.raw_os_error())?;
        let value = self.image().xattr(&inode, name).map_err(|error| failed(&error))?;
        sized(value.ok_or(Errno::NODATA.raw_os_error())?, asked.size)
    }

    fn listxattr(&self, request: &Request<'_>) -> Answer {
        let inode = self.inode(request)?;
        let asked: GetXattrIn = request.arguments().ok_or(Errno::INVAL.raw_os_error())?;
        let mut names = Vec::new();
        for xattr in self.image().xattrs(&inode).map_err(|error| failed(&error))? {
            names.extend_from_slice(&xattr.name);
            names.push(0);
        }
        sized(names, asked.size)
    }

    /// Reads what is here at once; a hole goes to the runtime, so that this loop never waits for a network.
    fn read(&self, request: &Request<'_>, data: &mut Vec<u8>) {
        let unique = request.header.unique;
        let (inode, asked) = match (self.inode(request), request.arguments::<ReadIn>()) {
            (Ok(inode), Some(asked)) => (inode, asked),
            (Err(errno), _) => return self.channel.reply_errno(unique, errno),
            (_, None) => return self.channel.reply_errno(unique, Errno::INVAL.raw_os_error()),
        };
        if inode.kind != FileType::Regular {
            return self.channel.reply_errno(unique, Errno::INVAL.raw_os_error());
        }
        let len = usize::try_from(asked.size.min(READ_BYTES_MAX)).unwrap_or(0);
        data.resize(len, 0);
        match self.fs.read_present(&inode, asked.offset, data) {
            Ok(Some(len)) => self.channel.reply(unique, &data[..len]),
            Ok(None) => self.read_later(unique, inode, asked.offset, len, request.header.pid),
            Err(error) => self.channel.reply_errno(unique, error.errno()),
        }
    }

    fn read_later(&self, unique: u64, inode: Inode, offset: u64, len: usize, pid: u32) {
        let (fs, channel) = (Arc::clone(&self.fs), self.channel.clone());
        self.runtime.spawn(async move {
            match fs.read(&inode, offset, len, Some(pid)).await {
                Ok(bytes) => channel.reply(unique, &bytes),
                Err(error) => {
                    tracing::warn!(nid = inode.nid.get(), offset, len, %error, "read failed");
                    channel.reply_errno(unique, error.errno());
                }
            }
        });
    }
}

/// Block size of the image, for `st_blksize` and statfs.
pub(crate) fn block_bytes(image: &Image) -> u32 {
    // At most 64 KiB, by the reader's check.
    u32::try_from(image.superblock().block_size.bytes()).unwrap_or(4096)
}

/// The error number for the reader; the rest of the story goes to the log.
fn failed(error: &Error) -> i32 {
    tracing::warn!(%error, "metadata could not be read");
    error.errno()
}

/// A list or value, or only its length when the caller asked for that.
fn sized(bytes: Vec<u8>, room: u32) -> Answer {
    let size = u32::try_from(bytes.len()).map_err(|_| Errno::TOOBIG.raw_os_error())?;
    if room == 0 {
        return Ok(GetXattrOut { size, padding: 0 }.as_bytes().to_vec());
    }
    if size > room { Err(Errno::RANGE.raw_os_error()) } else { Ok(bytes) }
}

fn init_answer(request: &Request<'_>) -> Answer {
    let offered: InitIn = request.arguments().ok_or(Errno::PROTO.raw_os_error())?;
    if offered.major != MAJOR {
        return Err(Errno::PROTO.raw_os_error());
    }
    let mut flags = u64::from(offered.flags);
    if flags & init::INIT_EXT != 0 {
        let high =
            request.body.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        flags |= u64::from(high) << 32;
    }
    let agreed = flags & init::WANTED;
    let answer = InitOut {
        major: MAJOR,
        minor: offered.minor.min(MINOR),
        max_readahead: offered.max_readahead,
        flags: low_half(agreed),
        max_background: BACKGROUND_MAX,
        congestion_threshold: BACKGROUND_MAX / 4 * 3,
        max_write: 4096,
        time_gran: 1,
        max_pages: READ_PAGES_MAX,
        map_alignment: 0,
        flags2: low_half(agreed >> 32),
        max_stack_depth: 0,
        request_timeout: 0,
        unused: [0; 11],
    };
    Ok(answer.as_bytes().to_vec())
}

fn low_half(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xattr_is_measured_before_it_is_read() {
        let value = || b"value".to_vec();
        assert_eq!(sized(value(), 0), Ok(vec![5, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(sized(value(), 4), Err(Errno::RANGE.raw_os_error()));
        assert_eq!(sized(value(), 5), Ok(value()));
    }
}
