//! statmount(2) and listmount(2), which neither std nor rustix wraps: mounts by a number that no other mount gets. Neither
//! touches a file system.
//!
//! Layouts: include/uapi/linux/mount.h (v6.18).
#![expect(unsafe_code, reason = "neither std nor rustix wraps statmount and listmount")]

use std::io;

use libc::{c_long, c_uint};

/// The calls' numbers on every architecture with the common table; libc lacks them on most. Linux 6.8.
const SYS_STATMOUNT: c_long = 457;
const SYS_LISTMOUNT: c_long = 458;
/// Stands for the root of this process: all mounts that it sees.
const LSMT_ROOT: u64 = u64::MAX;
/// Numbers that one call gives, at most.
const LIST_LENGTH: usize = 512;
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

impl Request {
    fn new(mnt_id: u64, param: u64) -> Self {
        let size = u32::try_from(size_of::<Self>()).unwrap_or(0);
        Self { size, spare: 0, mnt_id, param }
    }
}

/// The unique numbers of all mounts that /proc/self/mountinfo shows, covered ones included; a younger one's is higher.
pub(crate) fn unique_ids() -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    loop {
        let after = ids.last().copied().unwrap_or(0);
        let more = unique_ids_after(after)?;
        ids.extend_from_slice(&more);
        // It ends with the mounts: each list begins where the one before it ended.
        if more.len() < LIST_LENGTH || more.iter().any(|id| *id <= after) {
            return Ok(ids);
        }
    }
}

/// The numbers above `after`, in order, as many as fit.
fn unique_ids_after(after: u64) -> io::Result<Vec<u64>> {
    let request = Request::new(LSMT_ROOT, after);
    let mut ids = vec![0_u64; LIST_LENGTH];
    let (from, to, flags): (*const Request, *mut u64, c_uint) = (&raw const request, ids.as_mut_ptr(), 0);
    // SAFETY: both buffers live through the call, which writes no more than the given count of plain integers.
    let count = unsafe { libc::syscall(SYS_LISTMOUNT, from, to, LIST_LENGTH, flags) };
    ids.truncate(usize::try_from(count).map_err(|_| io::Error::last_os_error())?);
    Ok(ids)
}

/// The number under which the mount `unique` stands in /proc/self/mountinfo; `None` when it is not in this namespace any more.
pub(crate) fn mountinfo_id(unique: u64) -> io::Result<Option<u64>> {
    let request = Request::new(unique, STATMOUNT_MNT_BASIC);
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
