//! An image of our own, with which the kernel is asked what it can do.

use std::io;

use larder_erofs::DeviceTag;
use larder_erofs::writer::{Attributes, Options, Tree, write_data};

/// An image of one file system block or a few, with so many empty files, named by their numbers.
pub(crate) fn scratch_image(files: usize) -> io::Result<Vec<u8>> {
    let mut tree = Tree::new();
    for name in 0..files {
        let added = tree.add_file(name.to_string().as_bytes(), Vec::new(), &Attributes::default());
        added.map_err(io::Error::other)?;
    }
    let data = write_data(tree, &Options::default(), &mut Vec::new()).map_err(io::Error::other)?;
    let tags = vec![DeviceTag::EMPTY; data.devices().len()];
    let mut bytes = Vec::new();
    data.write_metadata(&tags, &mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
