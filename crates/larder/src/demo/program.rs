//! The program, running in a root of its own with a mount namespace of its own.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::Context as _;

use super::scratch::Scratch;
use crate::errors::{Kind, tell};

/// The program's environment: nothing of the caller's may change what it does.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
];

/// Output that is kept of a program at most.
const OUTPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a program did, and when.
#[derive(Debug)]
pub struct Ran {
    /// When its first byte of output came; its end when it said nothing.
    pub first_output: Instant,
    /// When it had ended.
    pub end: Instant,
    /// What it said.
    pub output: Vec<u8>,
}

/// Runs `argv` in `root`, and waits for its end.
///
/// # Errors
///
/// When it cannot be started, or fails: with the end of what it said on standard error.
pub fn run(root: &Path, argv: &[OsString], scratch: &Scratch) -> anyhow::Result<Ran> {
    let (program, arguments) = argv.split_first().context("no program")?;
    let mut command = larder_mount::ns::command(root, program)?;
    command.args(arguments).env_clear().envs(ENVIRONMENT.iter().copied()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = scratch.start_program(&mut command).with_context(|| {
        tell(
            Kind::Failed,
            format!("{} cannot be run in {}", program.display(), root.display()),
            "a mount namespace needs root or user namespaces; `larder doctor` tells more",
        )
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = thread::spawn(move || stderr.map(|from| read(from).1).unwrap_or_default());
    let (first_output, output) = stdout.map(read).unwrap_or_default();
    let status = child.wait().context("the program cannot be waited for")?;
    let end = Instant::now();
    scratch.program_ended();
    let complaints = complaints.join().unwrap_or_default();
    if status.success() {
        return Ok(Ran { first_output: first_output.unwrap_or(end), end, output });
    }
    Err(failed(program, status, &complaints))
}

/// Reads until the end; tells when the first byte came.
fn read(mut from: impl Read) -> (Option<Instant>, Vec<u8>) {
    let mut output = vec![0; 4096];
    // What cannot be read any more has ended.
    let first = from.read(&mut output).unwrap_or(0);
    let at = (first > 0).then(Instant::now);
    output.truncate(first);
    if first > 0 {
        let rest = from.take(OUTPUT_BYTES_MAX).read_to_end(&mut output);
        drop(rest);
    }
    (at, output)
}

fn failed(program: &OsStr, status: ExitStatus, complaints: &[u8]) -> anyhow::Error {
    const LINES: usize = 8;
    let text = String::from_utf8_lossy(complaints);
    let lines: Vec<_> = text.trim_end().lines().collect();
    let tail = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let said = if tail.is_empty() { "it said nothing on standard error".to_owned() } else { tail };
    let what = format!("{} failed: {status}", program.display());
    anyhow::Error::msg(said).context(tell(Kind::Failed, what, "try another program with -- CMD"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn reading_tells_silence_from_speech() {
        assert_eq!(read(&b""[..]), (None, Vec::new()));
        let (at, output) = read(&b"ready\nmore\n"[..]);
        assert!(at.is_some());
        assert_eq!(output, b"ready\nmore\n");
    }

    #[test]
    fn a_failure_shows_the_end_of_what_was_said() {
        let said: String = (0..20).map(|n| format!("line {n}\n")).collect();
        let error = failed(OsStr::new("x"), ExitStatus::from_raw(256), said.as_bytes());
        let text = format!("{error:#}");
        assert!(text.contains("line 19") && !text.contains("line 3\n"), "{text}");
    }
}
