//! [`Pipe`]: answers that go from a file to /dev/fuse by splice(2), without a copy of theirs in this process.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use larder_fscache::ObjectRange;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

/// Room for the largest answer that this server gives, its header, and a page more where it does not begin with one.
const ROOM_BYTES: usize = 2 << 20;
/// What an unprivileged process may have (/proc/sys/fs/pipe-max-size).
const ROOM_BYTES_OF_A_USER: usize = 1 << 20;

/// A pipe of a serving thread, made when there is none. Empty between answers.
#[derive(Debug, Default)]
pub(super) struct Pipe(Option<Ends>);

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    /// Pages that fit in.
    pages: usize,
    filled: usize,
}

impl Pipe {
    /// One that is there from the start, if it can be made now: who counts descriptors finds the same number always.
    pub fn made() -> Self {
        Self(Ends::new().ok())
    }

    /// Puts in `header`, and behind it all of a piece of `file`.
    ///
    /// # Errors
    ///
    /// What the system says; `InvalidInput` when there is no room, `UnexpectedEof` when the file is shorter.
    pub fn fill(&mut self, header: &[u8], file: BorrowedFd<'_>, piece: ObjectRange) -> io::Result<()> {
        let mut ends = match self.0.take() {
            Some(ends) => ends,
            None => Ends::new()?,
        };
        let page = rustix::param::page_size() as u64;
        // Each page that is touched takes a place of its own, and so does the header.
        let pages = piece.end().div_ceil(page) - piece.start() / page + 1;
        if pages > ends.pages as u64 {
            self.0 = Some(ends);
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Whatever goes wrong from here on, what is in the pipe goes with it.
        ends.fill(header, file, piece)?;
        self.0 = Some(ends);
        Ok(())
    }

    /// Gives all that is in there to `device`, as one message.
    pub fn empty_into(&mut self, device: BorrowedFd<'_>) -> Result<(), Errno> {
        let Some(mut ends) = self.0.take() else { return Err(Errno::INVAL) };
        // Without SPLICE_F_MOVE, which would take the pages from the file's page cache: other mounts read them, too.
        let moved = splice(&ends.read, None, device, None, ends.filled, SpliceFlags::empty())?;
        // A message is taken whole or not at all (`fuse_dev_do_write` in fs/fuse/dev.c, v6.18).
        if moved != ends.filled {
            return Err(Errno::IO);
        }
        ends.filled = 0;
        self.0 = Some(ends);
        Ok(())
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let wanted = fcntl_setpipe_size(&write, ROOM_BYTES);
        wanted.or_else(|_| fcntl_setpipe_size(&write, ROOM_BYTES_OF_A_USER))?;
        let pages = fcntl_getpipe_size(&write)? / rustix::param::page_size();
        Ok(Self { read, write, pages, filled: 0 })
    }

    fn fill(&mut self, header: &[u8], file: BorrowedFd<'_>, piece: ObjectRange) -> io::Result<()> {
        self.filled = rustix::io::write(&self.write, header)?;
        let (mut at, end) = (piece.start(), piece.end());
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            match splice(file, Some(&mut at), &self.write, None, left, SpliceFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => self.filled += moved,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_put_in_comes_out_behind_its_header_and_a_short_file_leaves_nothing() {
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        file.write_all(&bytes).expect("space");
        let mut pipe = Pipe::default();
        for (start, len) in [(0, 100_000), (4095, 200_000), (299_999, 1)] {
            let piece = ObjectRange::at(start, len);
            let short = pipe.fill(b"head", file.as_fd(), ObjectRange::at(start, 400_000));
            assert_eq!(short.expect_err("short").kind(), io::ErrorKind::UnexpectedEof);
            pipe.fill(b"head", file.as_fd(), piece).expect("room");
            let ends = pipe.0.as_ref().expect("filled");
            let mut out = vec![0; ends.filled];
            File::from(ends.read.try_clone().expect("a descriptor")).read_exact(&mut out).expect("filled");
            let (start, len) = (usize::try_from(start).expect("small"), usize::try_from(len).expect("small"));
            assert_eq!(out, [b"head", &bytes[start..start + len]].concat());
        }
        let huge = pipe.fill(b"head", file.as_fd(), ObjectRange::at(0, 1 << 30));
        assert_eq!(huge.expect_err("no room").kind(), io::ErrorKind::InvalidInput);
    }
}
