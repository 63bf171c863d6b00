//! What the kernel reads itself through a `fuse` mount has the bytes that the metadata say, whatever an image claims.

use std::fs;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use larder_erofs::DeviceTag;
use larder_erofs::writer::{Attributes, BlobSink, Options, Tree, write_data};
use larder_fscache::{ObjectRange, ObjectSpec};
use larder_mount::{FrontEndKind, Mounted, open};
use larder_ondemand::Blob;
use larder_remote::RangeSource;

use crate::common::{self, MapHolder, Source, Unmount, Worker, noise, scratch, table};

/// No multiple of a block: the end lies in the blob of all files.
const BYTES: usize = 300_001;
/// Where that begins: less than a chunk of 64 KiB before the end.
const TAIL_AT: usize = 4 << 16;

/// The blob of all files, and those of single ones.
#[derive(Default)]
struct Blobs {
    shared: Vec<u8>,
    own: Vec<Vec<u8>>,
}

impl BlobSink for Blobs {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.shared.write(data)
    }

    fn begin_own(&mut self) -> io::Result<()> {
        self.own.push(Vec::new());
        Ok(())
    }

    fn write_own(&mut self, data: &[u8]) -> io::Result<()> {
        self.own.last_mut().expect("it was begun").write(data)
    }

    fn end_own(&mut self, keep: bool) -> io::Result<()> {
        assert!(keep, "no two files are the same");
        Ok(())
    }
}

/// Builds an image of two files, one of which ends in other bytes than its own blob; returns the blobs of single files.
fn build(dir: &Path) -> Vec<Vec<u8>> {
    let mut tree = Tree::new();
    for (name, seed) in [("honest", 1), ("lying", 2)] {
        tree.add_file(name.as_bytes(), noise(BYTES, seed), &Attributes::default()).expect("new");
    }
    let options = Options { own_blob_bytes: NonZero::new(1), ..Options::default() };
    let mut blobs = Blobs::default();
    let data = write_data(tree, &options, &mut blobs).expect("the tree can be written");
    let tags = vec![DeviceTag::EMPTY; data.devices().len()];
    let mut metadata = Vec::new();
    data.write_metadata(&tags, &mut metadata).expect("the metadata can be written");
    let honest = (BYTES - TAIL_AT).next_multiple_of(4096);
    blobs.shared[honest..][..BYTES - TAIL_AT].copy_from_slice(&tail_of_lying());
    fs::write(dir.join("metadata"), metadata).expect("disk");
    fs::write(dir.join("blob"), blobs.shared).expect("disk");
    blobs.own
}

fn tail_of_lying() -> Vec<u8> {
    noise(BYTES - TAIL_AT, 3)
}

/// Brings all of a blob and makes it durable.
fn complete(worker: &Worker, mounted: &dyn Mounted, blob: &Arc<Blob>) {
    let whole = ObjectRange::at(0, blob.size());
    worker.runtime.block_on(worker.engine.prefetch(blob, whole)).expect("the source is here");
    blob.resources().object().commit().expect("disk");
    mounted.on_complete(blob);
}

#[test]
fn p1_a_file_is_passed_through_only_if_its_blob_has_the_bytes_of_the_metadata() {
    let dir = scratch();
    if common::cannot(FrontEndKind::Fuse, dir.path()) || !rustix::process::geteuid().is_root() {
        return println!("skipped: only root may have the kernel read a local file in place of another");
    }
    let own = build(dir.path());
    let mut worker = Worker::open(dir.path(), Arc::new(MapHolder::default()));
    for data in own {
        let (table, volume) = (table(&data), worker.blob.cookie().volume());
        let resources = volume.open(table.identity(), &ObjectSpec::of_size(table.decoded_size()));
        let source = Source::new(data) as Arc<dyn RangeSource>;
        worker.spec.devices.push(Blob::new("own", resources.expect("room"), table, source));
    }
    worker.spec.whole_files = true;
    let (holder, engine) = (Arc::clone(&worker.holder), Arc::clone(&worker.engine));
    let front_end =
        open(FrontEndKind::Fuse, holder, engine, &dir.path().join("cache")).expect("it works here");
    let _unmount = Unmount(worker.spec.target.clone());
    let mounted = front_end.mount(worker.spec.clone()).expect("it can be mounted");
    let lying = [&noise(BYTES, 2)[..TAIL_AT], &tail_of_lying()].concat();
    let truth = [("honest", noise(BYTES, 1)), ("lying", lying)];
    for when in ["cold", "complete", "again"] {
        for (name, truth) in &truth {
            let path = worker.spec.target.join(name);
            let file = fs::File::open(&path).expect("there");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a file");
            let decisions = || worker.blob.cookie().volume().counts().decisions;
            let before = decisions();
            let mut found = vec![0; BYTES + 1];
            let mut at = 0;
            while at < BYTES {
                let len = 4096.min(found.len() - at);
                at += file.read_at(&mut found[at..at + len], at as u64).expect("readable");
            }
            assert!(found[..at] == truth[..], "{when}: {name} has other bytes");
            let is_passed = decisions() == before;
            let why =
                "the kernel registers local files since 6.9, and forgets nodes when it is told so since 6.18";
            if when == "again" && *name == "honest" && !is_passed {
                println!("skipped in part: {why}");
            }
            assert!(*name == "honest" || !is_passed, "{when}: the worker answers for {name}");
        }
        for blob in &worker.spec.devices {
            complete(&worker, &*mounted, blob);
        }
    }
    let keeps_its_pages = (0..20).any(|_| {
        // The worker learns of the last closing some time.
        thread::sleep(Duration::from_millis(100));
        let decisions = || worker.blob.cookie().volume().counts().decisions;
        let before = decisions();
        let file = fs::File::open(worker.spec.target.join("lying")).expect("there");
        file.read_exact_at(&mut [0; 4096], 0).expect("readable");
        decisions() == before
    });
    assert!(keeps_its_pages, "what is not passed through is forgotten at every close");
    mounted.unmount(true).expect("it is ours");
}
