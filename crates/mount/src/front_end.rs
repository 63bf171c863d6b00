//! [`FrontEnd`]: one way in which the kernel's questions arrive, and [`Mounted`]: one mount made through it.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use larder_ondemand::{Blob, Engine};

use crate::cachefiles::CachefilesDaemon;
use crate::fanotify::Fanotify;
use crate::fuse::Fuse;
use crate::fuse_blob::FuseBlob;
use crate::keeper::Holder;
use crate::{Error, Identity};

/// The ways to mount.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FrontEndKind {
    /// The kernel's EROFS on backing files whose holes ask first (pre-content events, Linux 6.14).
    Fanotify,
    /// The kernel's EROFS on blobs that we show as the files of a FUSE (Linux 6.12).
    FuseBlob,
    /// The kernel's EROFS over the kernel's fscache, whose daemon we are (Linux 6.1 to 7.1, where it was built in).
    Cachefiles,
    /// The whole file system in user space: any Linux, no root.
    Fuse,
}

impl FrontEndKind {
    /// Every one, the best first.
    pub const ALL: [Self; 4] = [Self::Fanotify, Self::FuseBlob, Self::Cachefiles, Self::Fuse];

    /// Its name: `fanotify`, `fuse-blob`, `cachefiles` or `fuse`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fanotify => "fanotify",
            Self::FuseBlob => "fuse-blob",
            Self::Cachefiles => "cachefiles",
            Self::Fuse => "fuse",
        }
    }
}

impl fmt::Display for FrontEndKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no front end.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{word:?} is no front end (there are fanotify, fuse-blob, cachefiles and fuse)")]
pub struct UnknownFrontEnd {
    /// What was given.
    pub word: String,
}

impl FromStr for FrontEndKind {
    type Err = UnknownFrontEnd;

    fn from_str(word: &str) -> Result<Self, UnknownFrontEnd> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| UnknownFrontEnd { word: word.to_owned() })
    }
}

/// What to mount, and where.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// Names the mount for as long as it lives, across restarts of the worker: 1 to 64 bytes of `[A-Za-z0-9._-]`.
    pub id: String,
    /// The mount point: an existing directory.
    pub target: PathBuf,
    /// The metadata image: complete, verified, in a local file that nobody changes; unless `metadata_blob` is given.
    pub metadata: PathBuf,
    /// The blob whose backing file `metadata` is, where parts of it may still have to be brought. Only for front ends
    /// that [bring metadata](FrontEnd::brings_metadata).
    pub metadata_blob: Option<Arc<Blob>>,
    /// The blobs, in the order of the image's device table.
    pub devices: Vec<Arc<Blob>>,
    /// Whether some of them are said to be the contents of one file each: where that holds, `fuse` has the kernel read these
    /// files itself once they are complete. The answer is the same for every worker.
    pub whole_files: bool,
    /// What the mount table shows where the front end can choose it.
    pub source_name: String,
    /// What [`Mounted::identity`] said of it, for [`FrontEnd::resume`]; empty where that is not known.
    pub identity: Identity,
}

impl MountSpec {
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_id(&self.id)
    }
}

/// Whether a mount id can name kept descriptors.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&id.len()) && id.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::MountId { id: id.to_owned() })
}

/// One way to mount. Its calls block: they talk to the kernel and to files.
pub trait FrontEnd: Send + Sync {
    /// Which way this is.
    fn kind(&self) -> FrontEndKind;

    /// Whether the metadata of an image may be incomplete when it is mounted: who reads what is missing waits for it.
    /// Where not, an image is mounted when its metadata is complete. May ask the kernel, and block.
    fn brings_metadata(&self) -> bool {
        false
    }

    /// Mounts. On an error nothing is left mounted, marked or kept.
    ///
    /// # Errors
    ///
    /// What kept it from being mounted.
    fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error>;

    /// Takes up a mount of an earlier worker from what the keeper holds. Readers that wait go on.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] when it is not mounted any more, [`Error::Poisoned`] when nobody held it in between (it is
    /// detached then), and what else kept it from being taken up.
    fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error>;

    /// Says that every mount of an earlier worker was either taken up or given up, so that whoever still waits for
    /// a mount that is not known gets an error. Happens by itself a minute after the start, or after the last
    /// [`resume_goes_on`](Self::resume_goes_on).
    fn finish_resume(&self) {}

    /// Says that one more mount of an earlier worker was dealt with, be it another front end's.
    fn resume_goes_on(&self) {}

