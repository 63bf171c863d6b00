//! A real file system that is full: an error that says so, and nothing marked that is not there.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{Backend, CookieKey, Error, ObjectSpec, Run, VolumeKey};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const PIECE: usize = 64 << 10;

/// A tmpfs of 2 MiB that goes away with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where it cannot be mounted, which is said.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        match mount("larder-test", dir.path(), "tmpfs", MountFlags::empty(), Some(c"size=2m")) {
            Ok(()) => Some(Self(dir)),
            Err(errno) => {
                eprintln!("skipped: a tmpfs of limited size cannot be mounted here ({errno}); run as root");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open_cache(&self) -> Cachefiles {
        let boot_id = BootId::of_this_machine().expect("/proc is mounted");
        Cachefiles::open(Config::new(self.path("cache"), boot_id, Arc::new(NoHolder)))
            .expect("a tmpfs is fit")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).expect("it was mounted");
    }
}

#[test]
fn p4_a_cache_on_a_full_disk_is_opened_again_and_what_is_in_it_is_read() {
    let Some(disk) = SmallDisk::new() else { return };
    let (volume, key) = (VolumeKey::new("v").expect("valid"), CookieKey::new("k").expect("valid"));
    for is_clean in [true, false] {
        let cache = disk.open_cache();
        let object = cache.acquire(&volume, &key, &ObjectSpec::of_size(1 << 20)).expect("sparse");
        object.write(0, &[7; PIECE]).expect("space");
        object.commit().expect("space");
        drop(object);
        if is_clean {
            drop(cache);
        } else {
            // As when its process is killed: it has not said that it ended.
            std::mem::forget(cache);
            fs::remove_file(disk.path("cache/lock")).expect("there");
        }
        let others = disk.path("others");
        let mut file = fs::File::create(&others).expect("space");
        while file.write_all(&[1; 4096]).is_ok() {}
        let cache = disk.open_cache();
        let object = cache.acquire(&volume, &key, &ObjectSpec::of_size(1 << 20)).expect("there");
        assert_eq!(object.probe(0), Run::Present { until: PIECE as u64 });
        let mut buf = vec![0; PIECE];
        assert_eq!(object.read_at(0, &mut buf).expect("readable"), PIECE);
        assert!(buf.iter().all(|byte| *byte == 7));
        drop((object, cache));
        fs::remove_file(&others).expect("there");
    }
}

#[test]
fn p1_a_full_disk_is_an_error_of_its_own_and_marks_nothing() {
    let Some(disk) = SmallDisk::new() else { return };
    let cache = disk.open_cache();
    let (volume, key) = (VolumeKey::new("v").expect("valid"), |text| CookieKey::new(text).expect("valid"));

    let ballast = cache.acquire(&volume, &key("ballast"), &ObjectSpec::of_size(1 << 20)).expect("sparse");
    (0u64..8).for_each(|n| ballast.write(n * PIECE as u64, &[1; PIECE]).expect("space"));
    drop(ballast);
    assert!(cache.pin(&volume, &key("ballast")).expect("space"), "what is pinned is not culled");
    let object = cache.acquire(&volume, &key("large"), &ObjectSpec::of_size(8 << 20)).expect("sparse");
    let (at, failed) = (0u64..128)
        .map(|n| n * PIECE as u64)
        .find_map(|at| Some((at, object.write(at, &[7; PIECE]).err()?)))
        .expect("8 MiB do not fit into 2 MiB");
    assert!(matches!(failed, Error::NoSpace { .. }) && failed.hint().is_some(), "{failed:?}");
    assert_eq!(failed.errno(), rustix::io::Errno::NOSPC.raw_os_error());
    assert_eq!(object.probe(0), Run::Present { until: at });
    assert_eq!(object.present_bytes(), at);

    cache.remove(&volume, &key("ballast")).expect("idle");
    object.write(at, &[7; PIECE]).expect("there is room again");
    let mut buf = vec![0; PIECE];
    assert_eq!(object.read_at(at, &mut buf).expect("readable"), PIECE);
    assert!(buf.iter().all(|byte| *byte == 7));
}
