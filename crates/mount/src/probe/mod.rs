//! [`probe()`]: which front ends this host offers, and why not the others.

mod cachefiles;
mod erofs;
mod fanotify;
mod fuse;
mod fuse_blob;

use std::path::Path;

use crate::FrontEndKind;
pub(crate) use fanotify::scratch_file;

/// Why a front end cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unavailable {
    /// What is missing, in words.
    pub reason: String,
    /// What the operator can do about it.
    pub hint: String,
}

/// What was found out about one front end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// The front end.
    pub kind: FrontEndKind,
    /// Whether it works here.
    pub outcome: Result<(), Unavailable>,
}

/// Asks the kernel which front ends work with a cache in `cache_dir`, an existing directory; the best comes first.
///
/// Leaves nothing behind. Blocks.
pub fn probe(cache_dir: &Path) -> Vec<Probe> {
    let ask = |kind| match kind {
        FrontEndKind::Fanotify => fanotify::probe(cache_dir),
        FrontEndKind::FuseBlob => fuse_blob::probe(),
        FrontEndKind::Cachefiles => cachefiles::probe(cache_dir),
        FrontEndKind::Fuse => fuse::probe(),
    };
    FrontEndKind::ALL.into_iter().map(|kind| Probe { kind, outcome: ask(kind) }).collect()
}

fn unavailable(reason: impl Into<String>, hint: impl Into<String>) -> Unavailable {
    Unavailable { reason: reason.into(), hint: hint.into() }
}

const TOO_OLD: &str = "Linux 6.14 or newer has them";
const BE_ROOT: &str = "run the daemon as root";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let kinds: Vec<_> = probe(dir.path()).into_iter().map(|probe| probe.kind).collect();
        assert_eq!(kinds, FrontEndKind::ALL);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
