//! Signals as descriptors, and inherited descriptors.
#![expect(unsafe_code, reason = "signal sets and inherited descriptor numbers")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{c_int, sigset_t};
use rustix::io::{FdFlags, fcntl_setfd};

/// Blocks `signals` for the calling thread and returns a non-blocking descriptor that reports them.
///
/// Children inherit the mask: see [`unblock_signals`].
pub(crate) fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; a null old set is allowed.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the child that `command` starts begin with no signal blocked.
pub(crate) fn unblock_signals(command: &mut Command) {
    let unblock = || {
        let none = signal_set(&[]);
        // SAFETY: `none` is initialised; a null old set is allowed.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    };
    // SAFETY: the closure only makes calls that are safe after fork: no allocation, no lock.
    unsafe { command.pre_exec(unblock) };
}

fn signal_set(signals: &[c_int]) -> sigset_t {
    let mut set = MaybeUninit::<sigset_t>::uninit();
    // SAFETY: the pointer is valid for writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set was initialised above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: sigemptyset initialises every byte.
    unsafe { set.assume_init() }
}

/// Reads one signal number from a descriptor of [`signal_fd`], or `None` when there is none.
pub(crate) fn read_signal(fd: BorrowedFd<'_>) -> Option<c_int> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut info) {
        Ok(n) if n == info.len() => {
            let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            c_int::try_from(number).ok()
        }
        _ => None,
    }
}

/// Takes over descriptor `number`, which the parent left open for this process, and sets close-on-exec.
///
/// Returns `EBADF` when it is not open. To be called once for a number, by the code that knows what the parent
/// meant by it.
pub(crate) fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: borrowed only for the check; a closed number makes the call fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: open, as was just shown, and handed over by the contract above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes the descriptor `number` out of circulation by putting a copy of `filler` there, if nothing is open there.
pub(crate) fn occupy(number: RawFd, filler: BorrowedFd<'_>) -> Option<OwnedFd> {
    let got = rustix::io::fcntl_dupfd_cloexec(filler, number).ok()?;
    (got.as_raw_fd() == number).then_some(got)
}
