//! [`Pool`]: a few threads that serve every mount of this process, however many there are.
//!
//! They wait in one epoll(7), in which a mount tells one of them at a time (EPOLLONESHOT) that it has a request: that one
//! answers until there is no more. Were each request told, the next one of a reader that has just been answered would wake a second
//! thread beside the one that is about to look for it. A file system without a state is told of to others as soon as there is
//! work for them: a long answer, or requests that come faster than they are answered. One with a state is answered in the
//! order in which requests come.
//!
//! Any answer can take long, as long as the disk takes. While there is work, one thread more looks every few milliseconds whether
//! an answer is taking long, and tells of what waits behind it.

use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::serve::{Buffers, Server};
use crate::awake::Awake;

/// Stack of a serving thread: it parses, it does not recurse.
const STACK_BYTES: usize = 256 * 1024;
/// More threads than that do not make a worker's answers come sooner: what takes long goes to the runtime.
const THREADS_MAX: usize = 4;
/// A long answer must not hold up a short one.
const THREADS_MIN: usize = 2;
/// The number of the event that says that this pool is closed.
const CLOSED: u64 = 0;
/// That of the event that has one thread more look after the others.
const WATCH: u64 = u64::MAX;
/// What a mount tells: that there is a request, once.
const WANTED: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);
/// A request that comes this soon after an answer belongs to a run. A halted processor of a virtual machine takes most of
/// that to wake.
const RUN: Duration = Duration::from_micros(150);
/// How long a run may pause.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// An answer that takes so long holds nobody up any more.
const LONG_MS: u64 = 10;
/// How often to look, while there is work.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// How long there must be none before nobody looks.
const QUIET_MS: u64 = 1000;

/// The threads, and what they serve. When it is dropped they go on until the last mount is gone.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

/// A mount in a pool.
pub(crate) struct Served {
    shared: Arc<Shared>,
    number: u64,
    is_over: Arc<AtomicBool>,
}

impl Served {
    /// Leaves the connection to somebody else: once this returns, no more requests are taken from it here. Waits for the
    /// one that is being answered, where the order of requests matters.
    pub fn end(self) {
        if let Some(line) = self.shared.take_out(self.number) {
            line.is_left.store(true, Ordering::SeqCst);
            // Whoever gets the turn after this sees that.
            drop(line.turn.lock());
        }
    }

    /// Whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

struct Shared {
    epoll: OwnedFd,
    closed: OwnedFd,
    /// Readable once for each time that it is written to.
    watch: OwnedFd,
    /// Threads that wait, and not for ever.
    watching: AtomicUsize,
    begun: Instant,
    /// When the last request was told of, in milliseconds since then.
    told_ms: AtomicU64,
    /// Threads.
    wanted: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: HashMap<u64, Arc<Line>>,
    /// Numbers of lines are never used twice: an event that is late finds nobody.
    last: u64,
    threads: Vec<JoinHandle<()>>,
    is_closed: bool,
}

/// One mount.
struct Line {
    server: Server,
    is_over: Arc<AtomicBool>,
    /// Held by the thread that answers, where the order matters.
    turn: Mutex<()>,
    /// Somebody else answers from now on.
    is_left: AtomicBool,
    /// Since when a thread that nobody else was told of answers, in milliseconds since the pool began; 0 while none does.
    answering_ms: AtomicU64,
}

impl Pool {
    /// With as many threads as there are processors, within limits.
    pub fn new() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::with_threads(processors.clamp(THREADS_MIN, THREADS_MAX))
    }

