//! The demo's image: built into a layout directory by the same call as `larder build`.

use std::ffi::OsString;
use std::num::NonZero;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::thread;

use anyhow::Context as _;
use larder_erofs::writer::{Attributes, ScanOptions, Tree};
use larder_erofs::{FileType, Image};
use larder_image::build::{BuildOptions, build as build_image};
use larder_image::{LayoutRepository, LoadedImage, Version, load};
use larder_remote::BlobRange;

use super::tree::{Cut, Source};
use crate::output::progress::Progress;
use crate::runtime;

/// What the image is called in its layout.
pub const TAG: &str = "demo";

/// Builds the image of what `cut` takes of `source` into the layout directory `layout`, and opens it there.
///
/// # Errors
///
/// When a file cannot be read, or the layout not be written.
pub fn build(source: &Source, cut: &Cut, layout: &Path) -> anyhow::Result<LoadedImage> {
    let tree = tree(source, cut)?;
    let progress = Progress::bytes("building", Some(tree.total_bytes()));
    let set = |bytes| progress.set(bytes);
    let options = BuildOptions {
        jobs: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        tag: TAG.to_owned(),
        progress: Some(&set),
        ..BuildOptions::default()
    };
    build_image(tree, &options, layout)?;
    let repository = LayoutRepository::open(layout)?;
    Ok(runtime::for_command()?.block_on(load(&repository, &Version::tag(TAG)?))?)
}

/// Opens the image's metadata, whole in memory.
///
/// # Errors
///
/// When the layout has been damaged.
pub fn metadata(image: &LoadedImage) -> anyhow::Result<Image> {
    let layer = &image.metadata;
    let whole = BlobRange::at(0, layer.source.len()).context("a blob longer than 2^64")?;
    let stored = runtime::for_command()?.block_on(layer.source.read_range(whole))?;
    let mut decoded = Vec::new();
    for chunk in layer.table.chunks() {
        let range = usize::try_from(chunk.stored.start())?..usize::try_from(chunk.stored.end())?;
        anyhow::ensure!(range.end <= stored.len(), "the metadata ends early");
        decoded.extend_from_slice(&chunk.decode(chunk.verify(stored.slice(range))?)?);
    }
    Ok(Image::open(decoded)?)
}

fn tree(source: &Source, cut: &Cut) -> anyhow::Result<Tree> {
    let mut tree = Tree::new();
    let plain = Attributes::default();
    let at = source.at.as_os_str().as_bytes();
    tree.add_root_from(&source.directory, at, &ScanOptions::default(), &mut |entry| {
        let path = Path::new("/").join(OsString::from_vec(entry.path.to_vec()));
        let regular_bytes = (entry.kind == FileType::Regular).then_some(entry.size);
        source.on_host(&path).is_some_and(|host| cut.takes(&host, regular_bytes))
    })?;
    for (name, target) in &source.links {
        tree.add_symlink(name.as_bytes(), target.as_os_str().as_bytes(), &plain)?;
    }
    for name in &source.empty_dirs {
        let mode = if *name == "tmp" { 0o1777 } else { 0o755 };
        tree.add_dir(name.as_bytes(), &Attributes { mode, ..plain })?;
    }
    Ok(tree)
}
