//! [`Line`]: the command line of a tool, and what all tools do before and after their work.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use super::getopt::{self, Options, Parsed};
use super::say::to_stderr;
use super::{Say, Tool, number, version};
use crate::output;

/// A command line, taken apart.
#[derive(Debug, Default)]
pub struct Line {
    /// Options by their full names, in order, with their values.
    pub options: Vec<(&'static str, Option<OsString>)>,
    /// What is no option, in order.
    pub operands: Vec<OsString>,
}

impl Line {
    /// Separates options from operands.
    pub fn of(parsed: Vec<Parsed>) -> Self {
        let mut line = Self::default();
        for item in parsed {
            match item {
                Parsed::Operand(operand) => line.operands.push(operand),
                Parsed::Option(name, value) => line.options.push((name, value)),
            }
        }
        line
    }

    /// The one operand of tools that look at an image.
    pub fn image(&self) -> Result<PathBuf, String> {
        match self.operands.as_slice() {
            [] => Err("missing argument: IMAGE".to_owned()),
            [image] => Ok(image.into()),
            [_, extra, ..] => Err(format!("unexpected argument: {}", extra.display())),
        }
    }

    fn has(&self, wanted: [&str; 2]) -> bool {
        self.options.iter().any(|(name, _)| wanted.contains(name))
    }
}

/// Takes arguments apart. Ends with a status when they are wrong, which is said, or ask for help or the version.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn begin(
    tool: Tool,
    options: &Options,
    help: &str,
    args: Vec<OsString>,
) -> anyhow::Result<ControlFlow<ExitCode, Line>> {
    let line = match getopt::parse(options, args) {
        Ok(parsed) => Line::of(parsed),
        Err(usage) => {
            to_stderr(&format!("{}: {usage}", tool.name()));
            return Ok(ControlFlow::Break(try_help(tool)));
        }
    };
    if line.has(["h", "help"]) {
        output::write(help.as_bytes())?;
    } else if line.has(["V", "version"]) {
        output::line(version(tool))?;
    } else {
        return Ok(ControlFlow::Continue(line));
    }
    Ok(ControlFlow::Break(ExitCode::SUCCESS))
}

/// Says why a command line cannot be followed.
pub fn misused(tool: Tool, wrong: impl std::fmt::Display) -> ExitCode {
    Say::default().error(wrong);
    try_help(tool)
}

fn try_help(tool: Tool) -> ExitCode {
    to_stderr(&format!("Try '{} --help' for more information.", tool.name()));
    ExitCode::from(tool.wrong_usage())
}

/// The status of a tool that has done its work, or has not: then says why, and `status` tells it from the error.
///
/// # Errors
///
/// When nobody reads standard output any more: that is no failure of the tool.
pub fn end(
    say: Say,
    done: anyhow::Result<ExitCode>,
    status: impl FnOnce(&anyhow::Error) -> ExitCode,
) -> anyhow::Result<ExitCode> {
    done.or_else(|error| {
        if error.is::<output::StdoutClosed>() {
            return Err(error);
        }
        say.failure(&error);
        Ok(status(&error))
    })
}

/// The number that an option has as its value.
pub fn number_of(name: &str, value: Option<&OsStr>) -> Result<u64, String> {
    let value = value.unwrap_or_default();
    number(value).ok_or_else(|| no_number(name, value))
}

/// What is said of a value that is no number, or none that fits.
pub fn no_number(name: &str, value: &OsStr) -> String {
    format!("invalid number for {}: {}", shown(name), value.display())
}

/// Refuses an option by name.
pub fn unsupported(name: &str) -> String {
    format!("option {} is not supported by larder", shown(name))
}

/// An option as it is written.
pub fn shown(name: &str) -> String {
    let dashes = if name.len() == 1 { "-" } else { "--" };
    format!("{dashes}{name}")
}
