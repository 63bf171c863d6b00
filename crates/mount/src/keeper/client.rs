//! The worker's side: what it keeps, what it inherited, and a new keeper when the old one dies.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::Holder;
use super::command_line;
use super::main::{ADOPT, settle_worker};
use super::protocol::{self, HAS_PROGRAM, Op, PROTOCOL_VERSION, Received, STANDS_IN, check_name};
use crate::sys::process::inherit;

/// How long the worker waits before it tries again to start a keeper.
const RETRY: Duration = Duration::from_secs(5);

/// How long it waits before it looks after a keeper that it has just started, and for how long one counts as such.
const PAUSE: Duration = Duration::from_millis(100);
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// How often a message is sent before it is given up that the kernel has no room for, and the pause in between.
const SEND_TRIES: u32 = 10;
const SEND_PAUSE: Duration = Duration::from_millis(20);

/// How the worker starts another keeper when the first one dies.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program, normally [`OWN_PROGRAM`](super::OWN_PROGRAM).
    pub program: OsString,
    /// What leads to [`keeper::main`](super::main) there, normally `keeper`.
    pub keeper_args: Vec<OsString>,
    /// The command line with which that keeper starts later workers, program first.
    pub worker_argv: Vec<OsString>,
    /// Whether this process stands in for workers that do not get anywhere ([`STAND_IN_ENV`](super::STAND_IN_ENV)).
    pub stands_in: bool,
}

/// The worker's connection to its keeper; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

/// What the keeper has sent to greet a worker.
struct Greeting {
    held: BTreeMap<String, OwnedFd>,
    restarts: u64,
    protocol: u32,
}

struct State {
    launch: Launch,
    /// Absent while no keeper could be started.
    socket: Option<Arc<OwnedFd>>,
    /// A copy of everything kept, for the next keeper.
    held: BTreeMap<String, OwnedFd>,
    keeper_pid: Option<u32>,
    /// The version of the protocol that the keeper speaks.
    protocol: u32,
    /// A keeper that this process has started, to be reaped.
    child: Option<Child>,
    restarts: u64,
    adoptions: u64,
    stopped: bool,
}

impl Client {
    /// Takes over the socket that the keeper left at `number` (the value of [`FD_ENV`](super::FD_ENV)) and
    /// receives everything that earlier workers kept.
    ///
    /// Blocks until the keeper has said that this was all. Also raises the descriptor limit, undoes the keeper's
    /// protection against the out-of-memory killer for this process, and starts a small thread that watches the
    /// keeper. Call it once in a process.
    ///
    /// # Errors
    ///
    /// When `number` is no open descriptor, or what arrives there does not follow the protocol.
    pub fn connect(number: RawFd, launch: Launch) -> io::Result<Self> {
        settle_worker();
        let socket = inherit(number)?;
        let keeper_pid =
            rustix::net::sockopt::socket_peercred(&socket).ok().map(|peer| peer.pid.as_raw_pid());
        let greeting = receive_greeting(socket.as_fd())?;
        let state = State {
            launch,
            socket: Some(Arc::new(socket)),
            held: greeting.held,
            keeper_pid: keeper_pid.map(i32::cast_unsigned),
            protocol: greeting.protocol,
            child: None,
            restarts: greeting.restarts,
            adoptions: 0,
            stopped: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new().name("keeper-watch".into()).spawn(move || watch(&weak))?;
        Ok(Self { shared })
    }

    /// The keeper's process id, or `None` while there is none.
    pub fn keeper_pid(&self) -> Option<u32> {
        let state = self.shared.lock();
        state.socket.as_ref().and(state.keeper_pid)
    }

    /// How many workers ran before this one.
    pub fn restarts(&self) -> u64 {
        self.shared.lock().restarts
    }

    /// How many keepers this worker had to start.
    pub fn adoptions(&self) -> u64 {
        self.shared.lock().adoptions
    }

    /// Whether no keeper is there: everything works, but the death of this process would be seen.
    pub fn is_degraded(&self) -> bool {
        self.shared.lock().socket.is_none()
    }

    /// The version of the protocol that the keeper speaks: it may come from another release than this process.
    pub fn protocol(&self) -> u32 {
        self.shared.lock().protocol
    }

    /// Says that this worker has taken up what was kept, and serves: the program it runs is one to start again.
    pub fn ready(&self) {
        let mut state = self.shared.lock();
        if state.protocol >= HAS_PROGRAM
            && let Err(error) = state.tell(Op::Ready, "", None)
        {
            tracing::error!(%error, "the keeper does not hear that this worker serves");
        }
    }

    /// Gives the keeper a sign of life: under a service manager's watchdog it ends a worker that is ready and silent.
    pub fn alive(&self) {
        let mut state = self.shared.lock();
        if state.protocol >= HAS_PROGRAM {
            // The next one comes soon.
            let _ = state.tell(Op::Alive, "", None);
        }
    }

    /// Has the keeper start later workers with the command line `argv`, program first, and goes on itself.
    ///
    /// A worker with this command line that ends before it is [`ready`](Self::ready), or that cannot be started, is
    /// followed by one with the command line before.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when `argv` is no command line of at most 64 KiB, `Unsupported` when the keeper is of a release
    /// that cannot start another program, `NotConnected` while no keeper is there.
    pub fn set_program(&self, argv: &[OsString]) -> io::Result<()> {
        let command_line = command_line::write(argv)?;
        let mut state = self.shared.lock();
        if state.socket.is_none() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if state.protocol < HAS_PROGRAM {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let before = std::mem::replace(&mut state.launch.worker_argv, argv.to_vec());
        // A new keeper has it on its own command line.
        let told = state.tell(Op::Program, "", Some(command_line.as_fd()));
        let told = told.and_then(|()| match state.socket {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotConnected.into()),
        });
        told.inspect_err(|_| state.launch.worker_argv = before)
    }

    /// Says that this worker is about to end cleanly: everything is unmounted, no other worker is to be started.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        if let Err(error) = state.tell(Op::Stop, "", None) {
            tracing::error!(%error, "the keeper does not hear of the end: it will start another worker");
        }
    }
}

