//! [`say!`]: how the keeper speaks, on standard error, whatever has become of that.

use std::fmt;
use std::io::{self, Write as _};

/// Writes a line to standard error, as `eprintln!` does. That one panics when it cannot, on a full disk or a pipe that nobody
/// reads any more, and the end of the keeper is the end of what it holds (P1).
macro_rules! say {
    ($($what:tt)+) => { $crate::keeper::say::line(format_args!($($what)+)) };
}
pub(super) use say;

/// Writes `what` in one go, so that nothing of somebody else's stands within it.
pub(super) fn line(what: fmt::Arguments<'_>) {
    let line = format!("larder keeper: {what}\n");
    // There is nobody left to tell.
    let _ = io::stderr().write_all(line.as_bytes());
}
