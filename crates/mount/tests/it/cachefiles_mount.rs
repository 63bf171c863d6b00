//! The front end `cachefiles` with a real kernel: what mounts share, what is asked again, what is not.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_erofs::writer::{Attributes, Tree};
use larder_mount::keeper::NoKeeper;
use larder_mount::{FrontEnd, FrontEndKind, MountSpec, open};

use crate::common::{Unmount, Worker, build, cannot, drop_caches, noise, scratch};

const BIG: usize = 3 << 20;

struct Rig {
    front_end: Arc<dyn FrontEnd>,
    worker: Worker,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Option<Self> {
        let dir = scratch();
        if cannot(FrontEndKind::Cachefiles, dir.path()) {
            return None;
        }
        let mut tree = Tree::new();
        tree.add_file(b"big", noise(BIG, 1), &Attributes::default()).unwrap();
        for n in 0..60 {
            let name = format!("dir/small-{n}");
            tree.add_file(name.as_bytes(), noise(100 + 337 * n, n as u64), &Attributes::default()).unwrap();
        }
        build(tree, dir.path());
        let worker = Worker::open(dir.path(), Arc::new(NoKeeper));
        let (holder, engine) = (Arc::clone(&worker.holder), Arc::clone(&worker.engine));
        let front_end = open(FrontEndKind::Cachefiles, holder, engine, &dir.path().join("cache")).unwrap();
        Some(Self { front_end, worker, dir })
    }

    /// The image, to be mounted as `id` on a directory of that name.
    fn spec(&self, id: &str) -> MountSpec {
        let target = self.dir.path().join(id);
        let _ = fs::create_dir(&target);
        MountSpec { id: id.to_owned(), target, ..self.worker.spec.clone() }
    }

    /// Bytes of the kernel's own objects.
    fn kernel_bytes(&self) -> u64 {
        blocks(&self.dir.path().join("cache/kernel"))
    }
}

fn blocks(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| {
        let path = entry.path();
        if path.is_dir() { blocks(&path) } else { entry.metadata().map_or(0, |meta| meta.blocks() * 512) }
    });
    below.sum()
}

fn check(target: &std::path::Path) {
    assert!(fs::read(target.join("big")).unwrap() == noise(BIG, 1), "big");
    for n in 0..60 {
        let found = fs::read(target.join(format!("dir/small-{n}"))).unwrap();
        assert!(found == noise(100 + 337 * n, n as u64), "small-{n}");
    }
}

#[test]
fn p2_mounts_of_one_image_share_its_blobs() {
    let Some(rig) = Rig::new() else { return };
    let specs = ["one", "two", "three"].map(|id| rig.spec(id));
    let _unmount: Vec<_> = specs.iter().map(|spec| Unmount(spec.target.clone())).collect();
    let mounts = specs.clone().map(|spec| rig.front_end.mount(spec).unwrap());
    for spec in &specs {
        check(&spec.target);
    }
    assert!(rig.worker.source.bytes.load(Ordering::Relaxed) <= rig.worker.blob.size(), "nothing came twice");
    // The mounts go one by one; what is left reads on.
    for (mounted, left) in mounts.iter().zip([&specs[1..], &specs[2..], &[]]) {
        mounted.unmount(false).unwrap();
        drop_caches();
        for spec in left {
            check(&spec.target);
        }
    }
    let begun = std::time::Instant::now();
    while !rig.front_end.is_idle() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "the kernel has closed everything");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn what_the_kernel_has_is_not_asked_for_again_after_a_new_mount() {
    let Some(rig) = Rig::new() else { return };
    let spec = rig.spec("one");
    let _unmount = Unmount(spec.target.clone());
    let mounted = rig.front_end.mount(spec.clone()).unwrap();
    check(&spec.target);
    mounted.unmount(false).unwrap();
    drop_caches();
    let before = (rig.kernel_bytes(), reads(&rig));
    assert!(before.0 >= rig.worker.blob.size(), "the kernel has a copy");
    let spec = rig.spec("one");
    let mounted = rig.front_end.mount(spec.clone()).unwrap();
    check(&spec.target);
    assert_eq!(reads(&rig), before.1, "Larder's cache was read again");
    mounted.unmount(false).unwrap();
}

/// Reads of Larder's own cache.
fn reads(rig: &Rig) -> u64 {
    rig.worker.blob.cookie().volume().counts().reads
}

#[test]
fn p1_a_new_binding_begins_with_nothing_and_is_filled_from_the_cache() {
    let Some(rig) = Rig::new() else { return };
    let spec = rig.spec("one");
    let _unmount = Unmount(spec.target.clone());
    let mounted = rig.front_end.mount(spec.clone()).unwrap();
    check(&spec.target);
    mounted.unmount(false).unwrap();
    drop(mounted);
    let Rig { front_end, worker, dir } = rig;
    drop(front_end);
    // Somebody damages what the kernel would take for valid.
    damage(&dir.path().join("cache/kernel"));
    let fetched = worker.source.bytes.load(Ordering::Relaxed);
    let (holder, engine) = (Arc::clone(&worker.holder), Arc::clone(&worker.engine));
    let front_end = open(FrontEndKind::Cachefiles, holder, engine, &dir.path().join("cache")).unwrap();
    let mounted = front_end.mount(spec.clone()).unwrap();
    check(&spec.target);
    assert_eq!(worker.source.bytes.load(Ordering::Relaxed), fetched, "nothing is fetched again");
    mounted.unmount(false).unwrap();
}

fn damage(path: &std::path::Path) {
    let entries: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in entries {
        if path.is_dir() {
            damage(&path);
        } else {
            let len = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; len], 0).unwrap();
        }
    }
}

#[test]
fn two_mounts_cannot_have_one_id() {
    let Some(rig) = Rig::new() else { return };
    let spec = rig.spec("one");
    let _unmount = Unmount(spec.target.clone());
    let mounted = rig.front_end.mount(spec.clone()).unwrap();
    let other = MountSpec { target: rig.spec("two").target, ..spec.clone() };
    let error = rig.front_end.mount(other).err().expect("its metadata would be the other's");
    assert!(matches!(error, larder_mount::Error::NameInUse { .. }), "{error}");
    check(&spec.target);
    mounted.unmount(false).unwrap();
}

/// What Larder does not know is refused, and disturbs nobody.
#[test]
fn a_mount_that_is_none_of_ours_is_refused() {
    let Some(rig) = Rig::new() else { return };
    let spec = rig.spec("one");
    let _unmount = Unmount(spec.target.clone());
    let mounted = rig.front_end.mount(spec.clone()).unwrap();
    let context = rustix::mount::fsopen("erofs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_set_string(&context, "fsid", "stranger").unwrap();
    rustix::mount::fsconfig_create(&context).expect_err("nobody has entered this name");
    check(&spec.target);
    mounted.unmount(false).unwrap();
}
