//! [`Question`]: a reader that waits, answered exactly once; and [`Present`], without which there is no allowing.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use larder_faults::{Site, point};
use larder_fscache::ObjectRange;

use super::blobs::{FileId, Watched};
use super::group::{Answered, Group, Response};
use super::journal::Entry;
use crate::content::first_hole;

/// Cancelled questions that one number may have left behind, at most.
const DUPLICATES_MAX: usize = 4096;

/// Proof that every byte of a range is in a blob's backing file.
#[derive(Debug)]
pub(super) struct Present {
    file: FileId,
    range: ObjectRange,
}

impl Present {
    /// Takes the cache's decision for the whole of `want`.
    ///
    /// # Errors
    ///
    /// What is missing: `want` from its first hole on.
    pub(super) fn prove(watched: &Watched, want: ObjectRange) -> Result<Self, ObjectRange> {
        let range = want.clamp_to(watched.blob().size());
        if let Some(missing) = first_hole(watched.blob(), range) {
            return Err(missing);
        }
        Ok(Self { file: watched.id(), range })
    }

    fn covers(&self, entry: &Entry, size: u64) -> bool {
        let asked = entry.range.clamp_to(size);
        self.file == entry.file && self.range.start() <= asked.start() && asked.end() <= self.range.end()
    }
}

/// What holds the number of a question while it is unanswered: a new question must not get the same one.
#[derive(Debug)]
pub(super) enum Number {
    /// Read by this process: the event descriptor itself.
    Event { _fd: OwnedFd },
    /// Read by an earlier worker: a placeholder, or nothing where this process had the number in use already.
    Inherited { _placeholder: Option<OwnedFd> },
}

/// A reader that waits for an answer. Dropped, it is denied.
pub(super) struct Question {
    group: Arc<Group>,
    entry: Entry,
    pid: Option<u32>,
    inherited: bool,
    /// Closed last: the order is answer, journal, close (A.8).
    number: Option<Number>,
    /// Held up until the answer, where something must wait for it.
    _gate: Option<Arc<()>>,
}

impl Question {
    /// A question that this process has read and entered in the journal.
    pub(super) fn asked(group: &Arc<Group>, entry: Entry, fd: OwnedFd, pid: u32) -> Self {
        group.count_in();
        let number = Some(Number::Event { _fd: fd });
        Self { group: Arc::clone(group), entry, pid: Some(pid), inherited: false, number, _gate: None }
    }

    /// A question from the journal of an earlier worker. `gate` is held until it is answered.
    pub(super) fn inherited(
        group: &Arc<Group>,
        entry: Entry,
        placeholder: Option<OwnedFd>,
        gate: Option<Arc<()>>,
    ) -> Self {
        group.count_in();
        let number = Some(Number::Inherited { _placeholder: placeholder });
        Self { group: Arc::clone(group), entry, pid: None, inherited: true, number, _gate: gate }
    }

    /// The file that is read.
    pub(super) fn file(&self) -> FileId {
        self.entry.file
    }

    /// What is about to be read, as the kernel said it: it may reach past the end.
    pub(super) fn range(&self) -> ObjectRange {
        self.entry.range
    }

    /// The process that reads, where that is known.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Lets the reader go on; with a proof of something else it is denied.
    pub(super) fn allow(mut self, proof: &Present, size: u64) {
        let fits = proof.covers(&self.entry, size);
        debug_assert!(fits, "a proof for another question");
        self.answer(if fits { Response::Allow } else { Response::Deny });
    }

    /// Gives the reader EIO; while the group is handed over, leaves it to the next worker: what went wrong here may be the
    /// end of this one.
    pub(super) fn deny(self) {
        drop(self);
    }

    fn answer(&mut self, response: Response) {
        let Some(number) = self.number.take() else { return };
        point(Site::MountFanotifyAnswer);
        send(&self.group, self.entry.number, response);
        point(Site::MountFanotifyAnswered);
        if self.inherited {
            // The answer may have hit a cancelled question with the same number: whoever is left gets an error (A.12).
            deny_all(&self.group, self.entry.number);
        }
        self.group.journal().clear(self.entry.number);
        self.group.count_out();
        drop(number);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if self.group.is_handing_over() {
            // The number stays taken, descriptor and slot, until the process ends.
            std::mem::forget(self.number.take());
            return;
        }
        self.answer(Response::Deny);
    }
}

fn send(group: &Group, number: RawFd, response: Response) {
    match group.answer(number, response) {
        Ok(Answered::Taken) => {}
        Ok(Answered::NotAsked) => tracing::debug!(number, "the reader no longer waits"),
        Err(error) => tracing::error!(number, %error, "the kernel does not take an answer: a reader hangs"),
    }
}

/// Denies every question that has `number`.
pub(super) fn deny_all(group: &Group, number: RawFd) -> usize {
    let denied = |_: &usize| matches!(group.answer(number, Response::Deny), Ok(Answered::Taken));
    (0..DUPLICATES_MAX).take_while(denied).count()
}
