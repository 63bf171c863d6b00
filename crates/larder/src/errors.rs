//! How errors reach the user: `error:`, `caused by:`, `hint:`, and the exit code.

use std::fmt;
use std::io::{self, Write as _};
use std::panic;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// Exit status when the program itself is wrong.
const BUG: u8 = 255;

/// What sort of failure it was, so that the API can choose a status and programs can tell them apart.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request itself makes no sense.
    BadRequest,
    /// What was asked for is not there.
    NotFound,
    /// It is there, but in the way of what was asked.
    Conflict,
    /// It was tried and did not work.
    #[default]
    Failed,
}

/// An error as it is printed and as it crosses the API.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Report {
    /// What failed.
    pub error: String,
    /// Why, from the outermost cause to the innermost.
    #[serde(default)]
    pub caused_by: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// What sort of failure it was.
    #[serde(default)]
    pub kind: Kind,
}

impl Report {
    /// Takes an error apart.
    pub fn of(error: &anyhow::Error) -> Self {
        let mut lines = Vec::new();
        for cause in error.chain() {
            push_cause(&mut lines, cause.to_string());
        }
        // anyhow finds a context by its type, the chain finds what a library put in as a source.
        let told = error.downcast_ref::<Told>();
        let kind = told.map(|told| told.kind).or_else(|| error.chain().find_map(kind_of)).unwrap_or_default();
        let hint = told.and_then(|told| told.hint.clone()).or_else(|| error.chain().find_map(hint_of));
        let error = if lines.is_empty() { error.to_string() } else { lines.remove(0) };
        Self { error, caused_by: lines, hint, kind }
    }

    /// Turns the report into an error again, on the client's side of the API.
    pub fn into_error(self) -> anyhow::Error {
        let told = Told { kind: self.kind, hint: self.hint, message: self.error };
        match self.caused_by.into_iter().rev().fold(None, wrap_cause) {
            Some(cause) => cause.context(told),
            None => anyhow::Error::new(told),
        }
    }
}

fn wrap_cause(inner: Option<anyhow::Error>, line: String) -> Option<anyhow::Error> {
    Some(match inner {
        Some(inner) => inner.context(line),
        None => anyhow::Error::msg(line),
    })
}

/// Adds a line unless the one above says the same already.
fn push_cause(lines: &mut Vec<String>, line: String) {
    if lines.last().is_none_or(|above| !above.ends_with(&line)) {
        lines.push(line);
    }
}

/// An error and its causes in one line, for the log.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut lines = Vec::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        push_cause(&mut lines, cause.to_string());
    }
    lines.join(": ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.error)?;
        for cause in &self.caused_by {
            writeln!(f, "caused by: {cause}")?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// An error of the program's own, with its sort and what to do about it.
#[derive(Debug)]
pub struct Told {
    kind: Kind,
    hint: Option<String>,
    message: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Told {}

/// Makes an error of sort `kind` that says `message` and advises `hint` (unless empty).
pub fn told(kind: Kind, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(tell(kind, message, hint))
}

/// The same as a context for `anyhow::Context`.
pub fn tell(kind: Kind, message: impl Into<String>, hint: impl Into<String>) -> Told {
    let hint = hint.into();
    Told { kind, message: message.into(), hint: (!hint.is_empty()).then_some(hint) }
}

fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    error.downcast_ref::<Told>().map(|told| told.kind)
}

/// What a library's error advises, whichever library it came from.
fn hint_of(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    macro_rules! hint_of {
        ($($library:path),*) => {
            $(if let Some(error) = error.downcast_ref::<$library>() {
                return error.hint().map(|hint| String::from(hint));
            })*
        };
    }
    hint_of!(
        larder_cachefiles::Error,
        larder_erofs::Error,
        larder_faults::Error,
        larder_fscache::Error,
        larder_image::Error,
        larder_imagefs::Error,
        larder_mount::Error,
        larder_netfs::Error,
        larder_ondemand::FillError,
        larder_remote::Error
    );
    error.downcast_ref::<Told>().and_then(|told| told.hint.clone())
}

/// Runs the program: errors become lines on standard error, and everything becomes an exit status.
pub fn guard(program: impl FnOnce() -> anyhow::Result<ExitCode> + panic::UnwindSafe) -> ExitCode {
    match panic::catch_unwind(program) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            // Nobody is left to be told when standard error is gone too.
            drop(write!(io::stderr(), "{}", Report::of(&error)));
            ExitCode::FAILURE
        }
        Err(_) => {
            drop(writeln!(
                io::stderr(),
                "hint: this is a bug of Larder; please report it with the lines above"
            ));
            ExitCode::from(BUG)
        }
    }
}

/// Whether whoever read our output has gone away, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<crate::output::StdoutClosed>()).next().is_some()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_report_survives_the_way_over_the_api() {
        let error = Err::<(), _>(io::Error::other("disk on fire"))
            .context("reading the manifest")
            .context(tell(Kind::Conflict, "mount failed", "buy a new disk"))
            .expect_err("it is an error");
        let report = Report::of(&error);
        assert_eq!(
            report.to_string(),
            "error: mount failed\ncaused by: reading the manifest\ncaused by: disk on fire\nhint: buy a new disk\n"
        );
        assert_eq!(Report::of(&report.clone().into_error()), report);
    }

    #[test]
    fn a_cause_that_repeats_the_line_above_is_left_out() {
        let error = anyhow::anyhow!("no such file").context("open: no such file");
        assert_eq!(Report::of(&error).caused_by, Vec::<String>::new());
    }
}
