//! [`Layout`]: an OCI image layout directory, opened for reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use serde::Deserialize;

/// No index and no manifest may be larger: the limit that registries set.
const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An OCI image layout directory (image-layout spec).
///
/// Blobs are opened below `blobs/sha256` by a name of 64 hex digits, without following links: nothing outside is
/// ever read. `index.json` is read anew for each tag, so that a tag added later is seen.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    blobs: OwnedFd,
}

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A part that every layout has is missing or unreadable.
    #[error("{}: cannot be read as part of an OCI image layout", path.display())]
    Open {
        /// File or directory.
        path: PathBuf,
        /// The cause below.
        #[source]
        source: io::Error,
    },
    /// `index.json` is not an image index.
    #[error("{}: is no image index", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// The cause below.
        #[source]
        source: serde_json::Error,
    },
}

impl LayoutError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some("make a layout with `larder build`")
    }
}

/// A SHA-256 digest as registries write it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Sha256 {
    hex: String,
}

impl Sha256 {
    /// Parses `sha256:` and 64 lower-case hex digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (hex.len() == 64 && hex.bytes().all(is_hex)).then(|| Self { hex: hex.to_owned() })
    }
}

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

/// A manifest or an index, whole.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) digest: Sha256,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Entry {
    fn tag(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }
}

impl Layout {
    /// Opens the layout in `directory` and checks that its index can be read.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] when `oci-layout`, `index.json` or `blobs/sha256` is missing or is something else.
    pub fn open(directory: &Path) -> Result<Self, LayoutError> {
        let marker = directory.join("oci-layout");
        File::open(&marker).map_err(|source| LayoutError::Open { path: marker, source })?;
        let path = directory.join("blobs/sha256");
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let blobs = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| LayoutError::Open { path, source: errno.into() })?;
        let layout = Self { directory: directory.to_owned(), blobs };
        layout.index()?;
        Ok(layout)
    }

    /// The tags in `index.json`, in its order.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] when the index cannot be read.
    pub fn tags(&self) -> Result<Vec<String>, LayoutError> {
        Ok(self.index()?.manifests.iter().filter_map(|entry| entry.tag().map(str::to_owned)).collect())
    }

    fn index(&self) -> Result<Index, LayoutError> {
        let path = self.directory.join("index.json");
        let bytes = File::open(&path).and_then(|file| read_document(&file));
        let bytes = bytes.map_err(|source| LayoutError::Open { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|source| LayoutError::Index { path, source })
    }

    /// Returns the manifest that `tag` names; `None` when there is none, or its blob is missing.
    pub(super) fn tagged(&self, tag: &str) -> io::Result<Option<Document>> {
        let index = self.index().map_err(io::Error::other)?;
        let Some(entry) = index.manifests.into_iter().find(|entry| entry.tag() == Some(tag)) else {
            return Ok(None);
        };
        let Some(digest) = Sha256::parse(&entry.digest) else { return Ok(None) };
        let Some((file, _)) = self.blob(&digest)? else { return Ok(None) };
        Ok(Some(Document { digest, media_type: entry.media_type, bytes: read_document(&file)? }))
    }

    /// Returns the manifest of this digest; `None` when there is no such blob, or it is no manifest.
    pub(super) fn manifest(&self, digest: &Sha256) -> io::Result<Option<Document>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            #[expect(dead_code, reason = "only JSON that has a schema version is a manifest")]
            schema_version: u32,
            media_type: Option<String>,
        }
        let Some((file, len)) = self.blob(digest)? else { return Ok(None) };
        if len > DOCUMENT_BYTES_MAX {
            return Ok(None);
        }
        let bytes = read_document(&file)?;
        let Ok(kind) = serde_json::from_slice::<Kind>(&bytes) else { return Ok(None) };
        let media_type = kind.media_type.unwrap_or_else(|| MANIFEST_TYPE.to_owned());
        Ok(Some(Document { digest: digest.clone(), media_type, bytes }))
    }

    /// Opens a blob; returns the file and its length, or `None` when there is no such regular file.
    pub(super) fn blob(&self, digest: &Sha256) -> io::Result<Option<(File, u64)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.blobs, digest.hex.as_str(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then_some((file, metadata.len())))
    }
}

fn read_document(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= DOCUMENT_BYTES_MAX) {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "a document of more than 4 MiB"))
    }
}