    /// With so many threads, which start with the first mount.
    pub fn with_threads(threads: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let closed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Level-triggered, so that it wakes every thread.
        epoll::add(&epoll, &closed, epoll::EventData::new_u64(CLOSED), epoll::EventFlags::IN)?;
        let watch = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered: each time it is written to it wakes one thread.
        let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &watch, epoll::EventData::new_u64(WATCH), once)?;
        let shared = Shared {
            epoll,
            closed,
            watch,
            watching: AtomicUsize::new(0),
            begun: Instant::now(),
            told_ms: AtomicU64::new(0),
            wanted: threads,
            state: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Serves a mount until it is unmounted.
    pub fn serve(&self, server: Server) -> io::Result<Served> {
        self.start_threads()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (turn, is_left, answering_ms) = Default::default();
        let line = Arc::new(Line { server, is_over: Arc::clone(&is_over), turn, is_left, answering_ms });
        let mut state = self.shared.lock();
        state.last += 1;
        let number = state.last;
        // Entered first: the event may come before this returns.
        state.lines.insert(number, Arc::clone(&line));
        let added =
            epoll::add(&self.shared.epoll, line.server.device(), epoll::EventData::new_u64(number), WANTED);
        if let Err(error) = added {
            state.lines.remove(&number);
            return Err(error.into());
        }
        Ok(Served { shared: Arc::clone(&self.shared), number, is_over })
    }

    /// Whether no connection is served any more, be it one that was detached and lives on.
    pub fn is_idle(&self) -> bool {
        self.shared.lock().lines.is_empty()
    }

    /// Waits until the last mount is gone and the threads have ended.
    pub fn join(self) {
        let threads = std::mem::take(&mut self.shared.lock().threads);
        drop(self);
        for thread in threads {
            // A thread that panicked has said so; the others go on.
            let _ = thread.join();
        }
    }

    fn start_threads(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        while state.threads.len() < self.shared.wanted {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name(format!("fuse-{}", state.threads.len()))
                .stack_size(STACK_BYTES)
                .spawn(move || shared.run());
            match started {
                Ok(thread) => state.threads.push(thread),
                // One serves all, if need be.
                Err(_) if !state.threads.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        self.shared.end_if_done(&state);
    }
}

impl Shared {
    fn run(&self) {
        let mut buffers = Buffers::default();
        let mut events = Vec::with_capacity(1);
        let (mut awake, mut answered) = (Awake::new(), Instant::now());
        loop {
            let at_most = match (awake.is_said(), self.has_work()) {
                (true, _) => Some(&PAUSE),
                (false, true) => Some(&LOOK),
                (false, false) => None,
            };
            let waiting = usize::from(at_most.is_some());
            self.watching.fetch_add(waiting, Ordering::SeqCst);
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), at_most);
            let others = self.watching.fetch_sub(waiting, Ordering::SeqCst) - waiting;
            match waited {
                Ok(0) => {
                    awake.rest();
                    self.tell_of_what_waits();
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for requests failed: a thread less serves them");
                    return;
                }
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    CLOSED => return,
                    WATCH => {}
                    number => {
                        self.told_ms.store(self.now_ms(), Ordering::SeqCst);
                        if others == 0 {
                            let _ = rustix::io::write(&self.watch, &1_u64.to_ne_bytes());
                        }
                        awake.asked(answered.elapsed() < RUN);
                        self.answer(number, &mut buffers);
                        answered = Instant::now();
                    }
                }
            }
        }
    }

    fn answer(&self, number: u64, buffers: &mut Buffers) {
        let Some(line) = self.lock().lines.get(&number).map(Arc::clone) else { return };
        let tell_others = || {
            line.answering_ms.store(0, Ordering::SeqCst);
            self.tell_again(number);
        };
        if line.server.is_stateless() {
            line.answering_ms.store(self.now_ms(), Ordering::SeqCst);
        }
        // One answer that is never given is bad enough: this mount and the others go on.
        let answered = catch_unwind(AssertUnwindSafe(|| line.answer(buffers, &tell_others)));
        if matches!(answered, Ok(true)) && self.take_out(number).is_some() {
            // One that is handed over goes on elsewhere.
            line.is_over.store(!line.server.is_handed_over(), Ordering::Release);
        }
        tell_others();
    }

    /// Tells others of mounts in which an answer takes long.
    fn tell_of_what_waits(&self) {
        let long_ago = self.now_ms().saturating_sub(LONG_MS);
        let is_late = |line: &Line| (1..=long_ago).contains(&line.answering_ms.load(Ordering::SeqCst));
        let late: Vec<u64> = {
            let state = self.lock();
            state.lines.iter().filter(|(_, line)| is_late(line)).map(|(number, _)| *number).collect()
        };
        for number in late {
            self.tell_again(number);
        }
    }

