//! [`Options`]: the command line of a fuzz target's program.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    pub seed: u64,
    pub time: Duration,
    /// This input alone.
    pub input: Option<u64>,
    /// Where to write the input, or the valid ones, instead of running anything.
    pub save: Option<PathBuf>,
    /// This process runs the inputs, and notes here which is at hand.
    pub at_hand: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, time: Duration::from_secs(10), input: None, save: None, at_hand: None }
    }
}

impl Options {
    /// Reads `--seed`, `--seconds`, `--input`, `--save` and `--at-hand`, each with its value.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            let name = name.to_string_lossy().into_owned();
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || {
                let number = value.to_str().and_then(|value| value.parse().ok());
                number.ok_or_else(|| format!("{name} needs a number"))
            };
            match name.as_str() {
                "--seed" => options.seed = number()?,
                "--seconds" => options.time = Duration::from_secs(number()?),
                "--input" => options.input = Some(number()?),
                "--save" => options.save = Some(value.into()),
                "--at-hand" => options.at_hand = Some(value.into()),
                _ => return Err(format!("{name} is unknown")),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_or_lacks_its_value_is_refused() {
        let parse = |line: &str| Options::parse(line.split_whitespace().map(OsString::from));
        let expected =
            Options { seed: 7, time: Duration::from_secs(3), input: Some(9), ..Options::default() };
        assert_eq!(parse("--seed 7 --seconds 3 --input 9"), Ok(expected));
        assert_eq!(parse("--runs 3"), Err("--runs is unknown".into()));
        assert_eq!(parse("--seed"), Err("--seed needs a value".into()));
        assert_eq!(parse("--seed x"), Err("--seed needs a number".into()));
    }
}
