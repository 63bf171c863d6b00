//! The loop of one FUSE mount: a request is read, answered at once where everything is here, else handed to the
//! runtime.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use larder_faults::{Site, point};
use rustix::io::Errno;
use tokio::runtime::Handle;
use zerocopy::IntoBytes;

use super::abi::{
    BatchForgetIn, EntryOut, ForgetIn, ForgetOne, GetXattrIn, GetXattrOut, InitIn, InitOut, InterruptIn,
    MAJOR, MINOR, Opcode, OpenOut, ReadIn, ReleaseIn, Request, StatFsOut, init, open_flags,
};
use super::channel::{Channel, Taken};
use super::dir::Listing;
use super::file_system::{
    Backing, BackingId, Data, FileSystem, Kernel as _, ListAt, NodeId, Opened, Outcome, ReadAt,
};
use super::in_hand::{InHand, LOOK};
use super::node;
use super::pipe::Pipe;

/// Room for any request of a read-only file system: names and small structures. The kernel asks for 8 KiB at least.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The largest answer to a READ.
const READ_BYTES_MAX: u32 = 1 << 20;
/// Reads ahead that the kernel may have in flight; waiting readers are not limited.
const BACKGROUND_MAX: u16 = 64;
/// A backing file must lie on a real file system, not on another stacked one.
const STACK_DEPTH_MAX: u32 = 1;

/// Requests that one thread finds waiting, one after the other, before another is to help it: one reader, who waits for each
/// answer, has none waiting.
const REQUESTS_IN_A_ROW: u32 = 4;
/// Answering so many bytes takes longer than waking another thread.
const LONG_READ_BYTES: u32 = 32 << 10;

/// Serves one mount.
#[derive(Clone)]
pub(crate) struct Server {
    fs: Arc<dyn FileSystem>,
    channel: Channel,
    runtime: Handle,
    in_hand: InHand,
}

/// What a serving thread reads into and answers from.
pub(super) struct Buffers {
    request: Vec<u8>,
    answer: Answering,
}

/// What a serving thread answers from.
#[derive(Default)]
struct Answering {
    data: Vec<u8>,
    pipe: Pipe,
}

impl Default for Buffers {
    fn default() -> Self {
        let answer = Answering { data: Vec::new(), pipe: Pipe::made() };
        Self { request: vec![0; REQUEST_BYTES_MAX], answer }
    }
}

/// Whether answering a request takes so long that others should not wait for it.
fn takes_long(request: &[u8]) -> bool {
    let Some(request) = Request::parse(request) else { return false };
    request.opcode() == Opcode::Read
        && request.arguments::<ReadIn>().is_some_and(|asked| asked.size >= LONG_READ_BYTES)
}

/// What a handler says: the body of the answer, or an error number.
type Answer = Result<Vec<u8>, i32>;

impl Server {
    pub(crate) fn new(fs: Arc<dyn FileSystem>, channel: Channel, runtime: Handle) -> Self {
        fs.connected(Arc::new(channel.clone()));
        Self { fs, channel, runtime, in_hand: InHand::default() }
    }

    /// Answers the requests that are there, or hands them on; returns whether the connection has ended. Calls `tell_others`
    /// when it would be of use if somebody else answered some.
    pub(super) fn answer_all(&self, buffers: &mut Buffers, tell_others: &dyn Fn()) -> bool {
        let Buffers { request, answer } = buffers;
        let mut taken = 0_u32;
        loop {
            match self.channel.take(request) {
                Ok(Taken::Request(len, _receipt)) => {
                    taken = taken.saturating_add(1);
                    if taken == REQUESTS_IN_A_ROW || takes_long(&request[..len]) {
                        tell_others();
                    }
                    self.take(&request[..len], answer);
                }
                Ok(Taken::Nothing) => return false,
                Ok(Taken::End) => return true,
                Err(error) => {
                    cannot_receive(&error);
                    return true;
                }
            }
        }
    }

    /// Whether the order in which requests are answered makes no difference.
    pub(super) fn is_stateless(&self) -> bool {
        !self.fs.has_state()
    }

    /// Whether the next worker takes all requests from now on.
    pub(super) fn is_handed_over(&self) -> bool {
        self.channel.is_closed()
    }

    /// Where requests come from.
    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    fn take(&self, bytes: &[u8], answer: &mut Answering) {
        match Request::parse(bytes) {
            Some(request) => self.dispatch(&request, answer),
            None => tracing::error!(len = bytes.len(), "a request of the kernel cannot be made out"),
        }
    }

