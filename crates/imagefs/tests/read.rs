//! Files read through cookies: the right bytes, cold and warm, or one error.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_erofs::{
    DeviceTag, Image, Inode,
    writer::{Attributes, Dictionary, Options, Tree, write_data},
};
use larder_fscache::{AuxData, Cache, CookieKey, ObjectSpec, VolumeKey, memory::Memory};
use larder_image::{
    ChunkTable,
    chunk::{Encoding, IndexBuilder, LayerFacts},
};
use larder_imagefs::{Error, ImageFs};
use larder_ondemand::{Blob, Engine, EngineConfig};
use larder_remote::{BlobRange, RangeSource};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

/// A blob in memory that counts what it gives and can fail.
struct Source {
    data: Bytes,
    asked: Mutex<Vec<BlobRange>>,
    fails: AtomicBool,
}

#[async_trait]
impl RangeSource for Source {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn describe(&self) -> String {
        "memory".into()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, larder_remote::Error> {
        self.asked.lock().expect("no test panics here").push(range);
        if self.fails.load(SeqCst) {
            let (place, range) = (self.describe(), range.to_string());
            return Err(larder_remote::Error::Status { place, range, status: 500, retry_after: None });
        }
        let at = |n: u64| usize::try_from(n).expect("small");
        Ok(self.data.slice(at(range.start())..at(range.end())))
    }
}

struct Fixture {
    fs: ImageFs,
    sources: Vec<Arc<Source>>,
    files: Files,
}

fn noise(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// Files by name.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// Sizes just over and under each boundary, holes, the same content twice, content of another image.
fn files() -> (Files, Files) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut files = Files::new();
    for len in [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131_072, 400_000] {
        files.insert(format!("of-{len}").into_bytes(), noise(&mut random, len));
    }
    let mut sparse = vec![0; 700_000];
    sparse[200_000..200_010].copy_from_slice(b"in between");
    sparse[650_000..].fill(7);
    files.insert(b"sparse".to_vec(), sparse);
    files.insert(b"zeros".to_vec(), vec![0; 100_000]);
    files.insert(b"twice".to_vec(), files[&b"of-400000"[..]].clone());

    let other: Files = [(b"base".to_vec(), noise(&mut random, 300_000))].into();
    let mut mixed = noise(&mut random, 65_536);
    mixed.extend_from_slice(&other[&b"base"[..]][..131_072]);
    mixed.extend(noise(&mut random, 65_536));
    mixed.extend_from_slice(&other[&b"base"[..]][131_072..262_144]);
    mixed.extend(vec![0; 65_536]);
    mixed.extend(noise(&mut random, 10));
    // Cut where the base is cut: a chunk of the one is a chunk of the other.
    files.insert(b"mixed".to_vec(), mixed);
    (files, other)
}

fn tree(files: &Files) -> Tree {
    let mut tree = Tree::new();
    for (name, contents) in files {
        tree.add_file(name, contents.clone(), &Attributes::default()).expect("a fresh name");
    }
    tree
}

fn tags(count: usize) -> Vec<DeviceTag> {
    (0..count).map(|n| DeviceTag::new(format!("device {n}").as_bytes()).expect("short")).collect()
}

fn write(files: &Files, dictionaries: Vec<Dictionary>) -> (Image, Vec<u8>) {
    let options = Options { jobs: NonZero::<usize>::MIN, dictionaries, ..Options::default() };
    let (mut blob, mut metadata) = (Vec::new(), Vec::new());
    let data = write_data(tree(files), &options, &mut blob).expect("memory");
    data.write_metadata(&tags(data.devices().len()), &mut metadata).expect("memory");
    (Image::open(metadata).expect("what was written can be read"), blob)
}

fn blob(name: &str, source: &Arc<Source>) -> Arc<Blob> {
    let mut builder = IndexBuilder::new(Encoding::Raw);
    let mut at = 0;
    for chunk in source.data.chunks(16 << 10) {
        builder.push(at, at, &Sha256::digest(chunk));
        at += chunk.len() as u64;
    }
    let digest = format!("sha256:{}", "00".repeat(32)).parse().expect("a digest");
    let facts = LayerFacts { blob: &digest, encoding: Encoding::Raw, data_end: at };
    let table = ChunkTable::bind(builder.finish(at).expect("ascending"), facts).expect("it fits");
    let volume = VolumeKey::new("volume").expect("a key");
    let key = CookieKey::new(name).expect("a key");
    let volume = Cache::new(Memory::new()).acquire_volume(&volume, &AuxData::default()).expect("memory");
    let resources = volume.open(&key, &ObjectSpec::of_size(at)).expect("memory");
    Blob::new(name, resources, Arc::new(table), Arc::clone(source) as Arc<dyn RangeSource>)
}

impl Fixture {
    /// Must be called on a runtime.
    fn new() -> Self {
        let (files, other) = files();
        let (base, base_blob) = write(&other, Vec::new());
        let mut read_base = |_: larder_erofs::DeviceId, at: larder_erofs::PhysicalAddr, buf: &mut [u8]| {
            let at = usize::try_from(at.get()).expect("small");
            buf.copy_from_slice(&base_blob[at..at + buf.len()]);
            Ok(())
        };
        let dictionary = Dictionary::from_image(&base, 16, &mut read_base).expect("a sound image");
        let (image, data) = write(&files, vec![dictionary]);
        assert_eq!(image.devices().len(), 2, "the blob and the dictionary's");
        let source = |data: Vec<u8>| {
            Arc::new(Source { data: data.into(), asked: Mutex::default(), fails: AtomicBool::new(false) })
        };
        let sources = vec![source(data), source(base_blob)];
        let devices = sources.iter().zip(["data", "base"]).map(|(source, name)| blob(name, source)).collect();
        let config = EngineConfig { readahead_bytes_max: 0, ..EngineConfig::default() };
        let engine = Engine::new(Handle::current(), config);
        Self { fs: ImageFs::new(image, devices, engine).expect("two devices"), sources, files }
    }

