//! [`Config`]: the configuration file.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cache_options::CacheOptions;
use crate::errors::{Kind, tell};

/// The configuration file. It is read when a daemon is started, whoever starts it; the worker gets the result on its
/// command line, so that a file which was broken meanwhile cannot keep the next worker from its mounts. For the same reason whoever takes
/// the place of a keeper that has died goes on without it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How much disk the cache may take.
    pub cache: CacheOptions,
}

impl Config {
    /// Reads the file at `path`; one that is not there says nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or has what is not known or out of range: by line and name.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let place = || {
            let message = format!("{}: the configuration cannot be used", path.display());
            tell(Kind::BadRequest, message, "docs/operations.md lists what may stand there")
        };
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_options::Percent;
    use crate::output::size::Size;

    fn read(text: &str) -> anyhow::Result<Config> {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("config.toml");
        std::fs::write(&path, text).expect("a file can be written");
        Config::read(&path)
    }

    #[test]
    fn a_file_says_what_options_say_under_the_same_names() {
        let config = read("[cache]\nquota = \"10GiB\"\nbrun = 20\nbcull = 15\nbstop = 10\ntag = \"fast\"\n");
        let cache = config.expect("well formed").cache;
        assert_eq!(cache.quota, Some(Size(10 << 30)));
        assert_eq!((cache.brun, cache.bstop), (Some(Percent(20)), Some(Percent(10))));
        assert_eq!(cache.tag().as_str(), "fast");
        assert_eq!(read("[cache]\nquota = 1073741824\n").expect("bytes").cache.quota, Some(Size(1 << 30)));
    }

    #[test]
    fn no_file_and_an_empty_one_say_nothing() {
        assert_eq!(Config::read(Path::new("/nowhere/config.toml")).expect("not there"), Config::default());
        assert_eq!(read("").expect("empty"), Config::default());
    }

    #[test]
    fn p7_what_is_not_known_or_wrong_is_refused_by_line_and_name() {
        for (text, named) in [
            ("[cache]\nquotum = 5\n", "quotum"),
            ("[chache]\n", "chache"),
            ("[cache]\nbrun = 101\n", "101"),
            ("[cache]\nquota = \"lots\"\n", "lots"),
            ("[cache]\nquota = -1\n", "quota"),
            ("[cache]\ntag = \"a b\"\n", "a b"),
            ("cache", "1"),
        ] {
            let error = format!("{:#}", read(text).expect_err("refused"));
            assert!(error.contains(named) && error.contains("line"), "{text:?}: {error}");
        }
    }
}
