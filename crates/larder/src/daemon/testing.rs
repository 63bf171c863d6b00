//! What tests need of a daemon: one without a keeper, and mounts that do what the test says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use larder_mount::{Error, Identity, Mounted};
use larder_ondemand::Blob;

use super::live::{Cost, Live};
use super::record::{MountRecord, RecordFile};
use super::start::Options;
use super::{Daemon, worker};
use crate::cache_options::CacheOptions;
use crate::paths::Paths;

/// A door that is shut until it is opened.
#[derive(Default)]
pub struct Door {
    is_open: Mutex<bool>,
    opened: Condvar,
    came: AtomicUsize,
}

impl Door {
    /// Waits until it is open. Blocks.
    pub fn go_through(&self) {
        self.came.fetch_add(1, Ordering::SeqCst);
        let is_open = self.is_open.lock().expect("no panic");
        drop(self.opened.wait_while(is_open, |is_open| !*is_open).expect("no panic"));
    }
}

/// Who opens a door: with its end at the latest, so that a test that fails ends.
#[derive(Default)]
pub struct Doorkeeper(Arc<Door>);

impl Doorkeeper {
    /// The door.
    pub fn door(&self) -> Arc<Door> {
        Arc::clone(&self.0)
    }

    /// Opens it.
    pub fn open(&self) {
        *self.0.is_open.lock().expect("no panic") = true;
        self.0.opened.notify_all();
    }

    /// Waits until somebody stands before it.
    pub async fn somebody_comes(&self) {
        until(|| self.0.came.load(Ordering::SeqCst) > 0).await;
    }
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        self.open();
    }
}

/// Waits until `is_so`.
pub async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// A mount in memory.
pub struct FakeMount {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Whoever unmounts waits before it.
    pub door: Option<Arc<Door>>,
    /// Whether it is in use for who asks lazily, or not.
    pub is_busy: BTreeSet<bool>,
}

impl FakeMount {
    /// One that does as it is told, at once.
    pub fn at(target: &str) -> Self {
        Self { target: target.into(), door: None, is_busy: BTreeSet::new() }
    }
}

impl Mounted for FakeMount {
    fn target(&self) -> &Path {
        &self.target
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }

    fn unmount(&self, lazy: bool) -> Result<(), Error> {
        self.door.iter().for_each(|door| door.go_through());
        if self.is_busy.contains(&lazy) {
            return Err(Error::Busy { target: self.target.clone() });
        }
        Ok(())
    }

    fn is_gone(&self) -> bool {
        true
    }

    fn on_complete(&self, _: &Arc<Blob>) {}
}

/// A daemon whose files lie in `dir`.
pub fn daemon(dir: &Path) -> Arc<Daemon> {
    let paths = Paths::choose(Some(dir)).expect("a short path");
    paths.create().expect("room");
    let options = Options { verbose: 0, limits: CacheOptions::default() };
    worker::open(paths, options, None, Arc::default()).expect("the directory is empty").0
}

impl Daemon {
    /// Has `mount` in the table, of an image of `devices`.
    pub fn add_mount(&self, mount: FakeMount, devices: Vec<Arc<Blob>>) -> Arc<Live> {
        let target = mount.target.clone();
        let (image, frontend) = ("an image".to_owned(), "fuse".to_owned());
        let live = Arc::new(Live {
            record: MountRecord::new(target.clone(), image, false, frontend, String::new()),
            record_file: RecordFile::default(),
            image_bytes: 0,
            opening: Cost::default(),
            metadata: None,
            metadata_blob: None,
            metadata_stored_bytes: 0,
            devices,
            _sources: Vec::new(),
            tree: None,
            mounted: Box::new(mount),
        });
        self.mounts.reserve(&target).expect("it is free").fill(Arc::clone(&live));
        live
    }
}
