//! The writer: a directory tree, or a tar archive, becomes an image.
//!
//! [`write_image`], [`write_image_from_dir`] and [`write_image_from_tar`] write images of one piece, as [`ImageOptions`] say. [`index_tar`] makes
//! an image of metadata over an archive; [`decode_archive`] reads archives that are compressed.
//! [`Tree::from_layers`] merges images, and [`write_merged`] makes an image that points into them. The rest is about images whose data are blobs of their own.
//!
//! # Images of several parts
//!
//! Writing one works in two phases, because the image names its blobs by digest and a blob has one only when it is
//! complete. [`write_data`] reads the files of a [`Tree`] on several threads and sends their chunks, each
//! content once, to a [`BlobSink`] in order; [`write_data_from_tar`] does so with an archive. [`WrittenData::write_metadata`] then writes the image.
//!
//! The same tree and options give the same bytes, whatever [`Options::jobs`] and the speed of the disk.
//!
//! # Examples
//!
//! ```
//! use larder_erofs::writer::{Attributes, Options, Tree, write_data};
//! use larder_erofs::{DeviceTag, Image};
//!
//! let mut tree = Tree::new();
//! tree.add_file(b"etc/motd", b"hello\n".to_vec(), &Attributes::default())?;
//! let mut blob = Vec::new();
//! let data = write_data(tree, &Options::default(), &mut blob)?;
//! let mut metadata = Vec::new();
//! data.write_metadata(&[DeviceTag::EMPTY], &mut metadata)?;
//!
//! let image = Image::open(metadata)?;
//! assert!(image.resolve(b"etc/motd")?.is_some());
//! assert_eq!(&blob[..6], b"hello\n");
//! # Ok::<(), larder_erofs::Error>(())
//! ```

mod options;
mod sink;
mod tree;

mod node;
mod text;
mod xattr_table;

mod host;
mod host_xattrs;
mod scan;

mod compressor;
mod encode;
mod image;
mod image_options;

mod data;
mod dedup;
mod dictionary;
mod pipeline;
mod plan;
mod reader;
mod recipe;
mod runs;

mod dir_blocks;
mod emit;
mod layout;
mod metadata;
mod order;
mod own;
mod share;

mod overlay;
mod tar;

mod merge;

pub use compressor::{Compressor, CompressorFault};
pub use data::{DataDevice, WrittenData, write_data, write_data_from_tar};
pub use dictionary::{Dictionary, DictionaryDevice};
pub use image::{
    DirectoryOptions, ImageSummary, LayerDevice, LayerDevices, MergedSummary, ScanFilter, write_image,
    write_image_from_dir, write_image_from_tar, write_merged,
};
pub use image_options::{Fragments, Hint, Hints, ImageOptions, InodeForm, OptionsFault, Times};
pub use merge::{Layer, MergeOptions};
pub use metadata::Summary;
pub use options::{Attributes, Options};
pub use own::OWN_BLOBS_MAX;
pub use scan::{ScanEntry, ScanOptions, ScanReport};
pub use sink::{BlobSink, WriteSink};
pub use tar::{
    ArchiveCodec, MapAttributes, PeekedArchive, TarFault, TarOptions, decode_archive, index_tar, peek_archive,
};
pub use tree::Tree;
