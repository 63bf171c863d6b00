//! What the last worker that served was started with: for whoever takes the place of a keeper that has died.
//!
//! Readers wait for such a one, and nobody may be there to mend a configuration file that was broken meanwhile.

use std::fs;
use std::io;

use anyhow::Context as _;

use super::record::write_durably;
use crate::cache_options::CacheOptions;
use crate::config::Config;
use crate::paths::Paths;

/// Writes down that a worker serves with `cache`. Blocks.
///
/// # Errors
///
/// What the file system says.
pub fn note(paths: &Paths, cache: &CacheOptions) -> anyhow::Result<()> {
    let config = Config { cache: cache.clone() };
    if matches!(read(paths), Ok(Some(before)) if before == config) {
        return Ok(());
    }
    let path = paths.served_with();
    let place = || format!("{}: cannot be written", path.display());
    write_durably(&path, &serde_json::to_vec_pretty(&config)?).with_context(place)
}

/// The options of a successor: `chosen`, if there are any, under the name that the cache has; else those of the last worker that
/// served; and else `asked`, those of its command line. It says what it does not heed.
pub fn heed(paths: &Paths, asked: CacheOptions, chosen: anyhow::Result<CacheOptions>) -> CacheOptions {
    let served = read(paths).unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        None
    });
    let served = served.map(|config| config.cache);
    match (chosen, served) {
        (Ok(chosen), Some(served)) if chosen.tag() != served.tag() => {
            tracing::error!(
                "the cache is called {}, and not {}: mounts wait for it, and the name counts with the next start of the daemon",
                served.tag(),
                chosen.tag()
            );
            CacheOptions { tag: served.tag, ..chosen }
        }
        (Ok(chosen), _) => chosen,
        (Err(error), Some(served)) => {
            tracing::error!("{error:#}: mounts wait, and what the daemon was last started with applies");
            served
        }
        (Err(error), None) => {
            tracing::error!("{error:#}: mounts wait, and the command line alone applies");
            if asked.check().is_ok() { asked } else { CacheOptions::default() }
        }
    }
}

fn read(paths: &Paths) -> anyhow::Result<Option<Config>> {
    let path = paths.served_with();
    let place = || format!("{}: cannot be used", path.display());
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(place),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_options::Percent;
    use crate::output::size::Size;

    fn tagged(tag: &str) -> CacheOptions {
        let tag = Some(tag.parse().expect("a name"));
        CacheOptions { tag, quota: Some(Size(1 << 30)), brun: Some(Percent(20)), ..CacheOptions::default() }
    }

    #[test]
    fn p4_a_successor_goes_on_with_what_can_be_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::choose(Some(dir.path())).expect("a short path");
        paths.create().expect("room");
        let wrong = || Err(anyhow::anyhow!("no configuration"));
        let asked = CacheOptions { frun: Some(Percent(30)), ..CacheOptions::default() };
        assert_eq!(heed(&paths, asked.clone(), wrong()), asked, "nobody has served");
        let contradictory = CacheOptions { frun: Some(Percent(0)), ..CacheOptions::default() };
        assert_eq!(heed(&paths, contradictory, wrong()), CacheOptions::default());
        assert_eq!(heed(&paths, asked.clone(), Ok(tagged("fast"))), tagged("fast"));

        note(&paths, &tagged("fast")).expect("room");
        note(&paths, &tagged("fast")).expect("nothing to do");
        assert_eq!(heed(&paths, asked.clone(), wrong()), tagged("fast"));
        let others = CacheOptions { quota: None, ..tagged("slow") };
        let heeded = heed(&paths, asked.clone(), Ok(others));
        assert_eq!(heeded, CacheOptions { quota: None, ..tagged("fast") }, "another cache is not opened");

        fs::write(paths.served_with(), "{").expect("room");
        assert_eq!(heed(&paths, asked.clone(), wrong()), asked, "what is damaged says nothing");
    }
}
