//! What the user sees: data on standard output, the rest on standard error.

pub mod bytes;
pub mod log;
pub mod progress;
pub mod size;
pub mod table;

use std::io::{self, Write as _};

/// Whoever read our standard output has gone away: the program ends quietly.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct StdoutClosed;

/// Writes `data` to standard output as it is.
///
/// # Errors
///
/// [`StdoutClosed`] at a broken pipe, else what the kernel says.
pub fn write(data: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("standard output")),
    }
}

/// Writes `value` to standard output as indented JSON.
///
/// # Errors
///
/// See [`write`].
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write(&text)
}

/// Writes a line to standard output.
///
/// # Errors
///
/// See [`write`].
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    write(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes a remark to standard error.
pub fn note(text: impl AsRef<str>) {
    // A remark that nobody can read is no reason to fail.
    drop(writeln!(io::stderr(), "{}", text.as_ref()));
}
