//! Options in the manner of getopt_long(3): in any order, short ones together, long ones with or without `=`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Whether an option takes a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Takes {
    /// Never.
    Nothing,
    /// Always: `-xVALUE`, `-x VALUE`, `--long=VALUE`, `--long VALUE`.
    Value,
    /// Only as `-xVALUE` or `--long=VALUE`.
    Maybe,
}

/// The options of a tool. A short one has a name of one character.
pub struct Options(pub &'static [(&'static str, Takes)]);

/// One thing from the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// An option by its full name, with its value.
    Option(&'static str, Option<OsString>),
    /// Something that is no option.
    Operand(OsString),
}

/// Why a command line is wrong; in the words of getopt_long(3).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Usage {
    /// `--long` is unknown.
    UnknownLong(String),
    /// `-x` is unknown.
    UnknownShort(char),
    /// `--long` stands for several.
    Ambiguous(String),
    /// Needs a value.
    NoValue(String),
    /// Takes none.
    Value(String),
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLong(name) => write!(f, "unrecognized option '--{name}'"),
            Self::UnknownShort(name) => write!(f, "invalid option -- '{name}'"),
            Self::Ambiguous(name) => write!(f, "option '--{name}' is ambiguous"),
            Self::NoValue(name) => write!(f, "option '{name}' requires an argument"),
            Self::Value(name) => write!(f, "option '{name}' doesn't allow an argument"),
        }
    }
}

/// Takes a command line apart.
pub fn parse(options: &Options, args: Vec<OsString>) -> Result<Vec<Parsed>, Usage> {
    let mut found = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            found.extend(args.by_ref().map(Parsed::Operand));
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            found.push(parse_long(options, long, &mut args)?);
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            parse_short(options, &bytes[1..], &mut args, &mut found)?;
        } else {
            found.push(Parsed::Operand(arg));
        }
    }
    Ok(found)
}

fn parse_long(
    options: &Options,
    long: &[u8],
    args: &mut impl Iterator<Item = OsString>,
) -> Result<Parsed, Usage> {
    let (name, value) = match long.iter().position(|&byte| byte == b'=') {
        Some(at) => (&long[..at], Some(OsStr::from_bytes(&long[at + 1..]).to_owned())),
        None => (long, None),
    };
    let (name, takes) = find_long(options, name)?;
    let value = match (takes, value) {
        (Takes::Nothing, Some(_)) => return Err(Usage::Value(format!("--{name}"))),
        (Takes::Value, None) => Some(args.next().ok_or_else(|| Usage::NoValue(format!("--{name}")))?),
        (_, value) => value,
    };
    Ok(Parsed::Option(name, value))
}

/// The option with this name, or the only one that begins with it.
fn find_long(options: &Options, name: &[u8]) -> Result<(&'static str, Takes), Usage> {
    let shown = || String::from_utf8_lossy(name).into_owned();
    let long = || options.0.iter().filter(|(known, _)| known.len() > 1).copied();
    if let Some(exact) = long().find(|(known, _)| known.as_bytes() == name) {
        return Ok(exact);
    }
    let mut beginning = long().filter(|(known, _)| known.as_bytes().starts_with(name) && !name.is_empty());
    match (beginning.next(), beginning.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Usage::Ambiguous(shown())),
        (None, _) => Err(Usage::UnknownLong(shown())),
    }
}

fn parse_short(
    options: &Options,
    letters: &[u8],
    args: &mut impl Iterator<Item = OsString>,
    found: &mut Vec<Parsed>,
) -> Result<(), Usage> {
    let mut rest = letters;
    while let Some((&letter, after)) = rest.split_first() {
        let known = options.0.iter().find(|(name, _)| name.as_bytes() == [letter]);
        let &(name, takes) = known.ok_or(Usage::UnknownShort(char::from(letter)))?;
        let attached = (!after.is_empty()).then(|| OsString::from_vec(after.to_vec()));
        let value = match takes {
            Takes::Nothing => None,
            Takes::Maybe => attached,
            Takes::Value => Some(match attached {
                Some(value) => value,
                None => args.next().ok_or_else(|| Usage::NoValue(format!("-{name}")))?,
            }),
        };
        found.push(Parsed::Option(name, value));
        rest = if takes == Takes::Nothing { after } else { &[] };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options(&[
        ("p", Takes::Nothing),
        ("d", Takes::Value),
        ("extract", Takes::Maybe),
        ("device", Takes::Value),
        ("force", Takes::Nothing),
        ("preserve", Takes::Nothing),
        ("preserve-owner", Takes::Nothing),
    ]);

    fn of(args: &[&str]) -> Result<String, String> {
        let parsed =
            parse(&OPTIONS, args.iter().map(OsString::from).collect()).map_err(|error| error.to_string())?;
        let word = |parsed: &Parsed| match parsed {
            Parsed::Option(name, None) => format!("({name})"),
            Parsed::Option(name, Some(value)) => format!("({name} {})", value.display()),
            Parsed::Operand(text) => text.display().to_string(),
        };
        Ok(parsed.iter().map(word).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_and_operands_come_in_any_order() {
        for (args, expected) in [
            (&["-p", "image"][..], "(p) image"),
            (&["image", "-pd9", "-d", "3"], "image (p) (d 9) (d 3)"),
            (&["--extract", "x"], "(extract) x"),
            (&["--extract=x", "--device", "y", "--device=z"], "(extract x) (device y) (device z)"),
            (&["--ext=", "--preserve"], "(extract ) (preserve)"),
            (&["--preserve-"], "(preserve-owner)"),
            (&["--", "-p", "--x"], "-p --x"),
            (&["-"], "-"),
            (&[], ""),
        ] {
            assert_eq!(of(args).as_deref(), Ok(expected), "{args:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_as_getopt_names_it() {
        for (args, expected) in [
            (&["--bogus"][..], "unrecognized option '--bogus'"),
            (&["-pz"], "invalid option -- 'z'"),
            (&["--preserve-x"], "unrecognized option '--preserve-x'"),
            (&["--pre"], "option '--pre' is ambiguous"),
            (&["--device"], "option '--device' requires an argument"),
            (&["-d"], "option '-d' requires an argument"),
            (&["--force=1"], "option '--force' doesn't allow an argument"),
        ] {
            assert_eq!(of(args), Err(expected.to_owned()), "{args:?}");
        }
    }
}
