//! [`Channel`]: one open /dev/fuse, from which requests are read and to which answers are written.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_faults::{Site, point};
use larder_imagefs::SealedPiece;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio::sync::watch;
use zerocopy::IntoBytes;

use super::abi::{InvalInodeOut, NOTIFY_INVAL_INODE, NOTIFY_PRUNE, NOTIFY_RESEND, OutHeader, PruneOut};
use super::file_system::{BackingId, Kernel, NodeId};
use super::pipe::Pipe;
use crate::sys::fuse as sys;

/// Between two looks at whether everything was answered.
const PAUSE: Duration = Duration::from_millis(1);

/// How long errors for what is late may take.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The descriptor of one FUSE connection; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    fd: Arc<OwnedFd>,
    /// Set once every question is left to the next worker.
    handed_over: Option<Arc<HandedOver>>,
}

/// What a look for a request found.
#[derive(Debug)]
pub(super) enum Taken {
    /// One of so many bytes.
    Request(usize, Receipt),
    Nothing,
    /// Unmounted, or handed over: nothing more will come.
    End,
}

/// A request that was received: held until it is answered.
#[derive(Debug)]
pub(super) struct Receipt(Option<Arc<HandedOver>>);

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(handed_over) = &self.0 {
            handed_over.in_hand.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Whether the questions of some channels are left to the next worker.
#[derive(Debug, Default)]
pub(crate) struct HandedOver {
    is_so: AtomicBool,
    /// Nothing is received any more; what was received is still answered.
    is_closed: AtomicBool,
    /// Received, and not answered yet.
    in_hand: AtomicUsize,
    is_late: watch::Sender<bool>,
}

impl HandedOver {
    /// From now on nothing is received and nothing is answered: the kernel will send it again.
    pub(crate) fn set(&self) {
        self.is_so.store(true, Ordering::Release);
        self.close();
    }

    /// From now on nothing is received, and what was received is waited for: the kernel will not send it again. What takes longer
    /// than `at_most` is [late](Self::late). Tells whether all of it was answered in time.
    pub(super) fn drain(&self, at_most: Duration) -> bool {
        self.close();
        if self.is_empty_within(at_most) {
            return true;
        }
        self.is_late.send_replace(true);
        self.is_empty_within(LATE_MAX);
        false
    }

    fn is_empty_within(&self, at_most: Duration) -> bool {
        let begun = Instant::now();
        while self.in_hand.load(Ordering::SeqCst) > 0 {
            if begun.elapsed() >= at_most {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }

    /// Returns when what is still in hand must be answered with an error: after the end of this process nobody would.
    async fn late(&self) {
        let mut is_late = self.is_late.subscribe();
        // It is never an error: this holds the sender.
        let _ = is_late.wait_for(|is_late| *is_late).await;
    }

    /// In one order with the counting in [`Channel::receipt`]: who has counted before sees that it is closed, or is waited for.
    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }
}

impl Channel {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // See `take`.
        if let Err(error) = fcntl_getfl(&fd).and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK)) {
            tracing::debug!(%error, "/dev/fuse stays blocking");
        }
        Self { fd: Arc::new(fd), handed_over: None }
    }

    /// One that can [hand over](Self::hand_over).
    pub(crate) fn with_successor(fd: OwnedFd) -> Self {
        Self::handed_over_with(fd, Arc::default())
    }

    /// One that is handed over when `handed_over` says so.
    pub(super) fn handed_over_with(fd: OwnedFd, handed_over: Arc<HandedOver>) -> Self {
        Self { handed_over: Some(handed_over), ..Self::new(fd) }
    }

    /// Leaves every question to the next worker.
    pub(crate) fn hand_over(&self) {
        if let Some(handed_over) = &self.handed_over {
            handed_over.set();
        }
    }

    /// Whether the next worker receives everything from now on.
    pub(super) fn is_closed(&self) -> bool {
        self.handed_over.as_ref().is_some_and(|handed_over| handed_over.is_closed.load(Ordering::SeqCst))
    }

    /// Returns when there is no time left for what is in hand; else never.
    pub(super) async fn late(&self) {
        match &self.handed_over {
            Some(handed_over) => handed_over.late().await,
            None => std::future::pending().await,
        }
    }

    /// Counts one more request that is to be answered.
    pub(super) fn receipt(&self) -> Receipt {
        Receipt(self.handed_over.clone().inspect(|handed_over| {
            handed_over.in_hand.fetch_add(1, Ordering::SeqCst);
        }))
    }

    fn is_handed_over(&self) -> bool {
        self.handed_over.as_ref().is_some_and(|handed_over| handed_over.is_so.load(Ordering::Acquire))
    }

    /// The descriptor, for who keeps it.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads one request into `buffer`, if there is one.
    ///
    /// Who waits for one waits outside of the read: a reader that is killed while it waits inside may still be given a request,
    /// which the kernel then cannot copy and ends with EIO, so that it is not sent again to the next worker
    /// (`fuse_dev_do_read` in fs/fuse/dev.c, v6.12).
    pub(super) fn take(&self, buffer: &mut [u8]) -> io::Result<Taken> {
        let receipt = self.receipt();
        loop {
            if self.is_closed() {
                return Ok(Taken::End);
            }
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(len) => return Ok(Taken::Request(len, receipt)),
                Err(Errno::AGAIN) => return Ok(Taken::Nothing),
                // ENOENT: the request was withdrawn while it was being read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(Taken::End),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Answers request `unique` with `body`.
    pub(crate) fn reply(&self, unique: u64, body: &[u8]) {
        self.send(unique, 0, &[body]);
    }

    /// Answers request `unique` with a body that lies in pieces.
    pub(crate) fn reply_pieces(&self, unique: u64, pieces: &[Bytes]) {
        let parts: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
        self.send(unique, 0, &parts);
    }

    /// Answers request `unique` with an error number.
    pub(crate) fn reply_errno(&self, unique: u64, errno: i32) {
        self.send(unique, -errno.abs(), &[]);
    }

    /// Asks the kernel for the requests that a predecessor had in hand (since Linux 6.9).
    pub(crate) fn ask_for_resend(&self) -> io::Result<()> {
        Ok(self.notify(NOTIFY_RESEND, &[])?)
    }

    fn notify(&self, code: i32, body: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(size_of::<OutHeader>() + body.len()).unwrap_or(u32::MAX);
        let header = OutHeader { len, error: code, unique: 0 };
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        rustix::io::writev(self.fd.as_fd(), &parts).map(drop)
    }

    /// Answers request `unique` with a piece of a file, which the kernel copies from where it has it. `false` when
    /// that cannot be done: then nothing was answered.
    pub(super) fn reply_sealed(&self, unique: u64, piece: &SealedPiece, pipe: &mut Pipe) -> bool {
        if self.is_handed_over() {
            return true;
        }
        let len = u32::try_from(size_of::<OutHeader>() as u64 + piece.range().len()).unwrap_or(u32::MAX);
        let header = OutHeader { len, error: 0, unique };
        let Some(file) = piece.file() else { return false };
        if let Err(error) = pipe.fill(header.as_bytes(), file, piece.range()) {
            tracing::debug!(unique, %error, "bytes are copied in place of being spliced");
            return false;
        }
        point(Site::MountFuseReply);
        match pipe.empty_into(self.fd()) {
            // As in `send`.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => true,
            Err(failure) => {
                tracing::warn!(unique, %failure, "a spliced answer was not taken by the kernel");
                false
            }
        }
    }

    fn send(&self, unique: u64, error: i32, body: &[&[u8]]) {
        if self.is_handed_over() {
            return;
        }
        let bytes: usize = body.iter().map(|part| part.len()).sum();
        let len = u32::try_from(size_of::<OutHeader>() + bytes).unwrap_or(u32::MAX);
        let header = OutHeader { len, error, unique };
        point(Site::MountFuseReply);
        let mut parts = Vec::with_capacity(1 + body.len());
        parts.push(IoSlice::new(header.as_bytes()));
        parts.extend(body.iter().map(|part| IoSlice::new(part)));
        match rustix::io::writev(&self.fd, &parts) {
            // ENOENT: whoever asked has been killed. ENODEV: unmounted meanwhile.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(failure) => {
                tracing::warn!(unique, %failure, "an answer was not taken by the kernel");
                if bytes > 0 {
                    self.send(unique, -Errno::IO.raw_os_error(), &[]);
                }
            }
        }
    }
}