    /// Gives the readers of the mount `id`, which could not be taken up, errors until [`resume`](Self::resume) does take it
    /// up. Does nothing where [`finish_resume`](Self::finish_resume) has seen to that.
    ///
    /// # Errors
    ///
    /// What keeps them from being answered: they wait.
    fn refuse(&self, _id: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Forgets the mount `id` of an earlier worker, which is unmounted or detached and was never taken up: who still reads
    /// from it gets errors, and this is not [idle](Self::is_idle) before the last of them has gone.
    ///
    /// # Errors
    ///
    /// What keeps it from being forgotten; the call can be repeated.
    fn abandon(&self, id: &str) -> Result<(), Error>;

    /// The ids of the mounts that the keeper has something of, known here or not.
    fn kept_ids(&self) -> Vec<String>;

    /// Takes off `file`, which nobody reads any more, what an earlier worker may have left on it: to be called before the
    /// last descriptor goes by which it can be written without a question.
    fn let_go(&self, _file: BorrowedFd<'_>) {}

    /// Gives every reader that asks from now on an error, until the process ends or mounts something else; readers of
    /// mounts that were not taken up, too, after [`finish_resume`](Self::finish_resume). For a process that stands in for
    /// a worker: readers must not find nobody.
    fn give_up(&self) {}

    /// Whether the kernel has nothing of this front end's any more. Until then the end of worker *and* keeper could
    /// show a reader of a detached mount what was never filled, or give it an error.
    fn is_idle(&self) -> bool {
        true
    }

    /// Leaves every question to the next worker: no more are taken, and those in hand stay unanswered, or are waited for where
    /// the kernel would not ask again. To be called when this process is about to be replaced while the keeper lives on.
    fn hand_over(&self);
}

/// One mount. Dropping it leaves it mounted, for the next worker.
pub trait Mounted: Send + Sync {
    /// The mount point.
    fn target(&self) -> &Path;

    /// What tells it from all other mounts, also when nobody knows this one any more.
    fn identity(&self) -> Identity;

    /// Takes the mount away; `lazy` also when it is in use: those who use it go on until they are done.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when it is in use and `lazy` is false; the mount lives on then and the call can be repeated.
    fn unmount(&self, lazy: bool) -> Result<(), Error>;

    /// Whether nobody can ask through it any more: it is unmounted, and the last who used it, in another namespace or
    /// from an open file, has gone. Its blobs may be withdrawn then.
    fn is_gone(&self) -> bool;

    /// Says that `blob` is complete and durable: what watches over its holes is taken off.
    fn on_complete(&self, blob: &Arc<Blob>);

    /// How many questions of the kernel wait for bytes right now.
    fn waiting(&self) -> usize {
        0
    }
}

/// Opens the front end `kind` for blobs cached in `cache_dir`; what an earlier worker left with `holder` is taken over.
///
/// To be opened once in a process for each kind, early when `holder` keeps something of an earlier worker's.
///
/// # Errors
///
/// [`Error::Kernel`] when this host does not offer it ([`probe`](crate::probe()) tells why).
pub fn open(
    kind: FrontEndKind,
    holder: Arc<dyn Holder>,
    engine: Arc<Engine>,
    cache_dir: &Path,
) -> Result<Arc<dyn FrontEnd>, Error> {
    Ok(match kind {
        FrontEndKind::Fanotify => Arc::new(Fanotify::open(holder, engine, cache_dir)?),
        FrontEndKind::FuseBlob => Arc::new(FuseBlob::open(holder, engine)?),
        FrontEndKind::Cachefiles => Arc::new(CachefilesDaemon::open(holder, engine, cache_dir)?),
        FrontEndKind::Fuse => Arc::new(Fuse::open(holder, engine)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_end_is_called_what_it_prints() {
        for kind in FrontEndKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("nfs".parse::<FrontEndKind>().is_err());
    }

    #[test]
    fn a_mount_id_that_could_name_something_else_is_refused() {
        for (id, fits) in
            [("a-1.b_C", true), ("", false), ("a/b", false), ("a\0", false), (&*"x".repeat(65), false)]
        {
            let spec = MountSpec {
                id: id.to_owned(),
                target: PathBuf::new(),
                metadata: PathBuf::new(),
                metadata_blob: None,
                devices: Vec::new(),
                whole_files: false,
                source_name: String::new(),
                identity: Identity::default(),
            };
            assert_eq!(spec.check().is_ok(), fits, "{id:?}");
        }
    }
}
