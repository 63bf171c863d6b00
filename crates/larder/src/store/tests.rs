//! Images that open, share blobs and close, over a cache in a directory.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use larder_cachefiles::{BootId, Config, DescriptorHolder, NoHolder};
use larder_fscache::{Backend as _, ObjectRange};
use larder_mount::{FrontEndKind, MountSpec, Mounted};
use larder_ondemand::{Cause, EngineConfig};
use larder_remote::{BlobRange, RangeSource, ReadHere};
use tokio::task::yield_now;

use super::*;

/// A source that never answers.
struct Hangs;

#[async_trait]
impl RangeSource for Hangs {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn describe(&self) -> String {
        "a source that hangs".into()
    }

    async fn read_range(&self, _: BlobRange) -> Result<Bytes, larder_remote::Error> {
        std::future::pending().await
    }
}

fn layer() -> Layer {
    super::testing::layer(0, Arc::new(Hangs))
}

/// Keeps what a worker leaves to the next one.
#[derive(Default)]
struct Keeper(Mutex<BTreeMap<String, OwnedFd>>);

impl DescriptorHolder for Keeper {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.0.lock().expect("no panic").insert(name.to_owned(), fd.try_clone_to_owned()?);
        Ok(())
    }

    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.0.lock().expect("no panic").get(name).map(OwnedFd::try_clone).transpose()
    }

    fn release(&self, name: &str) {
        self.0.lock().expect("no panic").remove(name);
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().expect("no panic").keys().cloned().collect()
    }
}

fn store(dir: &Path) -> Store {
    store_with(dir, Arc::new(NoHolder), EngineConfig::default())
}

fn store_with(dir: &Path, holder: Arc<dyn DescriptorHolder>, engine: EngineConfig) -> Store {
    let boot_id = BootId::of_this_machine().expect("it has booted");
    let config = Config::new(dir.to_owned(), boot_id, holder);
    let engine = Engine::new(tokio::runtime::Handle::current(), engine);
    let cachefiles = Cachefiles::open(config).expect("the directory will do");
    Store::new(cachefiles, engine).expect("it is empty")
}

/// The metadata of `layer`, all of it written and nothing durable.
fn written(store: &Store, layer: &Layer) -> CacheResources {
    let resources = store.blobs.resources(layer).expect("room");
    resources.write(0, &vec![1; 1 << 20]).expect("room");
    assert!(resources.is_complete() && resources.object().sealed_file().is_none());
    resources
}

#[tokio::test]
async fn p1_metadata_that_is_complete_but_not_durable_is_made_so_before_it_is_mounted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, layer) = (store(dir.path()), layer());
    // As by another mount that is about to make it durable.
    let _written = written(&store, &layer);
    let (metadata, fetched_bytes) = store.metadata(&layer).await.expect("all of it is here");
    assert!(metadata.object().sealed_file().is_some());
    assert_eq!(fetched_bytes, 0);
}

#[tokio::test]
async fn p1_metadata_that_a_killed_worker_left_is_made_durable_before_the_next_one_mounts_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (layer, keeper) = (layer(), Arc::new(Keeper::default()));
    let killed = store_with(dir.path(), Arc::clone(&keeper) as _, EngineConfig::default());
    drop(written(&killed, &layer));
    drop(killed);

    let next = store_with(dir.path(), Arc::clone(&keeper) as _, EngineConfig::default());
    let left = next.blobs.resources(&layer).expect("it is here");
    assert!(left.is_complete() && left.object().sealed_file().is_none(), "by its live map alone");
    let (metadata, fetched_bytes) = next.metadata(&layer).await.expect("all of it is here");
    assert!(metadata.object().sealed_file().is_some());
    assert_eq!(fetched_bytes, 0);
    drop((left, metadata, next, keeper));

    let after_power_loss = store(dir.path());
    assert!(after_power_loss.blobs.resources(&layer).expect("it is here").is_complete());
}

#[tokio::test]
async fn p1_metadata_that_cannot_be_made_durable_is_not_mounted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, layer) = (store(dir.path()), layer());
    let written = written(&store, &layer);
    // Who keeps no name, keeps nothing: after a power loss nobody finds the file.
    std::fs::remove_file(path_of(&written).expect("a file")).expect("it is there");
    let error = store.metadata(&layer).await.expect_err("it is not durable");
    assert!(format!("{error:#}").contains("backing file's name"), "{error:#}");
}

#[tokio::test]
async fn p4_a_blob_that_was_opened_while_another_image_closes_is_not_withdrawn_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, layer) = (store(dir.path()), layer());
    let keys = [layer.table.identity().clone()];
    drop(store.blobs.open(&layer).expect("room"));
    // The first has let go of its blob, and has still to leave.
    let second = store.blobs.open(&layer).expect("room").blob;
    assert!(store.blobs.leave(&keys).is_empty(), "the second image has it");
    assert!(Arc::ptr_eq(&store.blobs.leave(&keys)[0], &second));
}