    /// Whether somebody may be answering, or was a moment ago.
    fn has_work(&self) -> bool {
        let told_ms = self.told_ms.load(Ordering::SeqCst);
        told_ms > 0
            && (self.now_ms().saturating_sub(told_ms) < QUIET_MS
                || self.lock().lines.values().any(|line| line.answering_ms.load(Ordering::SeqCst) > 0))
    }

    /// Since the pool began; never 0.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Has the line `number` tell of its next request, or of one that is there now; unless it was taken out. Its descriptor may
    /// be in the epoll for another line by then, so that this is looked at under the lock.
    fn tell_again(&self, number: u64) {
        let state = self.lock();
        let Some(line) = state.lines.get(&number) else { return };
        let told =
            epoll::modify(&self.epoll, line.server.device(), epoll::EventData::new_u64(number), WANTED);
        if let Err(error) = told {
            tracing::error!(%error, "a mount is answered no more");
        }
    }

    /// Serves the line `number` no more; `None` when it was taken out before.
    fn take_out(&self, number: u64) -> Option<Arc<Line>> {
        let mut state = self.lock();
        let line = state.lines.remove(&number);
        if let Some(line) = &line {
            // With the last copy of its descriptor closed it would go by itself; the keeper may have one.
            let _ = epoll::delete(&self.epoll, line.server.device());
        }
        self.end_if_done(&state);
        line
    }

