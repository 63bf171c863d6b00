//! [`Pool`]: a few threads that serve every mount of this process, however many there are.
//!
//! They wait in one epoll(7), edge-triggered: each request of a mount wakes one of them, which answers until the mount has
//! no more. A second thread that is woken meanwhile reads from the same mount, unless its file system has a state: then
//! requests are answered in the order in which they come.

use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::STACK_BYTES;
use super::serve::{Buffers, Server};

/// More threads than that do not make a worker's answers come sooner: what takes long goes to the runtime.
const THREADS_MAX: usize = 4;
/// The number of the event that says that this pool is closed.
const CLOSED: u64 = 0;

/// The threads, and what they serve. When it is dropped they go on until the last mount is gone.
pub(super) struct Pool {
    shared: Arc<Shared>,
}

/// A mount in a pool.
pub(super) struct Served {
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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: HashMap<u64, Arc<Line>>,
    /// Numbers of lines are never used twice: an event that is late finds nobody.
    last: u64,
    threads: usize,
    is_closed: bool,
}

/// One mount.
struct Line {
    server: Server,
    is_over: Arc<AtomicBool>,
    /// Held by the thread that answers, where the order matters.
    turn: Mutex<()>,
    /// Whether there may be a request that the thread whose turn it is has not seen.
    has_more: AtomicBool,
    /// Somebody else answers from now on.
    is_left: AtomicBool,
}

impl Pool {
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let closed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Level-triggered, so that it wakes every thread.
        epoll::add(&epoll, &closed, epoll::EventData::new_u64(CLOSED), epoll::EventFlags::IN)?;
        Ok(Self { shared: Arc::new(Shared { epoll, closed, state: Mutex::default() }) })
    }

    /// Serves a mount until it is unmounted.
    pub fn serve(&self, server: Server) -> io::Result<Served> {
        self.start_threads()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (turn, has_more, is_left) = (Mutex::new(()), AtomicBool::new(false), AtomicBool::new(false));
        let line = Arc::new(Line { server, is_over: Arc::clone(&is_over), turn, has_more, is_left });
        let mut state = self.shared.lock();
        state.last += 1;
        let number = state.last;
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::ET;
        // Entered first: the event may come before this returns.
        state.lines.insert(number, Arc::clone(&line));
        let added =
            epoll::add(&self.shared.epoll, line.server.device(), epoll::EventData::new_u64(number), wanted);
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

    fn start_threads(&self) -> io::Result<()> {
        let wanted = std::thread::available_parallelism().map_or(1, NonZero::get).clamp(2, THREADS_MAX);
        let mut state = self.shared.lock();
        while state.threads < wanted {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name(format!("fuse-{}", state.threads))
                .stack_size(STACK_BYTES)
                .spawn(move || shared.run());
            match started {
                Ok(_) => state.threads += 1,
                // One serves all, if need be.
                Err(_) if state.threads > 0 => break,
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
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for requests failed: a thread less serves them");
                    return;
                }
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    CLOSED => return,
                    // One answer that is never given is bad enough: the other mounts go on.
                    number => drop(catch_unwind(AssertUnwindSafe(|| self.answer(number, &mut buffers)))),
                }
            }
        }
    }

    fn answer(&self, number: u64, buffers: &mut Buffers) {
        let Some(line) = self.lock().lines.get(&number).map(Arc::clone) else { return };
        if line.answer(buffers) && self.take_out(number).is_some() {
            // One that is handed over goes on elsewhere.
            line.is_over.store(!line.server.is_handed_over(), Ordering::Release);
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
    fn answer(&self, buffers: &mut Buffers) -> bool {
        if self.server.is_stateless() {
            return self.server.answer_all(buffers);
        }
        self.has_more.store(true, Ordering::SeqCst);
        // Whoever has the turn looks once more after giving it back.
        while self.has_more.load(Ordering::SeqCst) {
            let _turn = match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
                Err(TryLockError::WouldBlock) => return false,
            };
            self.has_more.store(false, Ordering::SeqCst);
            if self.is_left.load(Ordering::SeqCst) {
                return false;
            }
            if self.server.answer_all(buffers) {
                return true;
            }
        }
        false
    }
}
