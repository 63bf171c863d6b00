//! [`Channel`]: one open /dev/fuse, from which requests are read and to which answers are written.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use larder_faults::{Site, point};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::abi::{NOTIFY_RESEND, OutHeader};
use crate::sys::fuse as sys;

/// The descriptor of one FUSE connection; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    fd: Arc<OwnedFd>,
}

impl Channel {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // Reads wait in poll(2): see `receive`.
        if let Err(error) = fcntl_getfl(&fd).and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK)) {
            tracing::debug!(%error, "/dev/fuse stays blocking");
        }
        Self { fd: Arc::new(fd) }
    }

    /// Reads one request into `buffer`; `None` when the file system has been unmounted. Blocks.
    ///
    /// It waits outside of the read: a reader that is killed while it waits inside may still be given a request, which
    /// the kernel then cannot copy and ends with EIO, so that it is not sent again to the next worker
    /// (`fuse_dev_do_read` in fs/fuse/dev.c, v6.12).
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        loop {
            match poll(&mut [PollFd::new(&*self.fd, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(len) => return Ok(Some(&buffer[..len])),
                // ENOENT: the request was withdrawn while it was being read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(None),
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

    /// Registers a local file that the kernel is to read in place of a node; only root may (Linux 6.9).
    pub(crate) fn register(&self, file: &OwnedFd) -> io::Result<u32> {
        sys::backing_open(self.fd.as_fd(), file.as_fd())
    }

    /// Takes a registration back; files that are open go on.
    pub(crate) fn unregister(&self, id: u32) -> io::Result<()> {
        sys::backing_close(self.fd.as_fd(), id)
    }

    /// Answers request `unique` with an error number.
    pub(crate) fn reply_errno(&self, unique: u64, errno: i32) {
        self.send(unique, -errno.abs(), &[]);
    }

    /// Asks the kernel for the requests that a predecessor had in hand (since Linux 6.9).
    pub(crate) fn ask_for_resend(&self) -> io::Result<()> {
        let header = OutHeader { len: 16, error: NOTIFY_RESEND, unique: 0 };
        rustix::io::write(self.fd.as_fd(), header.as_bytes())?;
        Ok(())
    }

    fn send(&self, unique: u64, error: i32, body: &[&[u8]]) {
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
