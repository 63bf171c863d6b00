//! [`Rig`]: an image mounted by the kernel's EROFS, through a front end that works here; and what its worker leaves.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_erofs::writer::{Attributes, Tree};
use larder_mount::keeper::{Holder, NoKeeper};
use larder_mount::{Error, FrontEnd, FrontEndKind, MountSpec, Mounted, open};

use super::{Unmount, Worker, build, cannot, noise, scratch};

/// Length of the file "big".
pub const BIG: usize = 5 << 20;
/// Those of which the kernel mounts an EROFS. No kernel has all of them: `cargo xtask uml` runs these tests in several.
pub const KINDS: [FrontEndKind; 3] =
    [FrontEndKind::Fanotify, FrontEndKind::FuseBlob, FrontEndKind::Cachefiles];

/// An image with a large file, many small ones, and a front end that has mounted it.
pub struct Rig {
    pub mounted: Box<dyn Mounted>,
    pub front_end: Arc<dyn FrontEnd>,
    pub worker: Worker,
    _unmount: Unmount,
    pub dir: tempfile::TempDir,
}

impl Rig {
    /// One of each that works here.
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.into_iter().filter_map(Self::new)
    }

    pub fn new(kind: FrontEndKind) -> Option<Self> {
        Self::kept_by(kind, Arc::new(NoKeeper))
    }

    /// One whose descriptors `holder` keeps.
    pub fn kept_by(kind: FrontEndKind, holder: Arc<dyn Holder>) -> Option<Self> {
        let dir = scratch();
        if cannot(kind, dir.path()) {
            return None;
        }
        build(tree(), dir.path());
        let worker = Worker::open(dir.path(), holder);
        let front_end = start(kind, &worker, dir.path());
        let unmount = Unmount(worker.spec.target.clone());
        let mounted = front_end.mount(worker.spec.clone()).unwrap();
        Some(Self { mounted, front_end, worker, _unmount: unmount, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.worker.spec.target.join(name)
    }

    /// The worker goes, and whatever it held goes to the next one.
    pub fn hand_over(self) -> HandedOver {
        let Self { mounted, front_end, worker, _unmount, dir } = self;
        let (kind, holder, spec) = (front_end.kind(), Arc::clone(&worker.holder), worker.spec.clone());
        front_end.hand_over();
        let Worker { runtime, .. } = worker;
        runtime.shutdown_background();
        drop((mounted, front_end));
        HandedOver { kind, holder, spec, _unmount, dir }
    }
}

/// A mount whose worker has died, and whatever kept its descriptors.
pub struct Abandoned {
    pub kind: FrontEndKind,
    /// Of the next life.
    pub worker: Worker,
    _unmount: Unmount,
    pub dir: tempfile::TempDir,
}

impl Abandoned {
    /// One of each that works here.
    pub fn all() -> impl Iterator<Item = Self> {
        Rig::all().map(|rig| {
            let Rig { mounted, front_end, worker, _unmount, dir } = rig;
            let kind = front_end.kind();
            drop(mounted);
            drop(front_end);
            Self { kind, worker, _unmount, dir }
        })
    }

    /// The front end of another worker.
    pub fn next(&self) -> Arc<dyn FrontEnd> {
        start(self.kind, &self.worker, self.dir.path())
    }
}

/// What a worker that has gone has left.
pub struct HandedOver {
    pub kind: FrontEndKind,
    pub holder: Arc<dyn Holder>,
    pub spec: MountSpec,
    _unmount: Unmount,
    pub dir: tempfile::TempDir,
}

impl HandedOver {
    /// The next worker, which has taken nothing up yet.
    pub fn next(&self) -> (Worker, Arc<dyn FrontEnd>) {
        let worker = Worker::open(self.dir.path(), Arc::clone(&self.holder));
        let front_end = start(self.kind, &worker, self.dir.path());
        (worker, front_end)
    }
}

/// Opens the front end of `worker`, whose cache is in `dir`. Of the one before threads may still be ending, which have a device
/// that only one may have.
pub fn start(kind: FrontEndKind, worker: &Worker, dir: &Path) -> Arc<dyn FrontEnd> {
    let begun = Instant::now();
    loop {
        match open(kind, Arc::clone(&worker.holder), Arc::clone(&worker.engine), &dir.join("cache")) {
            Err(Error::Kernel { source, .. })
                if source.kind() == ErrorKind::ResourceBusy && begun.elapsed() < Duration::from_secs(10) =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened.unwrap(),
        }
    }
}

pub fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.add_file(b"big", noise(BIG, 1), &Attributes::default()).unwrap();
    for n in 0..200 {
        let name = format!("dir/small-{n}");
        tree.add_file(name.as_bytes(), noise(100 + 37 * n, 100 + n as u64), &Attributes::default()).unwrap();
    }
    tree
}

/// Waits until `done`, ten seconds at most.
pub fn wait_for(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "it did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
