//! Complete objects that are let go get fs-verity, where the file system has it, though the keeper closes its copy of the
//! descriptor late. Runs in `cargo xtask uml`, whose disks have it; elsewhere it says that it is skipped.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder_cachefiles::{BootId, Cachefiles, Config, DescriptorHolder};
use larder_fscache::{AuxData, Backend as _, CookieKey, ObjectSpec, VolumeKey};
use rustix::fs::{AtFlags, StatxFlags};

const SIZE: usize = 64 << 10;

/// Keeps descriptors, and closes none until it is told to: as a keeper does that is busy.
#[derive(Default)]
struct Keeper {
    kept: Mutex<HashMap<String, OwnedFd>>,
    released: Mutex<Vec<OwnedFd>>,
}

impl DescriptorHolder for Keeper {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.kept.lock().expect("no panic").insert(name.to_owned(), fd.try_clone_to_owned()?);
        Ok(())
    }

    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.kept.lock().expect("no panic").get(name).map(OwnedFd::try_clone).transpose()
    }

    fn release(&self, name: &str) {
        let fd = self.kept.lock().expect("no panic").remove(name);
        self.released.lock().expect("no panic").extend(fd);
    }

    fn names(&self) -> Vec<String> {
        self.kept.lock().expect("no panic").keys().cloned().collect()
    }
}

#[test]
fn p8_a_complete_object_gets_fs_verity_once_the_keeper_has_closed_it() {
    if std::env::var_os("LARDER_UML").is_none() {
        eprintln!("skipped: only the disks of `cargo xtask uml` are known to have fs-verity");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let keeper = Arc::new(Keeper::default());
    let boot_id = BootId::of_this_machine().expect("this machine has booted");
    let cache =
        Cachefiles::open(Config::new(dir.path().join("cache"), boot_id, keeper.clone())).expect("fit");
    let (volume, key) = (VolumeKey::new("v").expect("valid"), CookieKey::new("c").expect("valid"));
    let spec = ObjectSpec::of_size(SIZE as u64);
    cache.acquire_volume(&volume, &AuxData::default()).expect("room");
    let object = cache.acquire(&volume, &key, &spec).expect("room");
    let data = object.path().expect("it has a file").to_owned();
    object.write(0, &[7; SIZE]).expect("room");
    object.commit().expect("a healthy disk");
    assert!(object.is_complete());
    drop(object);
    cache.relinquish(&volume, &key).expect("nobody uses it");
    for _ in 0..3 {
        cache.maintain().expect("a healthy disk");
        std::thread::sleep(Duration::from_millis(20));
        assert!(!is_sealed(&data), "it is open for writing");
    }
    keeper.released.lock().expect("no panic").clear();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_sealed(&data) {
        assert!(Instant::now() < deadline, "it gets no fs-verity");
        cache.maintain().expect("a healthy disk");
        std::thread::sleep(Duration::from_millis(20));
    }
    let taken = || fs::metadata(&data).expect("there").blocks() * 512;
    while cache.usage().stored_bytes != taken() {
        assert!(Instant::now() < deadline, "the tree of digests is not charged: {:?}", cache.usage());
        cache.maintain().expect("a healthy disk");
        std::thread::sleep(Duration::from_millis(20));
    }
    let object = cache.acquire(&volume, &key, &spec).expect("it is there");
    let mut bytes = vec![0; SIZE];
    let file = fs::File::from(object.file().try_clone_to_owned().expect("descriptors are left"));
    file.read_exact_at(&mut bytes, 0).expect("it can be read");
    assert!(object.is_complete() && bytes.iter().all(|byte| *byte == 7));
}

fn is_sealed(path: &Path) -> bool {
    // STATX_ATTR_VERITY, include/uapi/linux/stat.h.
    const VERITY: u64 = 0x0010_0000;
    let file = fs::File::open(path).expect("there");
    let told = rustix::fs::statx(file.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).expect("told");
    told.stx_attributes.bits() & VERITY != 0
}