    fn dispatch(&self, request: &Request<'_>, answering: &mut Answering) {
        point(Site::MountFuseRead);
        let (unique, node) = (request.header.unique, NodeId(request.header.nodeid));
        let answer = match request.opcode() {
            Opcode::Interrupt => return self.interrupt(request),
            Opcode::Forget => return self.forget(request),
            Opcode::BatchForget => return self.batch_forget(request),
            Opcode::Read => return self.read(request, answering),
            Opcode::Lookup => return self.lookup(request),
            Opcode::GetAttr => {
                let outcome = self.fs.getattr(node);
                return self.answer(unique, outcome, |(attributes, valid)| {
                    node::attr_out(&attributes, valid).as_bytes().to_vec()
                });
            }
            Opcode::ReadLink => return self.answer(unique, self.fs.readlink(node), |target| target),
            Opcode::ReadDir => return self.readdir(request, false),
            Opcode::ReadDirPlus => return self.readdir(request, true),
            Opcode::Open => return self.open(request),
            Opcode::OpenDir => {
                return self.answer(unique, self.fs.opendir(node), |opened| {
                    let keep = if opened.keep_cache { open_flags::KEEP_CACHE } else { 0 };
                    let list = if opened.list_cache { open_flags::CACHE_DIR } else { 0 };
                    OpenOut { fh: opened.handle, open_flags: keep | list, backing_id: 0 }.as_bytes().to_vec()
                });
            }
            Opcode::Release => self.release(request),
            Opcode::ReleaseDir => self.releasedir(request),
            Opcode::Init => self.init(request),
            Opcode::Destroy => Ok(Vec::new()),
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

    /// Answers now or later.
    fn answer<T: Send + 'static>(
        &self,
        unique: u64,
        outcome: Outcome<T>,
        body: impl FnOnce(T) -> Vec<u8> + Send + 'static,
    ) {
        self.when_known(outcome, move |server, result| match result {
            Ok(found) => server.channel.reply(unique, &body(found)),
            Err(errno) => server.channel.reply_errno(unique, errno),
        });
    }

    fn when_known<T: Send + 'static>(
        &self,
        outcome: Outcome<T>,
        then: impl FnOnce(&Self, Result<T, i32>) + Send + 'static,
    ) {
        match outcome {
            Outcome::Now(result) => then(self, result),
            Outcome::Later(answer) => {
                let (server, receipt) = (self.clone(), self.channel.receipt());
                self.runtime.spawn(async move {
                    let result = tokio::select! {
                        result = answer => result,
                        () = server.channel.late() => Err(Errno::IO.raw_os_error()),
                    };
                    then(&server, result);
                    drop(receipt);
                });
            }
        }
    }

    fn init(&self, request: &Request<'_>) -> Answer {
        let (answer, passthrough) = init_answer(request, &*self.fs)?;
        self.fs.initialised(passthrough);
        Ok(answer)
    }

    fn lookup(&self, request: &Request<'_>) {
        let unique = request.header.unique;
        let Some(name) = request.name(0) else { return self.invalid(unique) };
        let outcome = self.fs.lookup(NodeId(request.header.nodeid), name);
        let fs = Arc::clone(&self.fs);
        self.answer(unique, outcome, move |entry| {
            let generation = entry.node.map_or(0, |(node, _)| fs.generation(node));
            EntryOut { generation, ..node::entry_out(&entry) }.as_bytes().to_vec()
        });
    }

    fn forget(&self, request: &Request<'_>) {
        if let Some(ForgetIn { nlookup }) = request.arguments() {
            self.fs.forget(NodeId(request.header.nodeid), nlookup);
        }
    }

    fn batch_forget(&self, request: &Request<'_>) {
        let Some(BatchForgetIn { count, .. }) = request.arguments() else { return };
        let items = request.body.get(size_of::<BatchForgetIn>()..).unwrap_or_default();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        for item in items.chunks_exact(size_of::<ForgetOne>()).take(count) {
            if let Ok(ForgetOne { nodeid, nlookup }) = zerocopy::FromBytes::read_from_bytes(item) {
                self.fs.forget(NodeId(nodeid), nlookup);
            }
        }
    }

    fn readdir(&self, request: &Request<'_>, plus: bool) {
        let unique = request.header.unique;
        let Some(asked) = request.arguments::<ReadIn>() else { return self.invalid(unique) };
        let size = usize::try_from(asked.size.min(READ_BYTES_MAX)).unwrap_or(0);
        let at = ListAt { node: NodeId(request.header.nodeid), handle: asked.fh, offset: asked.offset };
        self.answer(unique, self.fs.readdir(at, Listing::new(size, plus)), Listing::into_bytes);
    }

