//! statmount(2), which neither std nor rustix wraps: what a mount is, by a number that no other mount gets.
//!
//! Layouts: include/uapi/linux/mount.h (v6.18).
#![expect(unsafe_code, reason = "neither std nor rustix wraps statmount")]

use std::io;

use libc::{c_long, c_uint};

/// The call's number on every architecture with the common table; libc lacks it on most. Linux 6.8.
const SYS_STATMOUNT: c_long = 457;
/// Asks for the numbers of a mount.
const STATMOUNT_MNT_BASIC: u64 = 2;

/// `struct mnt_id_req`, first version.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
}

/// `struct statmount` up to the fields that are used, and as long as it is.
#[repr(C, align(8))]
struct Answer {
    size: u32,
    mnt_opts: u32,
    mask: u64,
    superblock: [u32; 6],
    mnt_id: u64,
    mnt_parent_id: u64,
    mnt_id_old: u32,
    rest: [u32; 113],
}

const _: () = assert!(size_of::<Answer>() == 512);

/// The number under which the mount `unique` stands in /proc/self/mountinfo; `None` when it is not in this namespace any more.
pub(crate) fn mountinfo_id(unique: u64) -> io::Result<Option<u64>> {
    let size = u32::try_from(size_of::<Request>()).unwrap_or(0);
    let request = Request { size, spare: 0, mnt_id: unique, param: STATMOUNT_MNT_BASIC };
    let mut answer = Answer {
        size: 0,
        mnt_opts: 0,
        mask: 0,
        superblock: [0; 6],
        mnt_id: 0,
        mnt_parent_id: 0,
        mnt_id_old: 0,
        rest: [0; 113],
    };
    let (from, to, flags): (*const Request, *mut Answer, c_uint) = (&raw const request, &raw mut answer, 0);
    // SAFETY: both structures live through the call, which writes no more than the given length of plain integers.
    let result = unsafe { libc::syscall(SYS_STATMOUNT, from, to, size_of::<Answer>(), flags) };
    if result == 0 && answer.mask & STATMOUNT_MNT_BASIC != 0 {
        return Ok(Some(answer.mnt_id_old.into()));
    }
    match io::Error::last_os_error() {
        _ if result == 0 => Err(io::ErrorKind::InvalidData.into()),
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}
