//! The keeper's loop: one worker at a time, its channel, and what it left.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use larder_faults::{Site, point};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

use super::FD_ENV;
use super::backoff::{Backoff, Ended, Exit, Next};
use super::protocol::{self, Op, Received};
use super::store::Store;
use crate::sys::process::{let_go_of_code, read_signal, unblock_signals};

/// After this long without anything to do, the keeper makes itself small.
const QUIET: Duration = Duration::from_secs(1);

/// A running worker.
pub(super) struct Worker {
    /// Absent when the worker was adopted: it is not our child.
    pid: Option<Pid>,
    exit: Option<Exit>,
    pidfd: OwnedFd,
    /// Absent once the worker has closed its end.
    socket: Option<OwnedFd>,
    since: Instant,
    greeting: Greeting,
    said_stop: bool,
}

/// How much of `HAVE ..., END` the worker has got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Greeting {
    Have(usize),
    Done,
}

/// The keeper: the store, the worker, and how to start another one.
pub(super) struct Supervisor {
    argv: Vec<OsString>,
    signals: OwnedFd,
    store: Store,
    backoff: Backoff,
    restarts: u64,
    told_to_stop: Option<Signal>,
}

impl Worker {
    /// Takes charge of a worker that runs already: the first message on `socket` brings its pidfd.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let refused = || io::Error::other("the worker did not introduce itself");
        let Received::Message(message) = protocol::receive(socket.as_fd(), RecvFlags::empty())? else {
            return Err(refused());
        };
        let pidfd = message.fd.filter(|_| message.op == Op::Adopt).ok_or_else(refused)?;
        let since = Instant::now();
        let greeting = Greeting::Done;
        Ok(Self { pid: None, exit: None, pidfd, socket: Some(socket), since, greeting, said_stop: false })
    }

    fn spawn(argv: &[OsString]) -> io::Result<Self> {
        let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (ours, theirs) = protocol::pair()?;
        // The keeper has one thread, so that nothing else can inherit this descriptor in between.
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let mut command = Command::new(program);
        command.args(args).env(FD_ENV, theirs.as_raw_fd().to_string());
        unblock_signals(&mut command);
        let pid = Pid::from_child(&command.spawn()?);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let (since, greeting) = (Instant::now(), Greeting::Have(0));
        Ok(Self { pid: Some(pid), exit: None, pidfd, socket: Some(ours), since, greeting, said_stop: false })
    }

    /// Reaps every child that has ended: this worker, and orphans of dead ones, whose subreaper the keeper is.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
            if self.pid == Some(pid) {
                self.exit = Some(status.exit_status().map_or(Exit::Killed, Exit::Status));
            }
        }
    }
}

/// What woke the loop up.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    signal: bool,
    ended: bool,
    readable: bool,
    writable: bool,
}

impl Supervisor {
    pub(super) fn new(argv: Vec<OsString>, signals: OwnedFd) -> Self {
        let (store, backoff) = (Store::default(), Backoff::default());
        Self { argv, signals, store, backoff, restarts: 0, told_to_stop: None }
    }

    /// Watches over `worker` and its successors until one of them ends cleanly.
    pub(super) fn run(&mut self, mut worker: Option<Worker>) {
        loop {
            let (exit, ran, said_stop) = match worker.take() {
                Some(worker) => self.watch(worker),
                None => match Worker::spawn(&self.argv) {
                    Ok(worker) => self.watch(worker),
                    Err(error) => {
                        eprintln!("larder keeper: cannot start the worker: {error}");
                        (Exit::Killed, Duration::ZERO, false)
                    }
                },
            };
            let told_to_stop = self.told_to_stop.is_some();
            let keeps = !self.store.is_empty();
            match self.backoff.next(Ended { exit, ran, said_stop, told_to_stop, keeps }) {
                Next::Leave => return,
                Next::Restart(delay) => {
                    point(Site::KeeperRespawn);
                    self.restarts += 1;
                    eprintln!("larder keeper: the worker ended ({exit:?}); starting it again in {delay:?}");
                    self.sleep(delay);
                }
            }
        }
    }

