//! The service manager's side: sd_notify(3), its watchdog, and its store of descriptors.
//!
//! The keeper is the process that the manager has started. Whatever it keeps lies with the manager as well, so that the
//! next keeper has it when this one dies. Without `NOTIFY_SOCKET` nobody is told anything.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sendmsg_addr, socket_with,
};

use super::WATCHDOG_ENV;
use super::protocol::check_name;
use super::say::say;
use super::store::Store;
use crate::sys::process::inherit;

/// How long a manager that does not read may hold the keeper up.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer a stop may take from now on, and how often that is said: between two workers the keeper may say nothing for
/// half a minute.
const EXTENSION: Duration = Duration::from_secs(90);
pub(super) const EXTEND_EVERY: Duration = Duration::from_secs(20);

/// Descriptors that a manager passes begin here: `SD_LISTEN_FDS_START` of sd_listen_fds(3).
const FIRST_PASSED: i32 = 3;

/// Whoever runs the keeper as a service.
pub(super) struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
    watchdog: Option<Watchdog>,
    /// When more time for the stop was asked for.
    extended: Option<Instant>,
}

/// The manager's watchdog: it wants to hear something in every interval of this length.
struct Watchdog {
    interval: Duration,
    pinged: Option<Instant>,
}

impl Manager {
    /// The manager that the environment names; `None` when it names none.
    ///
    /// # Errors
    ///
    /// When it names one that cannot be spoken to.
    pub(super) fn from_env() -> io::Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let interval = watchdog_interval(env::var_os(WATCHDOG_ENV).as_deref());
        Self::new(&name, interval).map(Some)
    }

    fn new(name: &OsStr, interval: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            name => SocketAddrUnix::new(name)?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
        let watchdog = interval.map(|interval| Watchdog { interval, pinged: None });
        Ok(Self { socket, address, watchdog, extended: None })
    }

    /// Takes over what an earlier keeper has left with the manager; by the names of sd_listen_fds_with_names(3).
    ///
    /// To be called once, while this process has opened nothing yet that it wants to keep.
    pub(super) fn passed() -> Store {
        let mine = |pid: OsString| pid.to_str() == Some(&std::process::id().to_string());
        let count = env::var_os("LISTEN_FDS").and_then(|count| count.to_str()?.parse().ok());
        let mut store = Store::default();
        let (Some(count), true) = (count, env::var_os("LISTEN_PID").is_some_and(mine)) else { return store };
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        for number in (FIRST_PASSED..).take(count) {
            match (inherit(number), names.next()) {
                (Ok(fd), Some(name)) if check_name(name).is_ok() => store.keep(name, fd),
                (Ok(_), name) => {
                    say!("descriptor {number} has no name of ours: {name:?}")
                }
                (Err(error), _) => say!("descriptor {number}: {error}"),
            }
        }
        store
    }

    /// Says that a worker serves, and how, in a line.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"), None);
    }

    /// Says that everything is about to end.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=unmounting", None);
    }

    /// Leaves a copy of `fd` with the manager, in place of what is there under this name.
    pub(super) fn store(&self, name: &str, fd: BorrowedFd<'_>) {
        self.forget(name);
        // Without FDPOLL=0 it would let go of what has an error to report, as a group or a connection may.
        self.tell(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(fd));
    }

    /// Has the manager let go of what it has under this name.
    pub(super) fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    /// How long the watchdog waits for a sign of life; `None` without one.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.watchdog.as_ref().map(|watchdog| watchdog.interval)
    }

    /// Gives the watchdog its sign of life when it is time: twice in each interval and more.
    pub(super) fn ping(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return };
        if watchdog.pinged.is_none_or(|pinged| pinged.elapsed() >= watchdog.interval / 3) {
            watchdog.pinged = Some(Instant::now());
            self.tell("WATCHDOG=1", None);
        }
    }

    /// Asks for more time when it is due: whoever still reads is waited for, and a manager that is told nothing for so long may
    /// kill what is left. A stop without a limit would have it wait for ever for what no longer can be killed.
    pub(super) fn extend_stop(&mut self) {
        if self.extended.is_none_or(|extended| extended.elapsed() >= EXTEND_EVERY) {
            self.extended = Some(Instant::now());
            self.tell(&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()), None);
        }
    }

    fn tell(&self, state: &str, fd: Option<BorrowedFd<'_>>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let state = [IoSlice::new(state.as_bytes())];
        let told = rustix::io::retry_on_intr(|| {
            sendmsg_addr(&self.socket, &self.address, &state, &mut control, SendFlags::NOSIGNAL)
        });
        if let Err(error) = told {
            say!("the service manager cannot be told: {error}");
        }
    }
}

/// Takes out of a worker's environment what is meant for the keeper.
pub(super) fn hide_from(worker: &mut Command) {
    for name in ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        worker.env_remove(name);
    }
}

/// The interval of a watchdog: what [`WATCHDOG_ENV`] says, in microseconds. 0 and nonsense are none.
pub fn watchdog_interval(text: Option<&OsStr>) -> Option<Duration> {
    let microseconds = text?.to_str()?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn manager(interval: Option<Duration>) -> (Manager, UnixDatagram, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let theirs = UnixDatagram::bind(&path).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Manager::new(path.as_os_str(), interval).unwrap(), theirs, dir)
    }

    fn said(theirs: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut buf = [0; 4096];
        while let Ok(len) = theirs.recv(&mut buf) {
            all.push(String::from_utf8(buf[..len].to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn what_is_stored_takes_the_place_of_what_has_its_name() {
        let (manager, theirs, _dir) = manager(None);
        manager.store("fill/v/c", theirs.as_fd());
        assert_eq!(
            said(&theirs),
            ["FDSTOREREMOVE=1\nFDNAME=fill/v/c", "FDSTORE=1\nFDPOLL=0\nFDNAME=fill/v/c"]
        );
    }

    #[test]
    fn the_watchdog_hears_something_at_once_and_then_no_more_than_it_needs() {
        let (mut manager, theirs, _dir) = manager(Some(Duration::from_secs(3600)));
        (0..5).for_each(|_| manager.ping());
        assert_eq!(said(&theirs), ["WATCHDOG=1"]);
        let (mut without, theirs, _dir) = self::manager(None);
        without.ping();
        assert_eq!(said(&theirs), Vec::<String>::new());
    }

    #[test]
    fn more_time_is_asked_for_at_once_and_then_in_time() {
        let (mut manager, theirs, _dir) = manager(None);
        (0..5).for_each(|_| manager.extend_stop());
        assert_eq!(said(&theirs), ["EXTEND_TIMEOUT_USEC=90000000"]);
        manager.extended = Instant::now().checked_sub(EXTEND_EVERY);
        manager.extend_stop();
        assert_eq!(said(&theirs), ["EXTEND_TIMEOUT_USEC=90000000"]);
    }

    #[test]
    fn an_interval_is_a_positive_number_of_microseconds() {
        let parse = |text: &str| watchdog_interval(Some(OsStr::new(text)));
        assert_eq!(parse("1500000"), Some(Duration::from_millis(1500)));
        for wrong in ["0", "-1", "", "x", "99999999999999999999999"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_manager_that_is_gone_does_not_stop_the_keeper() {
        let (manager, theirs, dir) = manager(None);
        drop((theirs, dir));
        manager.ready("serving");
    }
}
