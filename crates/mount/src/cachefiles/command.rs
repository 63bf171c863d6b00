//! [`Command`]: what is written to /dev/cachefiles, as text.
//!
//! fs/cachefiles/daemon.c (v6.12): one command a write, `name SPACE arguments`, shorter than 4,096 bytes.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::message::MessageId;

/// A write has to be shorter than this.
const COMMAND_BYTES_MAX: usize = 4096;

/// One command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Command<'a> {
    /// The directory that the kernel keeps its objects in.
    Dir(&'a Path),
    /// The cache's name in the kernel's log.
    Tag(&'a str),
    /// Begin, in on-demand mode.
    Bind,
    /// The answer to an OPEN: the object's size, or an error number.
    Copen(MessageId, Result<u64, i32>),
    /// Make every request that was not answered new again.
    Restore,
    /// Take an object of the working directory away.
    Cull(&'a str),
}

/// A command that the kernel would take for another one, or for none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no command can be made of it: {0}")]
pub(super) struct Unspeakable(&'static str);

impl Command<'_> {
    /// The bytes to write.
    pub(super) fn encode(self) -> Result<Vec<u8>, Unspeakable> {
        let bytes = match self {
            Self::Dir(path) => [b"dir ", path.as_os_str().as_bytes()].concat(),
            Self::Tag(name) => format!("tag {name}").into_bytes(),
            Self::Bind => b"bind ondemand".to_vec(),
            Self::Copen(MessageId(id), Ok(size)) if i64::try_from(size).is_ok() => {
                format!("copen {id},{size}").into_bytes()
            }
            Self::Copen(_, Ok(_)) => return Err(Unspeakable("the size does not fit")),
            Self::Copen(MessageId(id), Err(errno)) => {
                format!("copen {id},-{}", errno.saturating_abs()).into_bytes()
            }
            Self::Restore => b"restore".to_vec(),
            Self::Cull(name) if name.contains('/') => return Err(Unspeakable("a name with a slash")),
            Self::Cull(name) => format!("cull {name}").into_bytes(),
        };
        if bytes.len() >= COMMAND_BYTES_MAX {
            return Err(Unspeakable("it is longer than 4095 bytes"));
        }
        // The kernel reads up to the first newline, and refuses a NUL.
        if bytes.iter().any(|byte| matches!(byte, b'\n' | 0)) {
            return Err(Unspeakable("it has a newline or a NUL"));
        }
        Ok(bytes)
    }
}

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dir(_) => "dir",
            Self::Tag(_) => "tag",
            Self::Bind => "bind",
            Self::Copen(..) => "copen",
            Self::Restore => "restore",
            Self::Cull(_) => "cull",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_as_the_kernel_reads_them() {
        for (command, expected) in [
            (Command::Dir(Path::new("/var/lib/larder/cache/kernel/1")), "dir /var/lib/larder/cache/kernel/1"),
            (Command::Tag("larder"), "tag larder"),
            (Command::Bind, "bind ondemand"),
            (Command::Copen(MessageId(7), Ok(8192)), "copen 7,8192"),
            (Command::Copen(MessageId(u32::MAX), Ok(0)), "copen 4294967295,0"),
            (Command::Copen(MessageId(7), Err(5)), "copen 7,-5"),
            (Command::Copen(MessageId(7), Err(-5)), "copen 7,-5"),
            (Command::Restore, "restore"),
            (Command::Cull("Dabc"), "cull Dabc"),
        ] {
            assert_eq!(command.encode().as_deref(), Ok(expected.as_bytes()), "{command:?}");
        }
    }

    #[test]
    fn what_would_be_read_as_something_else_is_not_written() {
        let long = "/x".repeat(2048);
        for command in [
            Command::Dir(Path::new("/a\nbind")),
            Command::Dir(Path::new(&long)),
            Command::Tag("a\0b"),
            Command::Copen(MessageId(1), Ok(1 << 63)),
            Command::Cull("a/b"),
        ] {
            assert!(command.encode().is_err(), "{command:?}");
        }
    }
}
