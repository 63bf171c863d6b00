//! Trees of files on a far side: listed by directory, read by range, version by version.
//!
//! | address | store |
//! |---|---|
//! | `https://HOST/path/` | [`HttpTree`]: WebDAV where the server has it, else its HTML index of a directory |
//! | `s3://BUCKET/PREFIX` | [`S3Tree`]: anything that speaks the S3 protocol |
//!
//! Nothing here vouches for bytes beyond what the server says: a [`FileVersion`] goes with every read, and an answer
//! that does not carry it is [`Error::Changed`]. What a server says about names is not trusted: see [`TreePath`].

mod address;
mod connector;
mod http;
mod index;
mod path;
mod s3;
mod s3_keys;
mod version;
mod webdav;

pub(crate) use index::parse as parse_html_index;

use async_trait::async_trait;
use bytes::Bytes;

pub use address::TreeAddress;
pub use http::HttpTree;
pub use path::TreePath;
pub use s3::{S3Options, S3Tree};
pub use version::FileVersion;

use crate::{BlobRange, Error, Meter};

/// Entries that a directory may have; a larger one is refused.
pub const ENTRIES_MAX: usize = 1_000_000;

/// What lies at a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TreeNode {
    /// A directory.
    Directory,
    /// A file, and which content it has.
    File(FileVersion),
}

impl TreeNode {
    /// Whether `found`, which a server says of the same path, is this: the same, or a settled version of which an answer alone,
    /// out of a cache perhaps, could not tell that it is.
    pub fn is_confirmed_by(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::Directory, Self::Directory) => true,
            (Self::File(known), Self::File(found)) => {
                let is_settled = known.is_settled || found.is_settled;
                *known == FileVersion { is_settled, ..found.clone() }
            }
            _ => false,
        }
    }
}

/// One entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TreeEntry {
    /// Its name: one sound component of a path.
    pub name: String,
    /// What it is; a file's version where the listing has all of it.
    pub node: Listed,
}

/// What a listing says of an entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listed {
    /// A directory.
    Directory,
    /// A file; which content it has must be asked for.
    File,
    /// A file with this content: exactly what asking for it would say.
    Version(FileVersion),
}

/// A tree of files on a far side.
///
/// Implementations retry what is transient within their own deadline, as [`RangeSource`](crate::RangeSource)s do.
#[async_trait]
pub trait TreeStore: Send + Sync + 'static {
    /// What the tree is called in messages, without anything secret.
    fn describe(&self) -> String;

    /// Lists a directory, in no particular order, each name once.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::TooLarge`] for more than [`ENTRIES_MAX`] entries.
    async fn list(&self, directory: &TreePath) -> Result<Vec<TreeEntry>, Error>;

    /// Says what lies at `path`; `None` when nothing does.
    ///
    /// # Errors
    ///
    /// Any [`Error`].
    async fn look_up(&self, path: &TreePath) -> Result<Option<TreeNode>, Error>;

    /// Says which file lies at `path`, where one is known, with the least that can be asked: `None` may also mean that
    /// something else lies there by now.
    ///
    /// # Errors
    ///
    /// As [`look_up`](Self::look_up).
    async fn confirm(&self, path: &TreePath) -> Result<Option<TreeNode>, Error> {
        self.look_up(path).await
    }

    /// Reads `range` of the file at `path`, which must have the content `version`, into `sink`, in order.
    ///
    /// What `sink` was given before an error stays good.
    ///
    /// # Errors
    ///
    /// [`Error::Changed`] when the file has another content by now, and any other [`Error`].
    async fn read(
        &self,
        path: &TreePath,
        range: BlobRange,
        version: &FileVersion,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), Error>;

    /// What was asked of the far side so far.
    fn meter(&self) -> &Meter;
}
