//! [`Group`]: the fanotify group and its journal; both outlive the worker in the keeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use larder_faults::{Site, check};

use super::journal::Journal;
use crate::erofs::{Kept, Origin};
use crate::keeper::{Holder, raise_descriptor_limit};
use crate::sys::fanotify as sys;

const GROUP: &str = "fanotify";
const JOURNAL: &str = "journal";

/// What became of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answered {
    /// The kernel took it.
    Taken,
    /// No question has this number.
    NotAsked,
}

/// The group of this process.
pub(super) struct Group {
    fd: OwnedFd,
    journal: Journal,
    in_hand: AtomicUsize,
    handing_over: AtomicBool,
}

impl Group {
    /// Takes over what `holder` has, or makes a group and a journal and gives both to `holder`.
    pub(super) fn open(holder: &dyn Holder) -> io::Result<(Self, Origin)> {
        let slots = usize::try_from(raise_descriptor_limit()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (fd, origin) = match holder.take(GROUP)? {
            Some(fd) => (fd, Origin::Inherited),
            None => (sys::init()?, Origin::New),
        };
        let old = holder.take(JOURNAL)?.filter(|_| origin == Origin::Inherited);
        let journal = match old.as_ref().map(Journal::open) {
            Some(Ok(journal)) => journal,
            // Without it nothing tells what is in hand: the sweep denies all of it.
            _ => {
                let (journal, memfd) = Journal::create(slots)?;
                holder.keep(JOURNAL, memfd.as_fd())?;
                journal
            }
        };
        if origin == Origin::New {
            Kept::release_all(holder, super::KEPT);
            holder.keep(GROUP, fd.as_fd())?;
        }
        let (in_hand, handing_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok((Self { fd, journal, in_hand, handing_over }, origin))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn mark(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        check(Site::MountFanotifyMark)?;
        sys::mark(self.fd(), file)
    }

    pub(super) fn unmark(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        check(Site::MountFanotifyMark)?;
        sys::unmark(self.fd(), file)
    }

    /// Reads events; 0 when there are none.
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buf)) {
            Ok(n) => Ok(n),
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers the oldest question that has `number`.
    pub(super) fn answer(&self, number: RawFd, response: Response) -> io::Result<Answered> {
        let mut record = [0; 8];
        record[..4].copy_from_slice(&number.to_ne_bytes());
        record[4..].copy_from_slice(&response.code().to_ne_bytes());
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &record)) {
            Ok(_) => Ok(Answered::Taken),
            Err(rustix::io::Errno::NOENT) => Ok(Answered::NotAsked),
            Err(error) => Err(error.into()),
        }
    }

    /// Questions in hand.
    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Relaxed)
    }

    pub(super) fn count_in(&self) {
        self.in_hand.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_out(&self) {
        self.in_hand.fetch_sub(1, Ordering::Relaxed);
    }

    /// From now on questions that are dropped stay unanswered, for the next worker.
    pub(super) fn hand_over(&self) {
        self.handing_over.store(true, Ordering::Release);
    }

    pub(super) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
    }
}

/// What a reader is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Response {
    Allow,
    /// EIO: the kernel takes few other numbers, and EROFS makes EIO of each.
    Deny,
}

impl Response {
    fn code(self) -> u32 {
        match self {
            Self::Allow => sys::FAN_ALLOW,
            Self::Deny => sys::FAN_DENY | (libc::EIO.cast_unsigned() << 24),
        }
    }
}
