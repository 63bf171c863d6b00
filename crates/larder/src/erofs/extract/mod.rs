//! Extracting an image into a directory: by several threads, and never out of that directory.
//!
//! Everything is made relative to the open directory it belongs into, by a single name that was checked, and never
//! through a link: `mkdirat`, `openat` with `O_CREAT|O_EXCL|O_NOFOLLOW`, `symlinkat`, `mknodat`. So neither a name nor
//! a link of the image leads out, nor does a link that somebody else puts there meanwhile. What exists is refused,
//! or removed first where that was asked for.
//!
//! What a directory passes on to what is made in it, its group or an ACL, is taken from those that get attributes of the
//! image, and from what was made in others.
//!
//! One thread goes through the directories and makes them; all make and fill the files, that one when the others have
//! enough to do, and the last of the large ones together. A directory gets its own owner, mode and times when the last
//! thing in it is done.

mod attributes;
mod copy;
mod dir;
mod failures;
mod file;
mod jobs;
mod large;
mod node;
mod walk;

use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use larder_erofs::{FileType, Inode};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::open::LocalImage;
use dir::Dir;
pub use failures::Failures;
use jobs::Jobs;

/// Open files that are asked for: depth, jobs under way, and room to spare.
const OPEN_FILES_WANTED: u64 = 8192;

/// What is restored, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Give everything its owner and group; needs root.
    pub owners: bool,
    /// Give everything its exact permissions; if not, the umask applies.
    pub permissions: bool,
    /// Restore extended attributes.
    pub xattrs: bool,
    /// Remove what is in the way; directories are used as they are.
    pub overwrite: bool,
    /// Threads that fill files.
    pub jobs: NonZero<usize>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Summary {
    /// Directories, files and others, names of the same inode counted once each.
    pub objects: u64,
    /// Bytes of contents of regular files, holes included.
    pub bytes: u64,
    /// Attributes that this user or file system may not have.
    pub xattrs_skipped: u64,
    /// What went wrong; the rest is there.
    pub failures: Failures,
}

/// What all threads share.
pub(crate) struct Shared<'a> {
    pub image: &'a LocalImage,
    pub plan: Plan,
    pub uid: u32,
    pub gid: u32,
    pub objects: AtomicU64,
    pub bytes: AtomicU64,
    pub xattrs_skipped: AtomicU64,
    pub failures: Failures,
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl Shared<'_> {
    pub fn count(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    pub fn advance(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        (self.progress)(before.saturating_add(bytes));
    }
}

/// Extracts `from` to `target`: a directory's contents into it, which is made if need be; anything else as it.
///
/// # Errors
///
/// When nothing could be begun. What fails on the way is in [`Summary::failures`].
pub fn extract(
    image: &LocalImage,
    from: &Inode,
    target: &Path,
    plan: Plan,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Summary> {
    raise_open_files();
    let made = from.kind == FileType::Directory && make_target(target, plan)?;
    let (top, name) = match from.kind {
        FileType::Directory => (target, None),
        _ => {
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
            let name = target.file_name().with_context(|| format!("{}: has no name", target.display()))?;
            (parent.unwrap_or(Path::new(".")), Some(name.as_bytes()))
        }
    };
    let fd = rustix::fs::openat(CWD, top, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| top.display().to_string())?;
    let shared = Shared {
        image,
        plan,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        objects: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        xattrs_skipped: AtomicU64::new(0),
        failures: Failures::default(),
        progress,
    };
    // The target's own attributes are set when it is the image's root, and nobody else's directory.
    let inode = (made || plan.overwrite).then_some(*from).filter(|_| name.is_none());
    // Files are made with the mode that they are to have; while this runs, the program does nothing else.
    let umask = plan.permissions.then(|| rustix::process::umask(Mode::empty()));
    run(&shared, Arc::new(Dir::top(&shared, fd, inode)), from, name);
    if let Some(umask) = umask {
        rustix::process::umask(umask);
    }
    Ok(Summary {
        objects: shared.objects.into_inner(),
        bytes: shared.bytes.into_inner(),
        xattrs_skipped: shared.xattrs_skipped.into_inner(),
        failures: shared.failures,
    })
}

fn run<'a>(shared: &'a Shared<'a>, top: Arc<Dir<'a>>, from: &Inode, name: Option<&[u8]>) {
    let (jobs, queue) = Jobs::new(shared.plan.jobs);
    std::thread::scope(|scope| {
        for _ in 1..shared.plan.jobs.get() {
            let jobs = jobs.clone();
            scope.spawn(move || jobs.work(&mut copy::Buffer::default()));
        }
        let mut buffer = copy::Buffer::default();
        walk::Walk::new(shared, queue, &mut buffer).run(top, from, name);
        jobs.work(&mut buffer);
    });
}

/// Makes the target directory; returns whether it was not there.
fn make_target(target: &Path, plan: Plan) -> anyhow::Result<bool> {
    let mode = if plan.permissions { 0o700 } else { 0o777 };
    match rustix::fs::mkdirat(CWD, target, Mode::from_raw_mode(mode)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno).with_context(|| format!("{}: cannot be made", target.display())),
    }
}

/// A deep tree needs an open directory for each level.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < OPEN_FILES_WANTED) {
        limit.current = Some(limit.maximum.map_or(OPEN_FILES_WANTED, |most| most.min(OPEN_FILES_WANTED)));
        // With fewer, a tree that is too deep is reported.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
