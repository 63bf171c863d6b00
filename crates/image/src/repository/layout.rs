//! [`LayoutRepository`]: an OCI image layout directory.
//!
//! Source of truth: OCI image-spec v1.1, `image-layout.md`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_remote::{DirectorySource, RangeSource};
use oci_spec::image::{Descriptor, Digest};

use super::Repository;
use crate::manifest::{DOCUMENT_BYTES_MAX, IndexDocument, ManifestEntry};
use crate::{Error, Version, digest};

/// An OCI image layout directory.
#[derive(Clone, Debug)]
pub struct LayoutRepository {
    dir: PathBuf,
}

impl LayoutRepository {
    /// Opens the layout in `dir`. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when there is no readable `index.json`, [`Error::Document`] when it is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        read_index(&dir)?;
        Ok(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The tags there are.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn tags(&self) -> Result<Vec<String>, Error> {
        Ok(read_index(&self.dir)?.tags())
    }

    /// Reads the document called `version`, as [`Repository::manifest`] does. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_manifest(&self, version: &Version) -> Result<Bytes, Error> {
        if let Version::Digest(digest) = version {
            return self.read_blob(digest);
        }
        let index = read_index(&self.dir)?;
        let entry = find(&index, version).ok_or_else(|| Error::NoSuchImage {
            place: self.describe(),
            wanted: version.to_string(),
            known: index.tags(),
        })?;
        let bytes = self.read_blob(&entry.digest)?;
        // A manifest is what its name says or an error, in this place as well as for whoever asks by digest.
        digest::verify(&bytes, &entry.digest, &format!("{}: manifest", self.describe()))?;
        Ok(bytes)
    }

    /// Opens a blob, as [`Repository::blob`] does. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        let digest = descriptor.digest();
        digest::require_sha256(digest, &self.describe())?;
        let source = DirectorySource::open_exact(blob_path(&self.dir, digest), descriptor.size());
        let source = source.map_err(|source| Error::remote(format!("blob {digest}"), source))?;
        Ok(Arc::new(source))
    }

    /// Works on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let repository = self.clone();
        tokio::task::spawn_blocking(move || work(&repository)).await.unwrap_or_else(|stopped| {
            Err(Error::Io { path: self.dir.clone(), action, source: std::io::Error::other(stopped) })
        })
    }

    fn read_blob(&self, digest: &Digest) -> Result<Bytes, Error> {
        digest::require_sha256(digest, &self.describe())?;
        read_document(&blob_path(&self.dir, digest))
    }
}

/// Picks the manifest called `version`, or the only one.
fn find<'a>(index: &'a IndexDocument, version: &Version) -> Option<&'a ManifestEntry> {
    match version {
        Version::Tag(tag) => index.manifests.iter().find(|entry| entry.tag() == Some(tag)),
        Version::Digest(digest) => index.manifests.iter().find(|entry| entry.digest == *digest),
        Version::Only => {
            let (first, others) = index.manifests.split_first()?;
            others.iter().all(|other| other.digest == first.digest).then_some(first)
        }
    }
}

#[async_trait]
impl Repository for LayoutRepository {
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error> {
        let version = version.clone();
        self.blocking("read", move |repository| repository.read_manifest(&version)).await
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        let descriptor = descriptor.clone();
        self.blocking("open", move |repository| repository.open_blob(&descriptor)).await
    }

    fn describe(&self) -> String {
        format!("oci:{}", self.dir.display())
    }
}

/// Where the layout in `dir` keeps the blob `digest`.
pub(crate) fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs").join("sha256").join(digest.digest())
}

/// Reads `index.json` of the layout in `dir`.
pub(crate) fn read_index(dir: &Path) -> Result<IndexDocument, Error> {
    let path = dir.join("index.json");
    let bytes = read_document(&path)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| Error::Document { place: path.display().to_string(), source })
}

/// Reads a manifest, index or configuration.
fn read_document(path: &Path) -> Result<Bytes, Error> {
    read_bounded(path, DOCUMENT_BYTES_MAX)
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Bytes, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    let found = bytes.len() as u64;
    if found > limit {
        return Err(Error::TooLong { place: path.display().to_string(), found, limit });
    }
    Ok(bytes.into())
}
