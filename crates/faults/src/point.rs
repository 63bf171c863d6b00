//! The points themselves: what code at a [`Site`] calls.

use rustix::io::Errno;

use crate::{Error, Site, Verdict};

/// Says what the code at `site` does next. May pause, and may kill the process instead of returning.
#[cfg(not(feature = "inject"))]
#[inline(always)]
pub const fn point(_site: Site) -> Verdict {
    Verdict::Go
}

/// Says what the code at `site` does next. May pause, and may kill the process instead of returning.
#[cfg(feature = "inject")]
#[inline]
pub fn point(site: Site) -> Verdict {
    crate::active::visit(site)
}

/// Stands before a call that moves no bytes, or at a step.
///
/// # Errors
///
/// The injected one, as `?` turns it into an `io::Error`.
#[inline(always)]
pub fn check(site: Site) -> Result<(), Errno> {
    match point(site) {
        Verdict::Go | Verdict::Short(_) => Ok(()),
        Verdict::Fail(errno) => Err(errno),
    }
}

/// Stands before a call that would move up to `len` bytes: returns how many it may move, at least one of any.
///
/// # Errors
///
/// The injected one, as `?` turns it into an `io::Error`.
#[inline(always)]
pub fn length(site: Site, len: usize) -> Result<usize, Errno> {
    match point(site) {
        Verdict::Go => Ok(len),
        Verdict::Short(share) => Ok(share.of(len)),
        Verdict::Fail(errno) => Err(errno),
    }
}

/// Installs the plan that `text` describes: words between blanks.
///
/// | word | meaning |
/// | --- | --- |
/// | `seed=7` | the seed, any 64-bit number |
/// | `budget=100` | so many faults at most; without it, no limit |
/// | `state=/dev/shm/faults` | the file with the counters, made before by `State::create` |
/// | `cachefiles.pwrite=eio:1000+short:5000` | of a million visits, 1000 fail with EIO and 5000 are short |
/// | `cachefiles.*=pause:10` | every site of a layer that can have it; `*` is every site |
/// | `ondemand.verified=die@3` | the third visit is the last thing that the process does |
///
/// Kinds: `eio`, `enospc`, `emfile`, `enomem`, `eintr`, `short`, `pause`, `die`. Later words win over earlier ones.
///
/// # Errors
///
/// What is wrong with the text. In a build without the feature `inject`, always [`Error::NotBuilt`].
#[cfg(feature = "inject")]
pub fn install_text(text: &str) -> Result<(), Error> {
    crate::active::install(crate::Plan::parse(text)?)
}

/// Refuses a plan: this build has no fault points.
///
/// # Errors
///
/// [`Error::NotBuilt`], whatever the text.
#[cfg(not(feature = "inject"))]
pub fn install_text(_text: &str) -> Result<(), Error> {
    Err(Error::NotBuilt)
}

#[cfg(all(test, not(feature = "inject")))]
mod tests {
    use super::*;

    #[test]
    fn p7_a_build_without_fault_points_refuses_a_plan_by_name() {
        let refused = install_text("seed=7 cachefiles.pwrite=eio:1000000").expect_err("not built in");
        assert!(matches!(refused, Error::NotBuilt));
        assert!(refused.to_string().contains(crate::ENV) && refused.hint().is_some());
    }

    #[test]
    fn without_the_feature_a_point_is_known_to_say_go_at_compile_time() {
        const VERDICT: Verdict = point(Site::CachefilesPwrite);
        assert_eq!(VERDICT, Verdict::Go);
        assert_eq!(length(Site::CachefilesPwrite, 7), Ok(7));
        assert_eq!(check(Site::CachefilesFsync), Ok(()));
    }
}