#[tokio::test]
async fn a_blob_is_withdrawn_with_the_last_image_that_uses_it_and_its_cookie_is_free_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, layer) = (store(dir.path()), layer());
    let engine = Arc::clone(&store.engine);
    let keys = Keys { metadata: None, blobs: vec![layer.table.identity().clone()] };
    let first = store.blobs.open(&layer).expect("room").blob;
    let second = store.blobs.open(&layer).expect("room").blob;
    assert!(Arc::ptr_eq(&first, &second));
    drop(second);
    let (told, mut result) = tokio::sync::mpsc::unbounded_channel();
    let demand = Cause::Demand { pid: None };
    engine.spawn_fill(&first, ObjectRange::at(0, 4096), demand, move |result| drop(told.send(result)));

    while engine.questions() == 0 {
        yield_now().await;
    }
    store.close(keys.clone()).await;
    assert_eq!(engine.questions(), 1, "the other image's reader waits on");

    // The mount is gone; only the engine has the blob.
    drop(first);
    timeout(Duration::from_secs(30), store.close(keys.clone())).await.expect("nobody waits for the source");
    result.recv().await.expect("told").expect_err("the blob was withdrawn");
    assert_eq!(engine.questions(), 0);
    let volume = VolumeKey::new(VOLUME).expect("a key");
    store.cache.backend().remove(&volume, &keys.blobs[0]).expect("nobody has it any more");
    let again = store.blobs.open(&layer).expect("room").blob;
    assert!(Arc::strong_count(&again) == 1 && engine.objects() == 0);
}
/// A file of this machine whose file system hangs until told otherwise.
#[derive(Default)]
struct HangsHere {
    is_well: Mutex<bool>,
    changed: Condvar,
    has_hung: AtomicBool,
}

impl HangsHere {
    fn end(&self) {
        *self.is_well.lock().expect("no panic") = true;
        self.changed.notify_all();
    }
}

#[async_trait]
impl RangeSource for HangsHere {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn describe(&self) -> String {
        "a file system that hangs".into()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, larder_remote::Error> {
        self.read_here(range, Vec::new(), &|| ())
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        Some(self)
    }
}

impl ReadHere for HangsHere {
    fn file_system(&self) -> u64 {
        0
    }

    fn read_here(&self, range: BlobRange, _: Vec<u8>, _: &dyn Fn()) -> Result<Bytes, larder_remote::Error> {
        self.has_hung.store(true, Ordering::SeqCst);
        let is_well = self.is_well.lock().expect("no panic");
        drop(self.changed.wait_while(is_well, |is_well| !*is_well));
        Ok(vec![0; usize::try_from(range.len()).expect("fits")].into())
    }
}

/// Ends the hanging, also of a test that fails: its runtime waits for the threads.
struct Ends(Arc<HangsHere>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[tokio::test]
async fn p4_an_image_is_closed_while_its_file_system_hangs_and_its_cookie_is_free_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let hangs = Ends(Arc::default());
    let (store, layer) = (store(dir.path()), Layer { source: Arc::clone(&hangs.0) as _, ..layer() });
    let key = layer.table.identity().clone();
    let Opened { blob, source: lease } = store.blobs.open(&layer).expect("room");
    let (told, mut result) = tokio::sync::mpsc::unbounded_channel();
    let demand = Cause::Demand { pid: None };
    store.engine.spawn_fill(&blob, ObjectRange::at(0, 4096), demand, move |result| drop(told.send(result)));
    while !hangs.0.has_hung.load(Ordering::SeqCst) {
        yield_now().await;
    }
    drop((blob, lease));
    timeout(Duration::from_secs(60), store.close(Keys { metadata: None, blobs: vec![key.clone()] }))
        .await
        .expect("nobody waits for the file system");
    result.recv().await.expect("told").expect_err("the blob was withdrawn");
    let volume = VolumeKey::new(VOLUME).expect("a key");
    store.cache.backend().remove(&volume, &key).expect("nobody has it any more");
    drop(store.blobs.open(&layer).expect("room"));
}

/// A front end that mounts nothing.
struct BringsMetadata;

impl FrontEnd for BringsMetadata {
    fn kind(&self) -> FrontEndKind {
        FrontEndKind::Fuse
    }

    fn brings_metadata(&self) -> bool {
        true
    }

    fn mount(&self, _: MountSpec) -> Result<Box<dyn Mounted>, larder_mount::Error> {
        unimplemented!("it mounts nothing")
    }

    fn resume(&self, _: MountSpec) -> Result<Box<dyn Mounted>, larder_mount::Error> {
        unimplemented!("it mounts nothing")
    }

    fn abandon(&self, _: &str) -> Result<(), larder_mount::Error> {
        Ok(())
    }

    fn kept_ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn hand_over(&self) {}
}

#[tokio::test]
async fn p4_an_image_that_cannot_be_opened_leaves_nobody_at_work_for_its_metadata() {
    let dir = tempfile::tempdir().expect("a directory");
    let hangs = Ends(Arc::default());
    let metadata = Layer { source: Arc::clone(&hangs.0) as _, ..layer() };
    let key = metadata.table.identity().clone();
    let config = EngineConfig { deadline: Duration::from_millis(100), ..EngineConfig::default() };
    let store = store_with(dir.path(), Arc::new(NoHolder), config);
    let image = LoadedImage {
        manifest_digest: metadata.descriptor.digest().clone(),
        manifest: Bytes::new(),
        config: Bytes::new(),
        metadata,
        devices: Vec::new(),
        image_bytes: 0,
    };
    let front_end = Arc::new(BringsMetadata) as Arc<dyn FrontEnd>;
    let opened = timeout(Duration::from_secs(60), store.open_for(&front_end, image)).await;
    assert!(opened.expect("nobody waits for the file system").is_err(), "its metadata did not come");
    assert_eq!(store.engine.objects(), 0);
    let volume = VolumeKey::new(VOLUME).expect("a key");
    store.cache.backend().remove(&volume, &key).expect("nobody has it any more");
}
