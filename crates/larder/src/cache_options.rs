//! [`CacheOptions`]: how much disk the cache may take, from the command line and from the configuration file.

use std::ffi::OsString;
use std::str::FromStr;

use larder_cachefiles::{Limits, Percentages, Tag};
use serde::{Deserialize, Serialize};

use crate::errors::{Kind, told};
use crate::output::size::Size;

/// How much disk the cache may take. What is not set is as in cachefiles: run 7, cull 5, stop 1 percent, no quota.
///
/// Parsed from options and from the `[cache]` table of the configuration file alike, under the same names.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[command(next_help_heading = "Cache limits")]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheOptions {
    /// Let the cache take at most SIZE on the disk, such as 10GiB (at least 16MiB) [default: none]
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<Size>,
    /// Stop culling when this much of the disk is free [default: 7]
    #[arg(long, value_name = "PERCENT")]
    pub brun: Option<Percent>,
    /// Cull while less than this much of the disk is free [default: 5]
    #[arg(long, value_name = "PERCENT")]
    pub bcull: Option<Percent>,
    /// Write nothing more while less than this much of the disk is free [default: 1]
    #[arg(long, value_name = "PERCENT")]
    pub bstop: Option<Percent>,
    /// Stop culling when this many of the file system's files are free [default: 7]
    #[arg(long, value_name = "PERCENT")]
    pub frun: Option<Percent>,
    /// Cull while fewer than this many of the file system's files are free [default: 5]
    #[arg(long, value_name = "PERCENT")]
    pub fcull: Option<Percent>,
    /// Make no more files while fewer than this many are free [default: 1]
    #[arg(long, value_name = "PERCENT")]
    pub fstop: Option<Percent>,
    /// Name the cache; one that has another name is not opened [default: larder]
    ///
    /// Write it into config.toml: whatever else starts the daemon, and `larder cache` without one, refuse the cache
    /// unless they are told its name, too.
    #[arg(long, value_name = "NAME")]
    pub tag: Option<TagName>,
}

/// Hundredths of what a file system has: 0 to 99.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u64")]
pub struct Percent(pub u8);

/// Why a number is no percentage.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text} is no percentage: write a whole number from 0 to 99")]
pub struct PercentError {
    text: String,
}

impl TryFrom<u64> for Percent {
    type Error = PercentError;

    fn try_from(number: u64) -> Result<Self, PercentError> {
        match u8::try_from(number) {
            Ok(number @ 0..=99) => Ok(Self(number)),
            _ => Err(PercentError { text: number.to_string() }),
        }
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let number: u64 = text.parse().map_err(|_| PercentError { text: format!("{text:?}") })?;
        Self::try_from(number)
    }
}

/// The name of a cache.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagName(Tag);

impl TryFrom<String> for TagName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TagName> for String {
    fn from(TagName(tag): TagName) -> Self {
        tag.to_string()
    }
}

impl FromStr for TagName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Tag::new(text).map(Self).map_err(|error| error.to_string())
    }
}

impl CacheOptions {
    /// What is set here, and what `other` has where nothing is.
    pub fn or(self, other: Self) -> Self {
        Self {
            quota: self.quota.or(other.quota),
            brun: self.brun.or(other.brun),
            bcull: self.bcull.or(other.bcull),
            bstop: self.bstop.or(other.bstop),
            frun: self.frun.or(other.frun),
            fcull: self.fcull.or(other.fcull),
            fstop: self.fstop.or(other.fstop),
            tag: self.tag.or(other.tag),
        }
    }

    /// Whether anything is set.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// Checks the limits against each other.
    ///
    /// # Errors
    ///
    /// When stop, cull and run are not in this order, as cachefiles has them: stop < cull < run.
    pub fn check(&self) -> anyhow::Result<()> {
        let Limits { blocks, files, .. } = self.limits();
        for (kind, percentages) in [("b", blocks), ("f", files)] {
            let Percentages { run, cull, stop } = percentages;
            if !(stop < cull && cull < run) {
                return Err(told(
                    Kind::BadRequest,
                    format!(
                        "{kind}stop {stop}, {kind}cull {cull}, {kind}run {run}: each must be less than the next"
                    ),
                    "set all three, for example 1, 5 and 7",
                ));
            }
        }
        if let Some(Size(quota @ 0..QUOTA_BYTES_MIN)) = self.quota {
            return Err(told(
                Kind::BadRequest,
                format!("quota {quota}: a cache of less than {} cannot work", Size(QUOTA_BYTES_MIN)),
                "",
            ));
        }
        Ok(())
    }

