//! The command line of a worker on its way to the keeper: a memfd, each argument followed by a NUL.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

/// Longest command line, in bytes: a path, a root and some options.
const BYTES_MAX: usize = 64 * 1024;

/// Writes `argv`, program first, into a descriptor for [`read`].
///
/// # Errors
///
/// `InvalidInput` when `argv` has no program, an argument with a NUL in it, or more than 64 KiB; what `memfd_create`
/// says.
pub(super) fn write(argv: &[OsString]) -> io::Result<OwnedFd> {
    let mut bytes = Vec::new();
    for argument in argv {
        bytes.extend_from_slice(argument.as_bytes());
        bytes.push(0);
    }
    if parse(&bytes).as_deref() != Some(argv) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command line of 1 to 65536 bytes"));
    }
    let mut file = File::from(memfd_create("larder-program", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    Ok(file.into())
}

/// Reads what [`write`] has written, wherever the descriptor's position is.
///
/// # Errors
///
/// `InvalidData` when it is no command line; what `pread` says.
pub(super) fn read(fd: OwnedFd) -> io::Result<Vec<OsString>> {
    let file = File::from(fd);
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(BYTES_MAX + 1)];
    file.read_exact_at(&mut bytes, 0)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no command line"))
}

fn parse(bytes: &[u8]) -> Option<Vec<OsString>> {
    let text = bytes.strip_suffix(&[0]).filter(|_| bytes.len() <= BYTES_MAX)?;
    let argv: Vec<OsString> =
        text.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect();
    argv.first().map(OsString::as_os_str).is_some_and(|program| program != OsStr::new("")).then_some(argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(arguments: &[&[u8]]) -> Vec<OsString> {
        arguments.iter().map(|argument| OsString::from_vec(argument.to_vec())).collect()
    }

    #[test]
    fn a_command_line_survives_the_trip_with_empty_and_odd_arguments() {
        for arguments in [&[&b"/bin/larder"[..]][..], &[b"a b", b"", b"\xff\n", b""]] {
            let fd = write(&argv(arguments)).unwrap();
            assert_eq!(read(fd).unwrap(), argv(arguments));
        }
    }

    #[test]
    fn what_is_no_command_line_is_refused_on_both_sides() {
        let long = vec![b'x'; BYTES_MAX];
        for arguments in [&[][..], &[&b""[..]], &[b"a\0b"], &[&long]] {
            assert_eq!(write(&argv(arguments)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        for bytes in [&b""[..], b"\0", b"no end", b"\0argument\0", &[long.as_slice(), b"\0"].concat()] {
            let mut file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(bytes).unwrap();
            assert_eq!(read(file.into()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