    fn open(&self, request: &Request<'_>) {
        let (unique, node) = (request.header.unique, NodeId(request.header.nodeid));
        self.when_known(self.fs.open(node), move |server, result| match result {
            Ok(opened) => {
                let out = server.open_out(node, opened);
                server.channel.reply(unique, out.as_bytes());
            }
            Err(errno) => server.channel.reply_errno(unique, errno),
        });
    }

    fn open_out(&self, node: NodeId, opened: Opened) -> OpenOut {
        let handle = opened.handle;
        let id = match opened.backing {
            None => None,
            Some(Backing::Known(id)) => Some(id),
            Some(Backing::New(file)) => {
                let registered = self.channel.register(file.as_fd());
                let registered = registered.inspect_err(|error| tracing::debug!(%error, "backing file"));
                let id = registered.ok();
                let used = self.fs.backed(node, handle, id);
                if let Some(id) = id.filter(|id| used != Some(*id)) {
                    self.channel.unregister(id);
                }
                used
            }
        };
        let keep = if opened.keep_cache { open_flags::KEEP_CACHE } else { 0 };
        match id {
            Some(BackingId(backing_id)) => {
                OpenOut { fh: handle, open_flags: open_flags::PASSTHROUGH, backing_id }
            }
            None => OpenOut { fh: handle, open_flags: keep, backing_id: 0 },
        }
    }

    fn release(&self, request: &Request<'_>) -> Answer {
        if let Some(ReleaseIn { fh, .. }) = request.arguments()
            && let Some(id) = self.fs.release(NodeId(request.header.nodeid), fh)
        {
            self.channel.unregister(id);
        }
        Ok(Vec::new())
    }

    fn releasedir(&self, request: &Request<'_>) -> Answer {
        if let Some(ReleaseIn { fh, .. }) = request.arguments() {
            self.fs.releasedir(fh);
        }
        Ok(Vec::new())
    }

    fn statfs(&self) -> StatFsOut {
        let size = self.fs.statfs();
        StatFsOut {
            blocks: size.blocks,
            bfree: 0,
            bavail: 0,
            files: size.files,
            ffree: 0,
            bsize: size.block_bytes,
            namelen: 255,
            frsize: size.block_bytes,
            padding: 0,
            spare: [0; 6],
        }
    }

    fn getxattr(&self, request: &Request<'_>) -> Answer {
        let asked: GetXattrIn = request.arguments().ok_or(Errno::INVAL.raw_os_error())?;
        let name = request.name(size_of::<GetXattrIn>()).ok_or(Errno::INVAL.raw_os_error())?;
        let value = self.fs.xattr(NodeId(request.header.nodeid), name)?;
        sized(value.ok_or(Errno::NODATA.raw_os_error())?, asked.size)
    }

    fn listxattr(&self, request: &Request<'_>) -> Answer {
        let asked: GetXattrIn = request.arguments().ok_or(Errno::INVAL.raw_os_error())?;
        let mut names = Vec::new();
        for name in self.fs.xattrs(NodeId(request.header.nodeid))? {
            names.extend_from_slice(&name);
            names.push(0);
        }
        sized(names, asked.size)
    }

    fn read(&self, request: &Request<'_>, answering: &mut Answering) {
        let unique = request.header.unique;
        let Some(asked) = request.arguments::<ReadIn>() else { return self.invalid(unique) };
        let Some(len) = read_len(asked.size) else {
            tracing::error!(unique, asked.size, "a read is larger than was agreed: it gets an error");
            return self.channel.reply_errno(unique, Errno::IO.raw_os_error());
        };
        let (node, handle, offset) = (NodeId(request.header.nodeid), asked.fh, asked.offset);
        let at = ReadAt { node, handle, offset, len, pid: request.header.pid };
        match self.fs.read(at, &mut answering.data) {
            Outcome::Now(Ok(data)) => self.reply_data(unique, &data, answering),
            other => {
                let waiting = self.in_hand.enter(unique, at.pid);
                self.when_known(other, move |server, result| {
                    drop(waiting);
                    match result {
                        // Nobody has a buffer later on.
                        Ok(Data::InBuffer) => server.channel.reply_errno(unique, Errno::IO.raw_os_error()),
                        Ok(data) => server.reply_data(unique, &data, &mut Answering::default()),
                        Err(errno) => server.channel.reply_errno(unique, errno),
                    }
                });
            }
        }
    }

    fn reply_data(&self, unique: u64, data: &Data, answering: &mut Answering) {
        let Answering { data: buffer, pipe } = answering;
        match data {
            Data::InBuffer => self.channel.reply(unique, buffer),
            Data::Pieces(pieces) => self.channel.reply_pieces(unique, pieces),
            Data::Sealed(piece) if self.channel.reply_sealed(unique, piece, pipe) => {}
            Data::Sealed(piece) => match piece.read(buffer) {
                Ok(()) => self.channel.reply(unique, buffer),
                Err(error) => {
                    tracing::warn!(unique, range = ?piece.range(), %error, "a complete blob could not be read");
                    self.channel.reply_errno(unique, Errno::IO.raw_os_error());
                }
            },
        }
    }

