//! What the tests share: a tree with data of every compressibility, and ways to read an image back.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use larder_erofs::writer::{Attributes, Tree};
use larder_image::build::{BuildOptions, BuildReport, Compression, build};
use larder_image::{Digest, Layer, LayoutRepository, LoadedImage, Version, load};

/// Bytes that no compressor shrinks, different for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// Bytes that every compressor shrinks.
pub fn prose(seed: u64, len: usize) -> Vec<u8> {
    format!("what has been fetched once, {seed} times, is local for ever; ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(len)
        .collect()
}

/// The files of the sample: many small ones, a few over several chunks, one with a duplicate.
pub fn files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = (0..300).map(|n| (format!("small/{n:03}"), prose(3, 17 * n))).collect();
    files.push(("large/noise".to_owned(), noise(1, 1_500_000)));
    files.push(("large/prose".to_owned(), prose(1, 2_000_001)));
    files.push(("large/again".to_owned(), noise(1, 1_500_000)));
    files.push(("empty".to_owned(), Vec::new()));
    files
}

pub fn tree_of(files: &[(String, Vec<u8>)]) -> Tree {
    let mut tree = Tree::new();
    for (path, bytes) in files {
        tree.add_file(path.as_bytes(), bytes.clone(), &Attributes::default()).expect("a name that is free");
    }
    tree
}

pub fn options(compression: Compression, jobs: usize) -> BuildOptions<'static> {
    let jobs = NonZero::new(jobs).expect("at least one");
    BuildOptions { compression, jobs, tag: "v1".to_owned(), ..BuildOptions::default() }
}

pub fn build_sample(out: &Path, compression: Compression) -> BuildReport {
    build(tree_of(&files()), &options(compression, 2), out).expect("the sample can be built")
}

pub fn tag(name: &str) -> Version {
    Version::tag(name).expect("a tag")
}

pub async fn load_from(dir: &Path, name: &str) -> Result<LoadedImage, larder_image::Error> {
    load(&LayoutRepository::open(dir)?, &tag(name)).await
}

/// All decoded bytes of a layer, chunk by chunk.
pub async fn read_layer(layer: &Layer) -> Result<Vec<u8>, larder_image::Error> {
    let mut all = Vec::new();
    for chunk in layer.table.chunks() {
        let stored = layer.source.read_range(chunk.stored).await.expect("a local file");
        all.extend_from_slice(&chunk.decode(chunk.verify(stored)?)?);
    }
    Ok(all)
}

pub fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.digest())
}

/// Changes a file in place.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("the file is there");
    change(&mut bytes);
    fs::write(path, bytes).expect("a temporary directory is writable");
}