    fn inode(&self, name: &[u8]) -> Inode {
        let nid = self.fs.image().resolve(name).expect("a sound image").expect("it is there");
        self.fs.image().inode(nid).expect("a sound image")
    }

    fn expected(&self, name: &[u8], at: usize, len: usize) -> &[u8] {
        let file = &self.files[name];
        &file[at.min(file.len())..(at + len).min(file.len())]
    }

    fn requests(&self) -> usize {
        self.sources.iter().map(|source| source.asked.lock().expect("no test panics here").len()).sum()
    }
}

#[tokio::test]
async fn every_file_reads_as_it_was_written_cold_and_warm() {
    let fixture = Fixture::new();
    for (name, contents) in &fixture.files {
        let inode = fixture.inode(name);
        let got = fixture.fs.read(&inode, 0, contents.len() + 100, None).await.expect("the sources are well");
        assert!(got == contents[..], "{}", String::from_utf8_lossy(name));
    }
    let cold = fixture.requests();
    for (name, contents) in &fixture.files {
        let inode = fixture.inode(name);
        let mut got = vec![1; contents.len() + 100];
        let len = fixture.fs.read_present(&inode, 0, &mut got).expect("the image is sound").expect("present");
        assert!(got[..len] == contents[..], "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(fixture.requests(), cold, "nothing is fetched for what is present");
}

#[tokio::test]
async fn any_part_reads_right_and_is_short_only_at_the_end() {
    let fixture = Fixture::new();
    let names: Vec<&Vec<u8>> = fixture.files.keys().collect();
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..600 {
        let name = names[random.usize(..names.len())];
        let inode = fixture.inode(name);
        let (at, len) = (random.usize(..fixture.files[name].len() + 5000), random.usize(..200_000));
        let expected = fixture.expected(name, at, len);
        let mut buf = vec![1; len];
        let present = fixture.fs.read_present(&inode, at as u64, &mut buf).expect("the image is sound");
        if let Some(present) = present {
            assert!(buf[..present] == *expected, "{} at {at}", String::from_utf8_lossy(name));
        }
        let got = fixture.fs.read(&inode, at as u64, len, Some(1)).await.expect("the sources are well");
        assert!(got == *expected, "{} at {at}", String::from_utf8_lossy(name));
        assert_eq!(
            fixture.fs.read_present(&inode, at as u64, &mut buf).expect("the image is sound"),
            Some(expected.len())
        );
    }
}

#[tokio::test]
async fn holes_and_empty_files_need_no_source() {
    let fixture = Fixture::new();
    for source in &fixture.sources {
        source.fails.store(true, SeqCst);
    }
    let mut buf = vec![1; 100_000];
    let zeros = fixture.inode(b"zeros");
    assert_eq!(fixture.fs.read_present(&zeros, 0, &mut buf).expect("the image is sound"), Some(100_000));
    assert!(buf.iter().all(|byte| *byte == 0));
    let empty = fixture.inode(b"of-0");
    assert_eq!(fixture.fs.read_present(&empty, 0, &mut buf).expect("the image is sound"), Some(0));
    let beyond = fixture.fs.read(&zeros, u64::MAX, 10, None).await.expect("nothing there");
    assert!(beyond.is_empty());
    assert_eq!(fixture.requests(), 0);
}

#[tokio::test]
async fn one_bad_slice_fails_the_whole_read_and_the_next_read_tries_again() {
    let fixture = Fixture::new();
    let mixed = fixture.inode(b"mixed");
    let len = fixture.files[&b"mixed"[..]].len();
    fixture.sources[1].fails.store(true, SeqCst);
    let error = fixture.fs.read(&mixed, 0, len, None).await.expect_err("one device fails");
    assert!(matches!(error, Error::Fill { .. }), "{error:?}");
    assert_eq!(error.errno(), 5);
    let first =
        fixture.fs.read(&mixed, 0, 65_536, None).await.expect("what lies on the other device is fine");
    assert!(first == *fixture.expected(b"mixed", 0, 65_536));
    fixture.sources[1].fails.store(false, SeqCst);
    let got = fixture.fs.read(&mixed, 0, len, None).await.expect("the device is back");
    assert!(got == fixture.files[&b"mixed"[..]][..]);
}

#[tokio::test]
async fn slices_that_are_neighbours_on_a_device_are_one_request() {
    let fixture = Fixture::new();
    let inode = fixture.inode(b"of-400000");
    fixture.fs.read(&inode, 0, 262_144, None).await.expect("the sources are well");
    assert_eq!(fixture.requests(), 1);
    let stats = fixture.fs.devices()[0].stats();
    assert_eq!(stats.faults, 1);
    assert!((262_144..=262_144 + 32_768).contains(&stats.fetched_bytes), "whole chunks at either end");
}

#[tokio::test]
async fn an_image_with_another_number_of_devices_is_refused() {
    let fixture = Fixture::new();
    let engine = Engine::new(Handle::current(), EngineConfig::default());
    let one = vec![Arc::clone(&fixture.fs.devices()[0])];
    let error =
        ImageFs::new(fixture.fs.image().clone(), one, Arc::clone(&engine)).expect_err("one is missing");
    assert!(matches!(error, Error::DeviceCount { expected: 2, found: 1 }));
}

#[tokio::test]
async fn a_device_that_is_shorter_than_the_image_says_is_an_error() {
    let fixture = Fixture::new();
    let engine = Engine::new(Handle::current(), EngineConfig::default());
    let short = Arc::new(Source {
        data: fixture.sources[0].data.slice(..20_000),
        asked: Mutex::default(),
        fails: AtomicBool::new(false),
    });
    let devices = vec![blob("short", &short), Arc::clone(&fixture.fs.devices()[1])];
    let fs = ImageFs::new(fixture.fs.image().clone(), devices, engine).expect("two devices");
    let inode = fixture.inode(b"of-400000");
    let error = fs.read(&inode, 0, 400_000, None).await.expect_err("it ends too early");
    assert!(matches!(error, Error::OutsideDevice { .. }), "{error:?}");
    let error = fs.read_present(&inode, 0, &mut [0; 400_000]).expect_err("it ends too early");
    assert!(matches!(error, Error::OutsideDevice { .. }), "{error:?}");
}