    /// Who waits for a read has had a signal. As soon as one has killed it, it is let go; the fill goes on for others.
    fn interrupt(&self, request: &Request<'_>) {
        let Some(InterruptIn { unique }) = request.arguments() else { return };
        let server = self.clone();
        self.runtime.spawn(async move {
            loop {
                // After a moment: another thread may not have entered the request yet.
                tokio::time::sleep(LOOK).await;
                match server.in_hand.was_killed(unique) {
                    Some(false) => {}
                    Some(true) => return server.channel.reply_errno(unique, Errno::INTR.raw_os_error()),
                    None => return,
                }
            }
        });
    }

    fn invalid(&self, unique: u64) {
        self.channel.reply_errno(unique, Errno::INVAL.raw_os_error());
    }
}

/// A list or value, or only its length when the caller asked for that.
fn sized(bytes: Vec<u8>, room: u32) -> Answer {
    let size = u32::try_from(bytes.len()).map_err(|_| Errno::TOOBIG.raw_os_error())?;
    if room == 0 {
        return Ok(GetXattrOut { size, padding: 0 }.as_bytes().to_vec());
    }
    if size > room { Err(Errno::RANGE.raw_os_error()) } else { Ok(bytes) }
}

fn cannot_receive(error: &io::Error) {
    tracing::error!(%error, "reading requests failed: the mount is no longer served");
}

/// The answer to the kernel's first request, and whether both agree to passthrough.
fn init_answer(request: &Request<'_>, fs: &dyn FileSystem) -> Result<(Vec<u8>, bool), i32> {
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
    let mut wanted = init::WANTED;
    if !fs.has_state() {
        wanted |= init::STATELESS;
    }
    if fs.wants_passthrough() {
        wanted |= init::PASSTHROUGH;
    }
    let agreed = flags & wanted;
    let passthrough = agreed & init::PASSTHROUGH != 0;
    let stack_depth = if passthrough { STACK_DEPTH_MAX } else { 0 };
    let answer = InitOut {
        major: MAJOR,
        minor: offered.minor.min(MINOR),
        // What it is set to meanwhile counts, which may be before this answer comes.
        max_readahead: u32::MAX,
        flags: low_half(agreed),
        max_background: BACKGROUND_MAX,
        congestion_threshold: BACKGROUND_MAX / 4 * 3,
        max_write: 4096,
        time_gran: 1,
        max_pages: read_pages_max(rustix::param::page_size()),
        map_alignment: 0,
        flags2: low_half(agreed >> 32),
        max_stack_depth: stack_depth,
        request_timeout: 0,
        unused: [0; 11],
    };
    Ok((answer.as_bytes().to_vec(), passthrough))
}

/// How many bytes of a READ of `size` are answered, up to the end of the file: all, or an error. The kernel takes a short answer for
/// the end of the file and fills the rest with zeros (fuse_short_read() in fs/fuse/file.c, v6.12).
fn read_len(size: u32) -> Option<usize> {
    usize::try_from(size).ok().filter(|_| size <= READ_BYTES_MAX)
}

/// As many pages of `page_bytes` as the largest answer has: the kernel counts requests in pages, which are not everywhere 4 KiB.
fn read_pages_max(page_bytes: usize) -> u16 {
    let pages = usize::try_from(READ_BYTES_MAX).unwrap_or(usize::MAX) / page_bytes.max(1);
    u16::try_from(pages).unwrap_or(u16::MAX).max(1)
}

fn low_half(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_a_read_is_never_agreed_to_be_longer_than_its_answer_and_never_cut() {
        for (page_bytes, expected) in [(4 << 10, 256), (16 << 10, 64), (64 << 10, 16)] {
            let pages = read_pages_max(page_bytes);
            assert_eq!(pages, expected, "pages of {page_bytes} bytes");
            let largest = u32::from(pages) * u32::try_from(page_bytes).unwrap();
            assert_eq!(read_len(largest), usize::try_from(largest).ok());
        }
        assert_eq!(read_len(READ_BYTES_MAX + 1), None);
    }

    #[test]
    fn an_xattr_is_measured_before_it_is_read() {
        let value = || b"value".to_vec();
        assert_eq!(sized(value(), 0), Ok(vec![5, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(sized(value(), 4), Err(Errno::RANGE.raw_os_error()));
        assert_eq!(sized(value(), 5), Ok(value()));
    }
}
