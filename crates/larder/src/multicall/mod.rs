//! The names of erofs-utils that this program answers to: `mkfs.erofs`, `fsck.erofs`, `dump.erofs`, `erofsfuse`.
//!
//! Called by one of these names, or with it as first argument, the program takes the options of erofs-utils 1.9 and
//! prints what scripts expect from it. What it does not know or does not do is refused by name.

mod dump;
mod fsck;
mod fuse;
mod getopt;
mod line;
mod mkfs;
mod say;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use say::Say;

/// Whose options these are.
pub const OPTIONS_OF: &str = "1.9";

/// A tool of erofs-utils.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tool {
    /// `mkfs.erofs`
    Mkfs,
    /// `fsck.erofs`
    Fsck,
    /// `dump.erofs`
    Dump,
    /// `erofsfuse`
    Fuse,
}

impl Tool {
    const ALL: [Self; 4] = [Self::Mkfs, Self::Fsck, Self::Dump, Self::Fuse];

    /// The tool's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mkfs => "mkfs.erofs",
            Self::Fsck => "fsck.erofs",
            Self::Dump => "dump.erofs",
            Self::Fuse => "erofsfuse",
        }
    }

    /// The status of a command line that is wrong.
    fn wrong_usage(self) -> u8 {
        match self {
            // EINVAL, negated, as the byte that is left of it.
            Self::Dump => 234,
            Self::Mkfs | Self::Fsck | Self::Fuse => 1,
        }
    }

    fn named(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| name == tool.name())
    }
}

/// Which tool this call means, and with which arguments: by the name of the program, else by its first argument.
pub fn called(args: impl IntoIterator<Item = OsString>) -> Option<(Tool, Vec<OsString>)> {
    let mut args = args.into_iter();
    let program = args.next()?;
    let by_name = Path::new(&program).file_name().and_then(Tool::named);
    let tool = match by_name {
        Some(tool) => tool,
        None => Tool::named(&args.next()?)?,
    };
    Some((tool, args.collect()))
}

/// Runs a tool to its end.
///
/// # Errors
///
/// When standard output cannot be written; whatever else goes wrong is said as the tool says it, and in the status.
pub fn run(tool: Tool, args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    match tool {
        Tool::Mkfs => mkfs::run(args),
        Tool::Fsck => fsck::run(args),
        Tool::Dump => dump::run(args),
        Tool::Fuse => fuse::run(args),
    }
}

/// What `-V` prints: scripts look for the version behind `(erofs-utils)`.
fn version(tool: Tool) -> String {
    format!("{} (erofs-utils) {OPTIONS_OF} as answered by larder {}", tool.name(), env!("CARGO_PKG_VERSION"))
}

/// A number as C's strtol reads it: decimal, `0x…` or `0…`.
fn number(text: &OsStr) -> Option<u64> {
    let text = text.to_str()?;
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_known_by_the_programs_name_or_its_first_argument() {
        let called =
            |args: &[&str]| called(args.iter().map(OsString::from)).map(|(tool, args)| (tool, args.len()));
        assert_eq!(called(&["/usr/bin/fsck.erofs", "-p", "x"]), Some((Tool::Fsck, 2)));
        assert_eq!(called(&["larder", "dump.erofs", "x"]), Some((Tool::Dump, 1)));
        assert_eq!(called(&["larder", "erofs", "fsck"]), None);
        assert_eq!(called(&["larder"]), None);
        assert_eq!(called(&[]), None);
    }

    #[test]
    fn numbers_are_read_as_in_c() {
        for (text, value) in [("0", 0), ("10", 10), ("0x10", 16), ("010", 8)] {
            assert_eq!(number(OsStr::new(text)), Some(value));
        }
        for text in ["", "-1", "0x", "09", "1k", " 1"] {
            assert_eq!(number(OsStr::new(text)), None, "{text}");
        }
    }
}
