//! The loop: read, journal, decide, answer; holes go to the engine and are answered from there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_faults::{Site, point};
use larder_fscache::ObjectRange;
use larder_ondemand::{Blob, Cause, Engine, FillError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::blobs::{BlobTable, Device, FileId, Watched};
use super::event::{self, Access, Event};
use super::group::Group;
use super::journal::Entry;
use super::linger::Linger;
use super::question::{Present, Question};
use super::recover::{Recovered, recover};
use super::retire::Retiring;
use crate::awake::Awake;
use crate::erofs::Origin;
use crate::grace::Grace;
use crate::keeper::Holder;
use crate::mounts::User;
use crate::sys::fanotify::adopt_event_fd;

/// Events taken with one read.
const BATCH: usize = 64;
/// An event with a range record has 48 bytes.
const EVENT_BYTES: usize = 48;
/// How often the loop looks after what is not a question.
const TICK: Duration = Duration::from_millis(500);

/// What the serving thread and the completions share.
pub(super) struct Server {
    group: Arc<Group>,
    blobs: BlobTable,
    engine: Arc<Engine>,
    /// Questions for blobs that nobody has named yet; `None` once every mount was taken up.
    parked: Mutex<Option<Vec<Question>>>,
    /// How long they wait.
    grace: Grace,
    retiring: Retiring,
    /// Mounts of an earlier worker that nobody has taken up yet, by what the keeper calls them.
    untaken: Mutex<Vec<String>>,
    holder: Arc<dyn Holder>,
    overflowed: AtomicBool,
    given_up: AtomicBool,
}

impl Server {
    pub(super) fn new(
        group: Arc<Group>,
        origin: Origin,
        engine: Arc<Engine>,
        holder: Arc<dyn Holder>,
        untaken: Vec<String>,
    ) -> Self {
        let parked = (origin == Origin::Inherited).then(Vec::new);
        Self {
            group,
            blobs: BlobTable::default(),
            engine,
            parked: Mutex::new(parked),
            grace: Grace::new(),
            retiring: Retiring::default(),
            untaken: Mutex::new(untaken),
            holder,
            overflowed: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
        }
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    pub(super) fn grace(&self) -> &Grace {
        &self.grace
    }

    pub(super) fn retiring(&self) -> &Retiring {
        &self.retiring
    }

    /// Whether an access was allowed unasked: nothing that this group watches over can be trusted any more.
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Acquire)
    }

    /// Everything is denied from now on, and what waits for its mount at the end of the resumption.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether no mount uses any blob, be it one that was taken away and lives on.
    pub(super) fn is_idle(&self) -> bool {
        self.clean_up();
        !self.blobs.is_used() && self.retiring.is_empty()
    }

    /// Forgets mounts that have gone since they were taken away, and tries again what failed then.
    fn clean_up(&self) {
        for user in self.retiring.take_what_is_gone() {
            self.blobs.leave(user);
        }
        self.unmark_unused();
    }

    /// Takes the marks off what no mount uses. A mount that an earlier worker took away, or that waits to be taken up, may be
    /// read from any file, and nobody knows which: until it has gone, or was taken up, every mark stays, or its readers would find
    /// holes unasked (P1).
    fn unmark_unused(&self) {
        let is_strange = |user| !self.blobs.is_used_by(user);
        if self.blobs.is_to_be_cleaned_up() && !self.retiring.has_any(is_strange) && !self.has_untaken() {
            self.blobs.unmark_unused(&self.group);
        }
    }

    /// The mount that the keeper calls `name` was taken up: its blobs are known from here on.
    pub(super) fn taken_up(&self, name: &str) {
        self.untaken.lock().unwrap_or_else(PoisonError::into_inner).retain(|untaken| untaken != name);
    }

    fn has_untaken(&self) -> bool {
        let mut untaken = self.untaken.lock().unwrap_or_else(PoisonError::into_inner);
        if !untaken.is_empty() {
            // What the keeper has no more was abandoned.
            let names = self.holder.names();
            untaken.retain(|name| names.contains(name));
        }
        !untaken.is_empty()
    }

    /// Whether the mount `user` has blobs in the table.
    pub(super) fn is_used_by(&self, user: User) -> bool {
        self.blobs.is_used_by(user)
    }

    /// Enters and marks `blob` for the mount `user`; what waited for it is answered.
    pub(super) fn watch(self: &Arc<Self>, user: User, blob: &Arc<Blob>) -> io::Result<Device> {
        self.given_up.store(false, Ordering::Release);
        let device = self.blobs.watch(&self.group, user, blob)?;
        let id = FileId::of(device.file())?;
        for question in self.unpark(|question| question.file() == id) {
            self.decide(question);
        }
        Ok(device)
    }

    /// Takes the marks off what only the mount `user` used. Its superblock must be gone.
    pub(super) fn release(&self, user: User) {
        self.blobs.leave(user);
        self.unmark_unused();
    }

    /// Forgets the mount `user`, and leaves the marks: who reads what only it used is denied.
    pub(super) fn forget(&self, user: User) {
        self.blobs.forget(user);
    }

    pub(super) fn on_complete(&self, blob: &Arc<Blob>) {
        self.blobs.on_complete(&self.group, blob);
    }

    /// Every mount was taken up or given up: who still waits for a blob that is not known gets an error.
    pub(super) fn finish_resume(&self) {
        let parked = self.lock_parked().take();
        for question in parked.into_iter().flatten() {
            self.refuse_unknown(question);
        }
    }

    /// Runs until `stop` becomes readable or the group is handed over.
    pub(super) fn run(self: &Arc<Self>, origin: Origin, stop: &OwnedFd) {
        if origin == Origin::Inherited {
            self.take_over();
        }
        let mut buf = vec![0; BATCH * EVENT_BYTES];
        let mut linger = Linger::new(Instant::now());
        let mut awake = Awake::new();
        while !self.group.is_handing_over() {
            self.end_resume_in_time();
            self.wait_for_room();
            match self.group.read(&mut buf) {
                Ok(0) if linger.goes_on(Instant::now()) => rustix::thread::sched_yield(),
                Ok(0) => {
                    awake.rest();
                    if self.wait(stop) {
                        return;
                    }
                }
                Ok(length) => {
                    linger.asked(Instant::now());
                    awake.asked(linger.is_in_run());
                    self.take(buf.get(..length).unwrap_or(&[]));
                }
                Err(error) => {
                    tracing::error!(%error, "fanotify: read");
                    std::thread::sleep(TICK);
                }
            }
        }
    }

    fn take_over(self: &Arc<Self>) {
        let Recovered { questions, gate } = recover(&self.group);
        for question in questions {
            self.decide(question);
        }
        while Arc::strong_count(&gate) > 1 && !self.group.is_handing_over() {
            self.end_resume_in_time();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end_resume_in_time(&self) {
        if self.is_resuming() && self.grace.is_over() {
            self.finish_resume();
        }
    }

    /// Leaves events in the queue while this process has too few descriptors for them.
    fn wait_for_room(&self) {
        let most = self.group.journal().slots() / 2;
        while self.group.in_hand() + BATCH > most && !self.group.is_handing_over() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for events; true when it is time to stop.
    fn wait(&self, stop: &OwnedFd) -> bool {
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        let group = self.group.fd();
        let mut fds = [PollFd::new(&group, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let has_chores = self.is_resuming() || !self.retiring.is_empty() || self.blobs.is_to_be_cleaned_up();
        let woken = poll(&mut fds, has_chores.then_some(&tick));
        let stopped = !fds[1].revents().is_empty();
        if woken == Ok(0) {
            self.clean_up();
        }
        stopped
    }

    /// Takes a batch: first every question gets its slot, then each is decided.
    fn take(self: &Arc<Self>, bytes: &[u8]) {
        point(Site::MountFanotifyRead);
        let mut questions = Vec::with_capacity(bytes.len() / EVENT_BYTES);
        for event in event::parse(bytes) {
            match event {
                Ok(Event::Access(access)) => questions.extend(self.enter(access)),
                Ok(Event::Refused(errno)) => {
                    let error = io::Error::from_raw_os_error(errno);
                    tracing::warn!(%error, "the kernel could not open an event's descriptor; the reader got an error");
                }
                Ok(Event::Overflow) => self.overflow(),
                Ok(Event::Other(mask)) => tracing::warn!(mask, "fanotify: an event that nobody asked for"),
                Err(error) => {
                    tracing::error!(%error, "fanotify: events cannot be read; this worker does not go on");
                    self.overflow();
                }
            }
        }
        point(Site::MountFanotifyJournal);
        for question in questions {
            self.decide(question);
        }
    }

    fn enter(&self, access: Access) -> Option<Question> {
        let fd = adopt_event_fd(access.fd)?;
        // Without an identity the file is none of ours, and the reader is denied.
        let file = FileId::of(fd.as_fd()).unwrap_or(FileId { device: 0, inode: 0 });
        let entry = Entry { number: access.fd, file, range: access.range };
        let entered = self.group.journal().take(&entry);
        let question = Question::asked(&self.group, entry, fd, access.pid);
        if !entered {
            tracing::error!(number = access.fd, "no slot for a question");
            question.deny();
            return None;
        }
        Some(question)
    }

    /// Present: answer at once. Hole: the engine brings it. Unknown: park or deny.
    fn decide(self: &Arc<Self>, question: Question) {
        if self.has_overflowed() || self.given_up.load(Ordering::Acquire) {
            return question.deny();
        }
        let Some(watched) = self.blobs.get(question.file()) else { return self.park(question) };
        let size = watched.blob().size();
        let want = question.range().clamp_to(size);
        match Present::prove(&watched, want) {
            Ok(proof) => {
                question.allow(&proof, size);
                self.engine.touch(watched.blob(), want);
            }
            Err(missing) => self.fill(question, watched, want, missing),
        }
    }

    fn fill(
        self: &Arc<Self>,
        question: Question,
        watched: Arc<Watched>,
        want: ObjectRange,
        missing: ObjectRange,
    ) {
        let blob = Arc::clone(watched.blob());
        let cause = Cause::Demand { pid: question.pid() };
        self.engine.spawn_fill(&blob, missing, cause, move |filled| settle(question, &watched, want, filled));
    }

    fn park(self: &Arc<Self>, question: Question) {
        let mut parked = self.lock_parked();
        // Looked up again under the lock: the blob may have been entered since.
        if self.blobs.get(question.file()).is_some() {
            drop(parked);
            return self.decide(question);
        }
        match &mut *parked {
            Some(waiting) => waiting.push(question),
            None => self.refuse_unknown(question),
        }
    }

    fn refuse_unknown(&self, question: Question) {
        let FileId { device, inode } = question.file();
        tracing::error!(device, inode, "a question for a file that no mount knows: denied");
        question.deny();
    }

    fn unpark(&self, mut wanted: impl FnMut(&Question) -> bool) -> Vec<Question> {
        match &mut *self.lock_parked() {
            Some(waiting) => waiting.extract_if(.., |question| wanted(question)).collect(),
            None => Vec::new(),
        }
    }

    fn is_resuming(&self) -> bool {
        self.lock_parked().is_some()
    }

    fn lock_parked(&self) -> std::sync::MutexGuard<'_, Option<Vec<Question>>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fatal for the group: some reader has had bytes that nobody vouched for.
    fn overflow(&self) {
        self.overflowed.store(true, Ordering::Release);
        tracing::error!(
            "fanotify: the queue overflowed; everything is denied from now on: unmount and mount again"
        );
    }
}

/// Takes the decision again after a fill: a second miss is an error, never a third try and never zeros.
fn settle(question: Question, watched: &Watched, want: ObjectRange, filled: Result<(), FillError>) {
    match (Present::prove(watched, want), filled) {
        (Ok(proof), _) => question.allow(&proof, watched.blob().size()),
        (Err(missing), filled) => {
            let error = filled.err().map(|error| error.chain());
            tracing::warn!(blob = %watched.blob().name(), start = missing.start(), len = missing.len(), error, "denied");
            question.deny();
        }
    }
}