    /// The limits, with what is not set as in the kernel.
    pub fn limits(&self) -> Limits {
        Limits {
            blocks: percentages(self.brun, self.bcull, self.bstop),
            files: percentages(self.frun, self.fcull, self.fstop),
            quota: self.quota.map(|Size(bytes)| bytes),
        }
    }

    /// The name that the cache has, or gets.
    pub fn tag(&self) -> Tag {
        self.tag.as_ref().map(|TagName(tag)| tag.clone()).unwrap_or_default()
    }

    /// The same on a command line, for the worker: it is started again with what the daemon was started with.
    pub fn to_args(&self) -> Vec<OsString> {
        let percent = |name, value: Option<Percent>| (name, value.map(|value| value.0.to_string()));
        let options = [
            ("--quota", self.quota.map(|Size(bytes)| bytes.to_string())),
            percent("--brun", self.brun),
            percent("--bcull", self.bcull),
            percent("--bstop", self.bstop),
            percent("--frun", self.frun),
            percent("--fcull", self.fcull),
            percent("--fstop", self.fstop),
            ("--tag", self.tag.as_ref().map(|TagName(tag)| tag.to_string())),
        ];
        let set = options.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        set.map(OsString::from).collect()
    }
}

/// Smallest quota in bytes: one fill in hand of each of a few blobs, and their maps.
const QUOTA_BYTES_MIN: u64 = 16 << 20;

fn percentages(run: Option<Percent>, cull: Option<Percent>, stop: Option<Percent>) -> Percentages {
    let defaults = Percentages::default();
    let or = |value: Option<Percent>, otherwise| value.map_or(otherwise, |Percent(value)| value);
    Percentages { run: or(run, defaults.run), cull: or(cull, defaults.cull), stop: or(stop, defaults.stop) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        limits: CacheOptions,
    }

    fn parse(args: &[&str]) -> Result<CacheOptions, String> {
        let args = ["program"].iter().chain(args);
        Program::try_parse_from(args).map(|program| program.limits).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_set_is_as_in_the_kernel() {
        let limits = CacheOptions::default();
        limits.check().expect("the kernel's own");
        assert_eq!(limits.limits().blocks, Percentages { run: 7, cull: 5, stop: 1 });
        assert!(!limits.is_set() && limits.to_args().is_empty());
    }

    #[test]
    fn a_command_line_says_the_same_again() {
        let args = ["--quota=10GiB", "--brun=20", "--bcull=15", "--bstop=10", "--fstop=2", "--tag=a.b-c_1"];
        let limits = parse(&args).expect("well formed");
        let again: Vec<_> =
            limits.to_args().into_iter().map(|arg| arg.into_string().expect("text")).collect();
        let again: Vec<_> = again.iter().map(String::as_str).collect();
        assert_eq!(parse(&again).expect("well formed"), limits);
        assert_eq!(limits.limits().blocks, Percentages { run: 20, cull: 15, stop: 10 });
    }

    #[test]
    fn p7_wrong_limits_are_refused_by_name() {
        for (args, named) in [
            (["--brun=100"], "--brun"),
            (["--bcull=-1"], "--bcull"),
            (["--fstop=five"], "--fstop"),
            (["--quota=1.5GiB"], "--quota"),
            (["--tag=a/b"], "--tag"),
            (["--tag="], "--tag"),
        ] {
            let error = parse(&args).expect_err("out of range");
            assert!(error.contains(named), "{args:?}: {error}");
        }
        for (args, named) in [
            (["--bstop=5"], "bstop 5, bcull 5, brun 7"),
            (["--fcull=7"], "fstop 1, fcull 7, frun 7"),
            (["--quota=1MiB"], "quota"),
        ] {
            let error = parse(&args).expect("each by itself is fine").check().expect_err("not together");
            assert!(error.to_string().contains(named), "{args:?}: {error}");
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let line = parse(&["--brun=20"]).expect("well formed");
        let file = parse(&["--brun=30", "--quota=1GiB"]).expect("well formed");
        let both = line.or(file);
        assert_eq!((both.brun, both.quota), (Some(Percent(20)), Some(Size(1 << 30))));
    }
}