impl Kernel for Channel {
    fn register(&self, file: BorrowedFd<'_>) -> io::Result<BackingId> {
        sys::backing_open(self.fd.as_fd(), file).map(BackingId)
    }

    fn unregister(&self, BackingId(id): BackingId) {
        if let Err(error) = sys::backing_close(self.fd.as_fd(), id) {
            tracing::debug!(id, %error, "backing file");
        }
    }

    /// Says that attributes of the node have changed: that costs it a question for them. The kernel looks for the node first, among those
    /// that it has in memory, and waits for nobody (`fuse_reverse_inval_inode` in fs/fuse/inode.c, v6.18).
    fn knows(&self, NodeId(ino): NodeId) -> io::Result<bool> {
        match self.notify(NOTIFY_INVAL_INODE, InvalInodeOut { ino, off: -1, len: 0 }.as_bytes()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn forget_unused(&self, NodeId(nodeid): NodeId) -> io::Result<()> {
        let prune = PruneOut { count: 1, padding: 0, spare: 0, nodeid };
        Ok(self.notify(NOTIFY_PRUNE, prune.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// A channel, the kernel's end of it, and who hands it over.
    fn channel() -> (Channel, OwnedFd, Arc<HandedOver>) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let handed_over = Arc::new(HandedOver::default());
        (Channel::handed_over_with(ours, Arc::clone(&handed_over)), theirs, handed_over)
    }

    fn received(channel: &Channel, kernel: &OwnedFd) -> Receipt {
        rustix::io::write(kernel, b"request").unwrap();
        match channel.take(&mut [0; 64]).unwrap() {
            Taken::Request(7, receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn p4_what_was_received_is_answered_before_a_connection_is_left_that_sends_nothing_again() {
        let (channel, kernel, handed_over) = channel();
        let receipt = received(&channel, &kernel);
        assert!(!handed_over.is_empty_within(Duration::from_millis(5)), "somebody waits for an answer");
        handed_over.close();
        rustix::io::write(&kernel, b"the next worker's").unwrap();
        assert!(matches!(channel.take(&mut [0; 64]).unwrap(), Taken::End), "it stays queued");
        channel.reply(7, b"answer");
        let answered = rustix::io::read(&kernel, &mut [0; 64]).unwrap();
        assert_eq!(answered, size_of::<OutHeader>() + b"answer".len());
        drop(receipt);
        assert!(handed_over.drain(Duration::ZERO));
    }

    #[test]
    fn p4_what_is_late_is_told_so() {
        let (channel, kernel, handed_over) = channel();
        let receipt = received(&channel, &kernel);
        let late = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(channel.late());
            drop(receipt);
        });
        assert!(!handed_over.drain(Duration::from_millis(5)));
        late.join().unwrap();
        assert!(handed_over.drain(Duration::ZERO));
    }

    #[test]
    fn p4_what_is_sent_again_is_left_unanswered() {
        let (channel, kernel, handed_over) = channel();
        let _receipt = received(&channel, &kernel);
        handed_over.set();
        channel.reply(7, b"answer");
        let flags = fcntl_getfl(&kernel).unwrap();
        fcntl_setfl(&kernel, flags | OFlags::NONBLOCK).unwrap();
        assert_eq!(rustix::io::read(&kernel, &mut [0; 64]), Err(Errno::AGAIN));
    }
}