    /// Lets the threads end once nothing more can come.
    fn end_if_done(&self, state: &State) {
        if state.is_closed && state.lines.is_empty() {
            let _ = rustix::io::write(&self.closed, &1_u64.to_ne_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Answers what there is; returns whether the connection has ended.
    fn answer(&self, buffers: &mut Buffers, tell_others: &dyn Fn()) -> bool {
        if self.server.is_stateless() {
            return self.server.answer_all(buffers, tell_others);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_left.load(Ordering::SeqCst) && self.server.answer_all(buffers, &|| ())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use zerocopy::IntoBytes as _;

    use super::super::abi::InHeader;
    use super::super::channel::{Channel, HandedOver};
    use super::super::dir::Listing;
    use super::super::file_system::{
        Attributes, Data, Entry, Errno as Number, FileSystem, ListAt, NodeId, Outcome, ReadAt, Size, Validity,
    };
    use super::*;

    const GETATTR: u32 = 3;
    const READLINK: u32 = 5;
    const READ: u32 = 15;
    const LONG: u32 = 128 << 10;
    const LIMIT: Duration = Duration::from_secs(60);

    /// Answers GETATTR with an error at once, READ when it is told to, and panics at READLINK.
    struct Slow(Mutex<mpsc::Receiver<()>>);

    impl FileSystem for Slow {
        fn lookup(&self, _: NodeId, _: &[u8]) -> Outcome<Entry> {
            Outcome::error(libc::ENOENT)
        }

        fn getattr(&self, _: NodeId) -> Outcome<(Attributes, Validity)> {
            Outcome::error(libc::ENOENT)
        }

        fn readlink(&self, _: NodeId) -> Outcome<Vec<u8>> {
            panic!("as it was asked to");
        }

        fn read(&self, _: ReadAt, _: &mut Vec<u8>) -> Outcome<Data> {
            let _ = self.0.lock().unwrap().recv_timeout(LIMIT);
            Outcome::error(libc::ENOENT)
        }

        fn readdir(&self, _: ListAt, _: Listing) -> Outcome<Listing> {
            Outcome::error(libc::ENOENT)
        }

        fn statfs(&self) -> Size {
            Size::default()
        }

        fn xattr(&self, _: NodeId, _: &[u8]) -> Result<Option<Vec<u8>>, Number> {
            Ok(None)
        }

        fn xattrs(&self, _: NodeId) -> Result<Vec<Vec<u8>>, Number> {
            Ok(Vec::new())
        }
    }

    /// A pool that serves [`Slow`] to a kernel that is a socket.
    struct Rig {
        kernel: OwnedFd,
        pool: Pool,
        served: Served,
        ours: OwnedFd,
        go_on: mpsc::Sender<()>,
        runtime: tokio::runtime::Runtime,
    }

    impl Rig {
        fn new() -> Self {
            Self::with_threads(2)
        }

        fn with_threads(threads: usize) -> Self {
            let (ours, kernel) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (go_on, waits) = mpsc::channel();
            let pool = Pool::with_threads(threads).unwrap();
            let fs = Arc::new(Slow(Mutex::new(waits)));
            let channel = Channel::handed_over_with(ours.try_clone().unwrap(), Arc::<HandedOver>::default());
            let served = pool.serve(Server::new(fs, channel, runtime.handle().clone())).unwrap();
            Self { kernel, pool, served, ours, go_on, runtime }
        }

        fn ask(&self, opcode: u32, unique: u64, size: u32) {
            // `struct fuse_read_in`: handle and offset, then the size.
            let body = [0, 0, u64::from(size), 0, 0];
            let len = u32::try_from(size_of::<InHeader>() + size_of_val(&body)).unwrap();
            let header = InHeader::of_root(len, opcode, unique);
            rustix::io::write(&self.kernel, &[header.as_bytes(), body.as_bytes()].concat()).unwrap();
        }

        /// The number of the next answer.
        fn answered(&self) -> u64 {
            let device = rustix::event::PollFd::new(&self.kernel, rustix::event::PollFlags::IN);
            let limit = Timespec { tv_sec: LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut [device], Some(&limit)), Ok(1), "nothing is answered");
            let mut answer = [0; 64];
            rustix::io::read(&self.kernel, &mut answer).unwrap();
            u64::from_ne_bytes(answer[8..16].try_into().unwrap())
        }
    }

    #[test]
    fn p3_an_answer_that_takes_long_holds_up_no_other() {
        for bytes in [LONG, 4096] {
            let rig = Rig::new();
            rig.ask(READ, 1, bytes);
            rig.ask(GETATTR, 2, 0);
            assert_eq!(rig.answered(), 2);
            // Nor once nothing has come for a while.
            std::thread::sleep(Duration::from_millis(QUIET_MS + 200));
            rig.ask(GETATTR, 3, 0);
            assert_eq!(rig.answered(), 3);
            rig.go_on.send(()).unwrap();
            assert_eq!(rig.answered(), 1);
        }
    }

    #[test]
    fn p3_of_many_threads_the_last_one_is_told_of_what_waits_behind_the_others() {
        let rig = Rig::with_threads(4);
        for unique in 1..=3 {
            rig.ask(READ, unique, 4096);
        }
        rig.ask(GETATTR, 4, 0);
        assert_eq!(rig.answered(), 4);
        for _ in 1..=3 {
            rig.go_on.send(()).unwrap();
        }
        let mut read: Vec<_> = (1..=3).map(|_| rig.answered()).collect();
        read.sort_unstable();
        assert_eq!(read, [1, 2, 3]);
    }

    #[test]
    fn p4_a_mount_goes_on_after_an_answer_that_panics() {
        let rig = Rig::new();
        for unique in [2, 4, 6] {
            rig.ask(READLINK, unique - 1, 0);
            rig.ask(GETATTR, unique, 0);
            assert_eq!(rig.answered(), unique);
        }
    }

    /// As a mount that nobody took up is, when it is taken up: the same descriptor is served anew.
    #[test]
    fn p4_who_was_served_before_tells_nothing_in_the_name_of_who_is_served_now() {
        let Rig { kernel, pool, served, ours, go_on, runtime } = Rig::new();
        let before = served.number;
        let shared = Arc::clone(&served.shared);
        served.end();
        let (_go_on, waits) = mpsc::channel();
        let channel = Channel::handed_over_with(ours.try_clone().unwrap(), Arc::<HandedOver>::default());
        let fs = Arc::new(Slow(Mutex::new(waits)));
        let served = pool.serve(Server::new(fs, channel, runtime.handle().clone())).unwrap();
        // What a thread does that was answering until now.
        shared.tell_again(before);
        let rig = Rig { kernel, pool, served, ours, go_on, runtime };
        rig.ask(GETATTR, 2, 0);
        assert_eq!(rig.answered(), 2);
    }
}
