//! Sealing a file with fs-verity: FS_IOC_ENABLE_VERITY, which rustix does not wrap.
#![expect(unsafe_code, reason = "an ioctl with an argument has no safe form")]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

/// `struct fsverity_enable_arg` of include/uapi/linux/fsverity.h (v6.18).
#[repr(C)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

const ENABLE: rustix::ioctl::Opcode = opcode::write::<EnableArg>(b'f', 133);
const SHA256: u32 = 1;

/// Seals the file open for reading at `fd`; returns whether its file system has fs-verity.
///
/// Blocks: the kernel reads the whole file. One that is sealed already is no error.
///
/// # Errors
///
/// ETXTBSY while anybody has the file open for writing, and what else the system says.
pub(crate) fn enable_verity(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let arg = EnableArg {
        version: 1,
        hash_algorithm: SHA256,
        block_size: 4096,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the number is that of FS_IOC_ENABLE_VERITY, which reads one `EnableArg`.
    let request = unsafe { Setter::<ENABLE, EnableArg>::new(arg) };
    // SAFETY: the call reads `arg` only; it names no memory beyond itself (no salt, no signature).
    match unsafe { ioctl(fd, request) } {
        Ok(()) | Err(Errno::EXIST) => Ok(true),
        // Or the kernel has no SHA-256 for it.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOPKG) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_number_is_the_one_in_the_kernels_header() {
        assert_eq!((size_of::<EnableArg>(), ENABLE), (128, 0x4080_6685));
    }

    #[test]
    fn a_file_system_without_verity_is_no_error() {
        let memory = rustix::fs::memfd_create("verity", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
        let file = std::fs::File::open(path).expect("open again for reading");
        assert!(!enable_verity(file.as_fd()).expect("tmpfs has none"));
    }
}