    /// Serves one worker until it has ended.
    fn watch(&mut self, mut worker: Worker) -> (Exit, Duration, bool) {
        if let Some(signal) = self.told_to_stop {
            let _ = pidfd_send_signal(&worker.pidfd, signal);
        }
        loop {
            let ready = match Self::wait(&worker, &self.signals) {
                Ok(ready) => ready,
                Err(error) => {
                    eprintln!("larder keeper: poll: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if ready.signal {
                self.on_signals(Some(worker.pidfd.as_fd()));
                worker.reap();
            }
            if ready.readable || ready.ended {
                self.listen(&mut worker);
            }
            if ready.writable {
                self.greet(&mut worker);
            }
            if ready.ended {
                worker.reap();
                return (worker.exit.unwrap_or(Exit::Killed), worker.since.elapsed(), worker.said_stop);
            }
        }
    }

    fn wait(worker: &Worker, signals: &OwnedFd) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(&worker.pidfd, PollFlags::IN)];
        if let Some(socket) = &worker.socket {
            let more = if worker.greeting == Greeting::Done { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(socket, PollFlags::IN | more));
        }
        let quiet = Timespec { tv_sec: QUIET.as_secs().cast_signed(), tv_nsec: 0 };
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&quiet)))? == 0 {
            let_go_of_code();
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        }
        let socket = fds.get(2).map_or(PollFlags::empty(), PollFd::revents);
        Ok(Ready {
            signal: !fds[0].revents().is_empty(),
            ended: !fds[1].revents().is_empty(),
            readable: socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            writable: socket.contains(PollFlags::OUT),
        })
    }

    /// Takes every message that is there; also those that a dead worker has sent before its end.
    fn listen(&mut self, worker: &mut Worker) {
        while let Some(socket) = &worker.socket {
            match protocol::receive(socket.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Received::Message(message)) => {
                    point(Site::KeeperReceive);
                    match (message.op, message.fd) {
                        (Op::Keep, Some(fd)) => self.store.keep(&message.name, fd),
                        (Op::Release, _) => self.store.release(&message.name),
                        (Op::Stop, _) => worker.said_stop = true,
                        (op, _) => eprintln!("larder keeper: {op:?} without its descriptor, or out of place"),
                    }
                    point(Site::KeeperStored);
                }
                Ok(Received::Garbage) => eprintln!("larder keeper: a message that is none of ours"),
                Ok(Received::End) => worker.socket = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    eprintln!("larder keeper: receive: {error}");
                    worker.socket = None;
                }
            }
        }
    }

    /// Hands the worker as much of what is kept as its socket takes now.
    fn greet(&self, worker: &mut Worker) {
        while let (Some(socket), Greeting::Have(index)) = (&worker.socket, worker.greeting) {
            let (sent, next) = match self.store.get(index) {
                Some((name, fd)) => {
                    let sent =
                        protocol::send(socket.as_fd(), Op::Have, 0, name, Some(fd), SendFlags::DONTWAIT);
                    (sent, Greeting::Have(index + 1))
                }
                None => {
                    let sent =
                        protocol::send(socket.as_fd(), Op::End, self.restarts, "", None, SendFlags::DONTWAIT);
                    (sent, Greeting::Done)
                }
            };
            match sent {
                Ok(()) => worker.greeting = next,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    eprintln!("larder keeper: send: {error}");
                    worker.greeting = Greeting::Done;
                }
            }
        }
    }

    /// Passes signals on.
    fn on_signals(&mut self, worker: Option<BorrowedFd<'_>>) {
        while let Some(number) = read_signal(self.signals.as_fd()) {
            let signal = match number {
                libc::SIGTERM => Signal::TERM,
                libc::SIGINT => Signal::INT,
                libc::SIGHUP => Signal::HUP,
                _ => continue,
            };
            if signal != Signal::HUP {
                self.told_to_stop = Some(signal);
            }
            if let Some(Err(error)) = worker.map(|pidfd| pidfd_send_signal(pidfd, signal)) {
                eprintln!("larder keeper: signal {number}: {error}");
            }
        }
    }

    /// Waits, but not when somebody asks for an end.
    fn sleep(&mut self, delay: Duration) {
        let end = Instant::now() + delay;
        while self.told_to_stop.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => self.on_signals(None),
                Err(_) => return,
            }
        }
    }
}
