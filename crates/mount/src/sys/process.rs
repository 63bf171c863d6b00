//! Signals as descriptors, inherited descriptors, and the pages of code of a process at rest.
#![expect(unsafe_code, reason = "signal sets, inherited descriptor numbers, pages of code")]

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

/// Gives the pages of program code back to the page cache, from where they come again when they are needed.
///
/// A process that has started up and now sleeps for years has no use for most of the code that started it.
pub(crate) fn let_go_of_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, len) in maps.lines().filter_map(code_of_a_file) {
        let start = std::ptr::without_provenance_mut(start);
        // SAFETY: a private mapping of a file, executable and not writable: no page of it differs from the file, so
        // that whatever is touched again, this function's own code included, is read back as it was.
        let _ = unsafe { rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxDontNeed) };
    }
}

/// Start and length of a line of /proc/self/maps when it is code of a file:
/// `55d0c0a00000-55d0c0b00000 r-xp 00200000 fe:00 1234  /usr/bin/larder`.
fn code_of_a_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp";
    let is_file = fields.nth(3)?.starts_with('/');
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    (is_code && is_file).then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_let_go() {
        let of = |rest: &str| code_of_a_file(&format!("1000-3000 {rest}"));
        assert_eq!(of("r-xp 00200000 fe:00 1234    /usr/bin/larder"), Some((0x1000, 0x2000)));
        assert_eq!(of("r--p 00200000 fe:00 1234    /usr/bin/larder"), None);
        assert_eq!(of("rwxp 00200000 fe:00 1234    /usr/bin/larder"), None);
        assert_eq!(of("r-xp 00000000 00:00 0       [vdso]"), None);
        assert_eq!(of("r-xp 00000000 00:00 0"), None);
        let_go_of_code();
    }
}
