//! A program of the image that runs from it: its code comes through page faults, and it reads a file of the image.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;

/// The program's name in the image; it prints the SHA-256 of its standard input.
pub const NAME: &str = "sha256sum";

/// What a page fault that ends with an error becomes: SIGBUS, or SIGSEGV while the kernel still lays the program out.
const FAULT_SIGNALS: [i32; 2] = [7, 11];

/// What the program says of errors, as strerror(3) has them in the C locale.
const ERRORS: [(&str, Errno); 8] = [
    ("Input/output error", Errno::IO),
    ("No space left on device", Errno::NOSPC),
    ("Too many open files", Errno::MFILE),
    ("Cannot allocate memory", Errno::NOMEM),
    ("Interrupted system call", Errno::INTR),
    ("Transport endpoint is not connected", Errno::NOTCONN),
    ("Software caused connection abort", Errno::CONNABORTED),
    ("No such file or directory", Errno::NOENT),
];

/// Runs the program on `file` of the image at `target`; `Ok` with what it printed.
///
/// # Errors
///
/// Also what the program says that it met; EIO when a page of its code could not be had.
pub fn run(target: &Path, file: &str) -> io::Result<String> {
    let input = std::fs::File::open(target.join(file))?;
    let mut command = Command::new(target.join(NAME));
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.signal().is_some_and(|signal| FAULT_SIGNALS.contains(&signal)) {
        return Err(Errno::IO.into());
    }
    if !output.status.success() {
        let met = ERRORS.iter().find(|(words, _)| said.contains(words));
        return met.map_or(Ok(format!("{} {said}", output.status)), |(_, errno)| Err((*errno).into()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned())
}
