//! The keeper's loop: one worker at a time, its channel, and what it left.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use larder_faults::{Site, point};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

use super::backoff::{Backoff, Ended, Exit, Next};
use super::command_line;
use super::manager::{self, Manager};
use super::protocol::{self, Message, Op, PROTOCOL_VERSION, Received};
use super::say::say;
use super::store::Store;
use super::{FD_ENV, OWN_PROGRAM, STAND_IN_ENV, START_LIMIT_ENV, WORKER_ENDED};
use crate::sys::process::{let_go_of_code, read_signal, unblock_signals};

/// After this long without anything to do, the keeper makes itself small.
const QUIET: Duration = Duration::from_secs(1);

/// A stand-in of another keeper, which knew how often it was tried.
const ADOPTED_STANDS_IN_FOR: Duration = Duration::from_secs(60);

/// It says so for each mount that it takes up, which takes a minute at most.
const START_LIMIT: Duration = Duration::from_secs(180);

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
    /// When it last said anything.
    heard: Instant,
    /// It serves: its program is one to start again.
    is_ready: bool,
    /// It gives every reader an error, in the place of workers that do not get anywhere; after this long it makes way for
    /// one more try, because no error is to outlive its cause (P3).
    stands_in: Option<Duration>,
}

/// Who is to stand in for workers.
struct StandIn {
    /// Why, in words.
    reason: String,
    /// For how long, before the next try.
    lasts: Duration,
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
    /// The command line before `argv`, until a worker with that one is ready.
    argv_before: Option<Vec<OsString>>,
    signals: OwnedFd,
    store: Store,
    /// Absent unless the keeper runs as a service.
    manager: Option<Manager>,
    backoff: Backoff,
    /// How long a worker that does not serve yet may say nothing.
    start_limit: Duration,
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
        let stands_in = (message.value == protocol::STANDS_IN).then_some(ADOPTED_STANDS_IN_FOR);
        let pidfd = message.fd.filter(|_| message.op == Op::Adopt).ok_or_else(refused)?;
        let since = Instant::now();
        Ok(Self {
            pid: None,
            exit: None,
            pidfd,
            socket: Some(socket),
            since,
            greeting: Greeting::Done,
            said_stop: false,
            heard: since,
            is_ready: true,
            stands_in,
        })
    }

    /// Starts a worker with the command line `argv`, or somebody who stands in for it.
    fn spawn(argv: &[OsString], stand_in: Option<&StandIn>) -> io::Result<Self> {
        let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (ours, theirs) = protocol::pair()?;
        // The keeper has one thread, so that nothing else can inherit this descriptor in between.
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let mut command = match stand_in {
            None => Command::new(program),
            Some(_) => Command::new(OWN_PROGRAM),
        };
        command.arg0(program).args(args).env(FD_ENV, theirs.as_raw_fd().to_string());
        match stand_in {
            None => command.env_remove(STAND_IN_ENV),
            Some(stand_in) => command.env(STAND_IN_ENV, &stand_in.reason),
        };
        manager::hide_from(&mut command);
        unblock_signals(&mut command);
        let pid = Pid::from_child(&command.spawn()?);
        let (pidfd, since) = (pidfd_open(pid, PidfdFlags::empty())?, Instant::now());
        Ok(Self {
            pid: Some(pid),
            exit: None,
            pidfd,
            socket: Some(ours),
            since,
            greeting: Greeting::Have(0),
            said_stop: false,
            heard: since,
            is_ready: false,
            stands_in: stand_in.map(|stand_in| stand_in.lasts),
        })
    }

    /// Reaps every child that has ended: this worker, and orphans of dead ones, whose subreaper the keeper is.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
            if self.pid == Some(pid) {
                let signal = || status.terminating_signal().map_or(Exit::Unseen, Exit::Signal);
                self.exit = Some(status.exit_status().map_or_else(signal, Exit::Status));
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
    /// A keeper of what is in `store`, whose workers have the command line `argv`.
    pub(super) fn new(argv: Vec<OsString>, signals: OwnedFd, store: Store, manager: Option<Manager>) -> Self {
        Self {
            argv,
            argv_before: None,
            signals,
            store,
            manager,
            backoff: Backoff::default(),
            start_limit: std::env::var_os(START_LIMIT_ENV)
                .and_then(|text| start_limit(&text))
                .unwrap_or(START_LIMIT),
            restarts: 0,
            told_to_stop: None,
        }
    }

    /// Watches over `worker` and its successors until one of them ends cleanly.
    pub(super) fn run(&mut self, mut worker: Option<Worker>) {
        let mut stand_in: Option<StandIn> = None;
        loop {
            let ended = match worker.take() {
                Some(worker) => self.watch(worker),
                None => match Worker::spawn(&self.argv, stand_in.take().as_ref()) {
                    Ok(worker) => self.watch(worker),
                    Err(error) => {
                        say!("cannot start the worker: {error}");
                        self.go_back();
                        self.ended(None)
                    }
                },
            };
            let exit = ended.exit;
            match self.backoff.next(ended) {
                Next::Leave => return self.leave(),
                Next::Restart(delay) => {
                    point(Site::KeeperRespawn);
                    self.restarts += 1;
                    say!("{WORKER_ENDED} {exit}; starting it again in {delay:?}");
                    self.sleep(delay);
                }
                Next::StandIn(lasts) => {
                    self.restarts += 1;
                    let deaths = self.backoff.crashes();
                    let reason = format!(
                        "{deaths} workers in a row ended before they had served for a while, the last {exit}"
                    );
                    say!("{reason}; readers get errors until one serves");
                    stand_in = Some(StandIn { reason, lasts });
                }
            }
        }
    }

    /// Nobody needs any more what the manager has: it would keep it open beyond the service's end.
    fn leave(&self) {
        let Some(manager) = &self.manager else { return };
        self.store.names().for_each(|name| manager.forget(name));
    }

    /// Serves one worker until it has ended.
    fn watch(&mut self, mut worker: Worker) -> Ended {
        loop {
            self.look_after(&mut worker);
            let ready = match self.wait(&worker) {
                Ok(ready) => ready,
                Err(error) => {
                    say!("poll: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if ready.signal {
                self.on_signals(Some(&worker));
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
                if !worker.is_ready && worker.stands_in.is_none() {
                    self.go_back();
                }
                return self.ended(Some(&worker));
            }
        }
    }

    fn tell_to_stop(&self, worker: &Worker) {
        if let Some(signal) = self.told_to_stop {
            let _ = pidfd_send_signal(&worker.pidfd, signal);
        }
    }

    /// What is known now that `worker` has ended, or could not be started.
    fn ended(&self, worker: Option<&Worker>) -> Ended {
        Ended {
            exit: worker.map_or(Exit::Never, |worker| worker.exit.unwrap_or(Exit::Unseen)),
            ran: worker.map_or(Duration::ZERO, |worker| worker.since.elapsed()),
            was_ready: worker.is_some_and(|worker| worker.is_ready),
            said_stop: worker.is_some_and(|worker| worker.said_stop),
            told_to_stop: self.told_to_stop.is_some(),
            keeps: !self.store.is_empty(),
            stood_in: worker.is_some_and(|worker| worker.stands_in.is_some()),
        }
    }

    /// Has a stand-in make way in time, and ends a worker that hangs before it serves. With a manager: asks it for more time
    /// while a stop waits. With a watchdog: gives it its sign of life, and ends a worker that gives none.
    fn look_after(&mut self, worker: &mut Worker) {
        if worker.stands_in.is_some_and(|lasts| worker.since.elapsed() >= lasts) {
            say!("one more try");
            let _ = pidfd_send_signal(&worker.pidfd, Signal::HUP);
            worker.since = Instant::now();
        }
        if !worker.is_ready && worker.heard.elapsed() >= self.start_limit {
            let limit = self.start_limit;
            say!("the worker does not serve yet and has said nothing for {limit:?}: it is ended");
            let _ = pidfd_send_signal(&worker.pidfd, Signal::KILL);
            worker.heard = Instant::now();
        }
        let Some(manager) = &mut self.manager else { return };
        manager.ping();
        if self.told_to_stop.is_some() {
            manager.extend_stop();
        }
        let Some(interval) = manager.interval() else { return };
        if worker.is_ready && worker.heard.elapsed() > interval {
            say!("no sign of life from the worker for {interval:?}: it is ended");
            let _ = pidfd_send_signal(&worker.pidfd, Signal::KILL);
            worker.heard = Instant::now();
        }
    }

    fn wait(&self, worker: &Worker) -> io::Result<Ready> {
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&worker.pidfd, PollFlags::IN)];
        if let Some(socket) = &worker.socket {
            let more = if worker.greeting == Greeting::Done { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(socket, PollFlags::IN | more));
        }
        // As often as the watchdog and a stop want the manager to be told of it, and until the time of a stand-in or of a worker that starts is
        // up; for ever without them.
        let watchdog = self.manager.as_ref().and_then(Manager::interval).map(|interval| interval / 4);
        let stop = (self.manager.is_some() && self.told_to_stop.is_some()).then_some(manager::EXTEND_EVERY);
        let turn = worker.stands_in.map(|lasts| lasts.saturating_sub(worker.since.elapsed()));
        let start = (!worker.is_ready).then(|| self.start_limit.saturating_sub(worker.heard.elapsed()));
        let at_most = watchdog.into_iter().chain(stop).chain(turn).chain(start).min();
        let quiet = timespec(at_most.map_or(QUIET, |at_most| at_most.min(QUIET)));
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&quiet)))? == 0 {
            let_go_of_code();
            let at_most = at_most.map(timespec);
            rustix::io::retry_on_intr(|| poll(&mut fds, at_most.as_ref()))?;
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
                    self.obey(worker, message);
                    point(Site::KeeperStored);
                }
                Ok(Received::Garbage) => say!("a message that is none of ours"),
                Ok(Received::End) => worker.socket = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    say!("receive: {error}");
                    worker.socket = None;
                }
            }
        }
    }

    fn obey(&mut self, worker: &mut Worker, message: Message) {
        let manager = self.manager.as_ref();
        worker.heard = Instant::now();
        match (message.op, message.fd) {
            (Op::Keep, Some(fd)) => {
                manager.inspect(|manager| manager.store(&message.name, fd.as_fd()));
                self.store.keep(&message.name, fd);
            }
            (Op::Release, _) => {
                manager.inspect(|manager| manager.forget(&message.name));
                self.store.release(&message.name);
            }
            (Op::Stop, _) => {
                manager.inspect(|manager| manager.stopping());
                worker.said_stop = true;
            }
            (Op::Program, Some(fd)) => self.change_program(fd),
            (Op::Ready, _) => {
                let status = match worker.stands_in {
                    Some(_) => "gave up: `larder status` tells why",
                    None => "serving",
                };
                manager.inspect(|manager| manager.ready(status));
                worker.is_ready = true;
                if worker.stands_in.is_none() {
                    self.argv_before = None;
                }
                // Before it would only have died of the signal.
                self.tell_to_stop(worker);
            }
            (Op::Alive, _) => {}
            (op, _) => say!("{op:?} without its descriptor, or out of place"),
        }
    }

    /// Starts later workers with another command line.
    fn change_program(&mut self, command_line: OwnedFd) {
        match command_line::read(command_line) {
            Ok(argv) => {
                let before = std::mem::replace(&mut self.argv, argv);
                self.argv_before.get_or_insert(before);
            }
            Err(error) => say!("the next worker's command line: {error}"),
        }
    }

    /// Gives up a program of which no worker became ready: readers wait, and the one before has served them.
    fn go_back(&mut self) {
        if let Some(before) = self.argv_before.take() {
            say!("the new program does not serve; going back to the one before");
            self.argv = before;
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
                    let (op, version) = (Op::End, PROTOCOL_VERSION.to_string());
                    let sent = protocol::send(
                        socket.as_fd(),
                        op,
                        self.restarts,
                        &version,
                        None,
                        SendFlags::DONTWAIT,
                    );
                    (sent, Greeting::Done)
                }
            };
            match sent {
                Ok(()) => worker.greeting = next,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    say!("send: {error}");
                    worker.greeting = Greeting::Done;
                }
            }
        }
    }

    /// Passes signals on to a worker that is ready for them; one that is not is told to stop when it is, and is new anyhow.
    fn on_signals(&mut self, worker: Option<&Worker>) {
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
            let ready = worker.filter(|worker| worker.is_ready);
            if let Some(Err(error)) = ready.map(|worker| pidfd_send_signal(&worker.pidfd, signal)) {
                say!("signal {number}: {error}");
            }
        }
    }

    /// Waits, but not when somebody asks for an end.
    fn sleep(&mut self, delay: Duration) {
        let (end, told) = (Instant::now() + delay, self.told_to_stop);
        while self.told_to_stop == told {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let timeout = timespec(left);
            let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => self.on_signals(None),
                Err(_) => return,
            }
        }
    }
}

/// How long a worker that does not serve yet may say nothing, where [`START_LIMIT_ENV`] says `text`: whole seconds, and one
/// at least. `None` when it is no number.
pub fn start_limit(text: &OsStr) -> Option<Duration> {
    let seconds = text.to_str()?.parse().ok()?;
    Some(Duration::from_secs(seconds).max(Duration::from_secs(1)))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}
