//! [`read`]: a process of its own maps a file and copies a piece of it, so that its bytes come through page faults.
//!
//! A page that cannot be had is SIGBUS, which ends the process: that is why it is another one.
#![expect(unsafe_code, reason = "mmap has no safe form")]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::process::Signal;

const PAGE: u64 = 4096;

/// What the process is to read.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The file.
    path: PathBuf,
    /// The first byte.
    at: u64,
    /// How many bytes at most.
    len: u64,
    /// Gives the file's pages up first.
    #[arg(long)]
    afresh: bool,
}

/// Reads up to `len` bytes at `at` of the file `path` through a mapping; fewer at its end.
///
/// # Errors
///
/// EIO when a page could not be had; what opening and mapping say.
pub fn read(path: &Path, at: u64, len: usize, afresh: bool) -> io::Result<Vec<u8>> {
    // Whatever has taken the place of its file meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg("read-mapped").arg(path).args([at.to_string(), len.to_string()]);
    command.args(afresh.then_some("--afresh"));
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.signal() == Some(Signal::BUS.as_raw()) {
        return Err(Errno::IO.into());
    }
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let errno = said.trim().parse().map_err(|_| io::Error::other(format!("{}: {said}", output.status)))?;
    Err(io::Error::from_raw_os_error(errno))
}

/// What the process does: the bytes go to its standard output, the number of an error to standard error.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let copied = copy(args);
    let written = copied.and_then(|bytes| io::stdout().write_all(&bytes));
    if let Err(error) = written {
        eprintln!("{}", error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()));
        std::process::exit(1);
    }
    Ok(())
}

fn copy(args: &Args) -> io::Result<Vec<u8>> {
    let file = File::open(&args.path)?;
    if args.afresh {
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    let end = args.at.saturating_add(args.len).min(file.metadata()?.len());
    let first = args.at / PAGE * PAGE;
    let size = |bytes: u64| usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let len = size(end.saturating_sub(args.at))?;
    if len == 0 {
        return Ok(Vec::new());
    }
    let (skipped, mapped) = (size(args.at - first)?, size(end - first)?);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe { mmap(ptr::null_mut(), mapped, ProtFlags::READ, MapFlags::PRIVATE, &file, first) }?;
    let mut bytes = vec![0_u8; len];
    // SAFETY: `skipped + len` bytes are mapped from `start`.
    let from = unsafe { start.cast::<u8>().add(skipped) };
    // SAFETY: they stay mapped until the process ends, and `bytes` has room for `len`; that pages may be missing is what
    // this is for: the process ends then.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
    Ok(bytes)
}