impl Holder for Client {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        check_name(name)?;
        let copy = fcntl_dupfd_cloexec(fd, 3)?;
        let mut state = self.shared.lock();
        // A new keeper gets everything, this descriptor included.
        let before = state.held.insert(name.to_owned(), copy);
        state.tell(Op::Keep, name, Some(fd)).inspect_err(|_| {
            // As the keeper has it.
            match before {
                Some(before) => drop(state.held.insert(name.to_owned(), before)),
                None => drop(state.held.remove(name)),
            }
        })
    }

    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.shared.lock().held.get(name).map(OwnedFd::try_clone).transpose()
    }

    fn release(&self, name: &str) {
        let mut state = self.shared.lock();
        if state.held.remove(name).is_some()
            && let Err(error) = state.tell(Op::Release, name, None)
        {
            tracing::warn!(name, %error, "the keeper goes on keeping what nobody needs");
        }
    }

    fn names(&self) -> Vec<String> {
        self.shared.lock().held.keys().cloned().collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the keeper. When it has died, another one is started, and gets everything; while there is none, nobody is told.
    fn tell(&mut self, op: Op, name: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match send(socket.as_fd(), op, 0, name, fd) {
            Err(error) if says_that_it_died(&error) => {
                self.adopt();
                Ok(())
            }
            told => told,
        }
    }

    /// Starts a keeper and hands it everything; without success the worker serves on, degraded.
    fn adopt(&mut self) {
        self.socket = None;
        if let Some(old) = self.child.take() {
            bury(old);
        }
        if self.stopped {
            return;
        }
        match self.start_keeper() {
            Ok((socket, child)) => {
                self.keeper_pid = Some(child.id());
                // It has the program of this process.
                self.protocol = PROTOCOL_VERSION;
                self.child = Some(child);
                self.socket = Some(Arc::new(socket));
                self.adoptions += 1;
                tracing::warn!(
                    keeper = self.keeper_pid,
                    "the keeper had died; another one holds everything now"
                );
            }
            Err(error) => {
                tracing::error!(%error, "no keeper: the mounts would not survive the end of this process");
            }
        }
    }

    fn start_keeper(&self) -> io::Result<(OwnedFd, Child)> {
        let (ours, theirs) = protocol::pair()?;
        let mut command = Command::new(&self.launch.program);
        // Under the name by which people know it.
        self.launch.worker_argv.first().inspect(|name| {
            command.arg0(name);
        });
        let child = command
            .args(&self.launch.keeper_args)
            .args([ADOPT, "--"])
            .args(&self.launch.worker_argv)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        let me = pidfd_open(getpid(), PidfdFlags::empty())?;
        let value = u64::from(self.launch.stands_in) * STANDS_IN;
        let handed = send(ours.as_fd(), Op::Adopt, value, "", Some(me.as_fd())).and_then(|()| {
            self.held
                .iter()
                .try_for_each(|(name, fd)| send(ours.as_fd(), Op::Keep, 0, name, Some(fd.as_fd())))
        });
        match handed {
            Ok(()) => Ok((ours, child)),
            Err(error) => {
                bury(child);
                Err(error)
            }
        }
    }
}

/// Sends a message; again for a moment when the kernel has no room for it now.
fn send(
    socket: BorrowedFd<'_>,
    op: Op,
    value: u64,
    name: &str,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    for _ in 1..SEND_TRIES {
        match protocol::send(socket, op, value, name, fd, SendFlags::empty()) {
            Err(error) if says_that_room_is_short(&error) => std::thread::sleep(SEND_PAUSE),
            sent => return sent,
        }
    }
    protocol::send(socket, op, value, name, fd, SendFlags::empty())
}

/// Whether nobody has the other end of the socket any more. No other error is a reason to start a second keeper beside one that
/// lives: each would start a worker of its own.
fn says_that_it_died(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN))
}

