//! Merging image files: their layers opened, and the result written to a file.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use larder_erofs::writer::{Layer, MergeOptions, Tree};

use super::open::{LocalImage, Parts};
use crate::errors::{Kind, told};

/// Opens the layers, the lowest first, and merges their names.
///
/// # Errors
///
/// When a file cannot be read or is no image, or its devices are not those that it wants.
pub fn tree(layers: &[Parts], options: &MergeOptions) -> anyhow::Result<Tree> {
    let open = |parts: &Parts| -> anyhow::Result<Layer> {
        let image = LocalImage::open(parts)?;
        Ok(Layer::with_devices(image.image().clone(), image.devices().to_vec())?)
    };
    let layers = layers.iter().map(open).collect::<anyhow::Result<_>>()?;
    Ok(Tree::from_layers(layers, options)?)
}

/// Has a new file written; what was begun is removed when that fails.
///
/// # Errors
///
/// When the file exists, and those of `write`.
pub fn into_new_file<T>(
    path: &Path,
    write: impl FnOnce(&mut File) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut file = match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(told(
                Kind::BadRequest,
                format!("{}: exists", path.display()),
                "name a new file; nothing is replaced",
            ));
        }
        file => file.with_context(|| format!("{}: cannot be written", path.display()))?,
    };
    write(&mut file).inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// The files of a layer: `IMAGE`, or `IMAGE,DEVICE...`.
pub fn parts(text: &std::ffi::OsStr) -> Parts {
    use std::os::unix::ffi::OsStrExt as _;
    let mut files = text
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(|file| PathBuf::from(std::ffi::OsStr::from_bytes(file)));
    let image = files.next().unwrap_or_default();
    Parts { image, devices: files.collect(), offset: 0 }
}
