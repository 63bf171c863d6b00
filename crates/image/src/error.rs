//! Why an image could not be read or made.

use std::path::PathBuf;

use larder_remote::BlobRange;
use oci_spec::image::Digest;

use crate::chunk::{ChunkFault, IndexFault};
use crate::manifest::{DeviceFault, ManifestFault, Unsupported};

/// Why an image could not be read or made. Every variant names the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of the image could not be understood.
    #[error("{given:?} is no image reference: {reason}")]
    Reference {
        /// The name as given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A digest of another algorithm than SHA-256.
    #[error("{place}: digest {digest} is no SHA-256")]
    DigestKind {
        /// Where it stands.
        place: String,
        /// The digest.
        digest: Digest,
    },
    /// Bytes that are not what their digest says.
    #[error("{place}: the bytes have digest {found} instead of {expected}")]
    DigestMismatch {
        /// What was read.
        place: String,
        /// The digest that vouches for it.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// A document of another length than its descriptor says.
    #[error("{place}: {found} bytes came instead of {expected}")]
    Length {
        /// What was read.
        place: String,
        /// What the descriptor says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// A document over the size limit.
    #[error("{place}: {found} bytes are over the limit of {limit}")]
    TooLong {
        /// What was to be read.
        place: String,
        /// Its length.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A JSON document that is not what it should be.
    #[error("{place}: not a well-formed document")]
    Document {
        /// What was read.
        place: String,
        /// Line, column and finding.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest that breaks the rules of the image layer specification.
    #[error("manifest {manifest}: {fault}")]
    Manifest {
        /// Digest of the manifest.
        manifest: Digest,
        /// What is wrong.
        fault: Box<ManifestFault>,
    },
    /// A manifest that is fine, but asks for what is not built yet.
    #[error("manifest {manifest}: {what}, which is not supported yet")]
    Unsupported {
        /// Digest of the manifest.
        manifest: Digest,
        /// What it asks for.
        what: Unsupported,
    },
    /// A chunk index that cannot be used.
    #[error("layer {blob}: its chunk index {fault}")]
    Index {
        /// Digest of the layer.
        blob: Digest,
        /// What is wrong.
        fault: IndexFault,
    },
    /// A chunk that is not what the index says.
    #[error("layer {blob}: chunk {chunk} ({stored}): {fault}")]
    Chunk {
        /// Digest of the layer.
        blob: Digest,
        /// Number of the chunk.
        chunk: u32,
        /// Where it lies in the blob.
        stored: BlobRange,
        /// What is wrong.
        fault: ChunkFault,
    },
    /// No image of that name in the place.
    #[error("{place}: no image {wanted}{}", list(.known))]
    NoSuchImage {
        /// Where it was looked for.
        place: String,
        /// What was looked for.
        wanted: String,
        /// The tags there are.
        known: Vec<String>,
    },
    /// An index of several platforms without one for this host.
    #[error("{place}: no image for {wanted} with erofs among its features{}", list(.known))]
    NoSuchPlatform {
        /// Where it was looked for.
        place: String,
        /// Operating system and architecture of this host.
        wanted: String,
        /// The platforms there are.
        known: Vec<String>,
    },
    /// Bytes could not be had.
    #[error("{place}: cannot be fetched")]
    Remote {
        /// What was to be read.
        place: String,
        /// The cause below.
        #[source]
        source: Box<larder_remote::Error>,
    },
    /// A file or directory could not be used.
    #[error("{}: cannot {action}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was to be done with it.
        action: &'static str,
        /// The cause below.
        #[source]
        source: std::io::Error,
    },
    /// A thread of ours stopped before its work was done.
    #[error("{place}: the work was stopped")]
    Stopped {
        /// What was being done.
        place: String,
        /// The cause below.
        #[source]
        source: tokio::task::JoinError,
    },
    /// The cache could not take bytes.
    #[error("the metadata cannot be kept")]
    Cache(#[source] Box<larder_fscache::Error>),
    /// An EROFS image could not be read, or a tree not made into one.
    #[error("the EROFS image cannot be handled")]
    Erofs(#[source] Box<larder_erofs::Error>),
    /// The image has other devices than its manifest.
    #[error("manifest {manifest}: {fault}")]
    Devices {
        /// Digest of the manifest.
        manifest: Digest,
        /// What is wrong.
        fault: DeviceFault,
    },
    /// A blob could not be made.
    #[error("the {what} blob cannot be written")]
    Pack {
        /// Which one.
        what: &'static str,
        /// The cause below.
        #[source]
        source: std::io::Error,
    },
    /// An option of a build that does not exist.
    #[error("{option} {value}: {reason}")]
    Option {
        /// Which one.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        reason: &'static str,
    },
    /// The destination of a build exists and is something else than an image layout.
    #[error("{}: {reason}", .path.display())]
    Destination {
        /// The destination.
        path: PathBuf,
        /// Why it cannot be one.
        reason: &'static str,
    },
}

impl Error {
    /// An EROFS image could not be read or made.
    pub(crate) fn erofs(source: larder_erofs::Error) -> Self {
        Self::Erofs(Box::new(source))
    }

    /// Bytes called `place` could not be had.
    pub(crate) fn remote(place: impl Into<String>, source: larder_remote::Error) -> Self {
        Self::Remote { place: place.into(), source: Box::new(source) }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Reference { .. } => Some("write oci:DIR[:TAG] or HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]"),
            Self::DigestKind { .. } => Some("only sha256 digests are accepted"),
            Self::DigestMismatch { .. } | Self::Length { .. } | Self::Chunk { .. } => {
                Some("the image is damaged where it is stored or on its way; push it again")
            }
            Self::TooLong { .. } => Some("check that the reference names an image"),
            Self::Document { .. } => Some("check that the reference names an image, and push it again"),
            Self::Manifest { .. } => Some("rebuild the image with `larder build`"),
            Self::Unsupported { what, .. } => Some(what.hint()),
            Self::Index { fault: IndexFault::Unhashed, .. } => Some(
                "on-demand loading needs a digest for every chunk; rebuild the image with `larder build`",
            ),
            Self::Index {
                fault:
                    IndexFault::Version { .. }
                    | IndexFault::Compression { .. }
                    | IndexFault::Flags { .. }
                    | IndexFault::Hash { .. },
                ..
            } => Some("update Larder: the image is newer than this build"),
            Self::Index { .. } => Some("rebuild the image with `larder build`"),
            Self::NoSuchImage { .. } => Some("name one of the tags there are"),
            Self::NoSuchPlatform { .. } => Some("build the image for this host with `larder build`"),
            Self::Remote { source, .. } => source.hint(),
            Self::Erofs(source) => source.hint(),
            Self::Devices { .. } => Some("rebuild the image with `larder build`"),
            Self::Option { .. } => Some("see `larder build --help`"),
            Self::Io { source, .. } | Self::Pack { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Some("free space on that file system"),
                std::io::ErrorKind::PermissionDenied => Some("check the rights on that path"),
                std::io::ErrorKind::NotFound if self.is_of_no_layout() => {
                    Some("name a directory that is an OCI image layout; `larder build` makes one")
                }
                _ => None,
            },
            Self::Stopped { .. } => None,
            Self::Cache(source) => source.hint(),
            Self::Destination { .. } => Some("name a new directory, or one that is an OCI image layout"),
        }
    }

    /// Whether it is about the file that every layout has.
    fn is_of_no_layout(&self) -> bool {
        matches!(self, Self::Io { path, .. } if path.ends_with("index.json"))
    }

    /// The error number that a reader of the image gets: that of the operating system where it gave one, else EIO.
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        match self {
            Self::Io { source, .. } | Self::Pack { source, .. } => source.raw_os_error().unwrap_or(EIO),
            Self::Cache(source) => source.errno(),
            Self::Erofs(source) => source.errno(),
            _ => EIO,
        }
    }
}

/// "; there are a, b and 3 more": what stands in a place, cut to a readable length.
fn list(names: &[String]) -> String {
    const SHOWN_MAX: usize = 8;
    if names.is_empty() {
        return "; there is none at all".to_owned();
    }
    let shown = names.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => format!("; there is {shown}"),
        more => format!("; there is {shown} and {more} more"),
    }
}