/// ETOOMANYREFS: more descriptors are under way than one user may have; the keeper takes them out.
fn says_that_room_is_short(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS))
}

/// Ends a keeper that does not keep for this worker any more, and takes note of its end without waiting for it here.
fn bury(mut keeper: Child) {
    let _ = keeper.kill();
    if let Ok(None) = keeper.try_wait() {
        // Without a thread it stays a zombie.
        let _ = std::thread::Builder::new().name("keeper-end".into()).spawn(move || keeper.wait());
    }
}

fn receive_greeting(socket: BorrowedFd<'_>) -> io::Result<Greeting> {
    let mut held = BTreeMap::new();
    loop {
        match protocol::receive(socket, RecvFlags::empty())? {
            Received::Message(message) => match (message.op, message.fd) {
                (Op::Have, Some(fd)) => {
                    held.insert(message.name, fd);
                }
                (Op::End, _) => {
                    let protocol = version_of(&message.name)?;
                    return Ok(Greeting { held, restarts: message.value, protocol });
                }
                (op, _) => return Err(io::Error::other(format!("the keeper sent {op:?} out of place"))),
            },
            Received::Garbage => return Err(io::Error::other("the keeper sent what is no message")),
            Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The version in END; a keeper that names none speaks the first.
fn version_of(name: &str) -> io::Result<u32> {
    match name {
        "" => Ok(1),
        number => number.parse().map_err(|_| io::Error::other("the keeper's version is no number")),
    }
}

/// Waits for the keeper's end of the socket to close and starts another keeper, as long as the client lives.
fn watch(shared: &Weak<Shared>) {
    let mut adopted: Option<Instant> = None;
    loop {
        if adopted.is_some_and(|at| at.elapsed() < SHORT_LIFE) {
            // One that dies at once is no reason to spin; more than a moment without any would be a risk.
            std::thread::sleep(PAUSE);
        }
        let Some(socket) = shared.upgrade().map(|shared| shared.lock().socket.clone()) else { return };
        match &socket {
            // The keeper never speaks after its greeting; what wakes this up is its end.
            Some(socket) => {
                let mut fds = [PollFd::new(&**socket, PollFlags::empty())];
                let _ = rustix::io::retry_on_intr(|| poll(&mut fds, None));
            }
            None => std::thread::sleep(RETRY),
        }
        let Some(shared) = shared.upgrade() else { return };
        let mut state = shared.lock();
        if state.stopped {
            return;
        }
        let same = match (&socket, &state.socket) {
            (Some(old), Some(now)) => Arc::ptr_eq(old, now),
            (None, None) => true,
            _ => false,
        };
        if same {
            state.adopt();
            adopted = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client whose keeper would be started with a program that there is not.
    fn client(socket: OwnedFd) -> Client {
        let launch = Launch {
            program: "/nonexistent".into(),
            keeper_args: Vec::new(),
            worker_argv: vec!["worker".into()],
            stands_in: false,
        };
        let state = State {
            launch,
            socket: Some(Arc::new(socket)),
            held: BTreeMap::new(),
            keeper_pid: None,
            protocol: PROTOCOL_VERSION,
            child: None,
            restarts: 0,
            adoptions: 0,
            stopped: false,
        };
        Client { shared: Arc::new(Shared { state: Mutex::new(state) }) }
    }

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn p4_what_cannot_be_sent_is_an_error_and_no_death_of_the_keeper() {
        // No socket: every message fails, and not because nobody is there.
        let client = client(file());
        client.keep("name", file().as_fd()).expect_err("the keeper does not have it");
        assert!(client.take("name").unwrap().is_none(), "and neither has the worker");
        assert!(client.set_program(&["other".into()]).is_err());
        assert_eq!(client.shared.lock().launch.worker_argv, ["worker"], "what the keeper will start");
        client.ready();
        assert!(!client.is_degraded(), "it lives");
    }

    #[test]
    fn p4_a_closed_socket_is_the_death_of_the_keeper() {
        let (ours, theirs) = protocol::pair().unwrap();
        let client = client(ours);
        drop(theirs);
        client.keep("name", file().as_fd()).expect("kept for the next keeper");
        assert!(client.take("name").unwrap().is_some());
        assert!(client.is_degraded(), "there is no program to start another one with");
    }

    #[test]
    fn only_a_shortage_of_room_is_worth_another_try() {
        for (errno, short, died) in [
            (Errno::NOBUFS, true, false),
            (Errno::NOMEM, true, false),
            (Errno::TOOMANYREFS, true, false),
            (Errno::PIPE, false, true),
            (Errno::CONNRESET, false, true),
            (Errno::NOTCONN, false, true),
            (Errno::NOTSOCK, false, false),
            (Errno::BADF, false, false),
        ] {
            let error = errno.into();
            assert_eq!(
                (says_that_room_is_short(&error), says_that_it_died(&error)),
                (short, died),
                "{errno}"
            );
        }
    }
}
