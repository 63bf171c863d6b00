//! What a worker keeps of an image to start again without its registry: manifest, configuration and chunk indexes,
//! each in a file named by its SHA-256.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oci_spec::image::Digest;

use crate::chunk::INDEX_BYTES_MAX;
use crate::load::{Parts, assemble, bind};
use crate::manifest::Composition;
use crate::repository::read_bounded;
use crate::{Error, LoadedImage, Repository, digest};

impl LoadedImage {
    /// Keeps what [`restore`] needs in `dir`, which many images may share. Blocks on the file system.
    ///
    /// Each file appears whole or not at all. Nothing is synced: after a loss of power `restore` may find damage, say
    /// so, and the image is loaded from its registry again.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn persist(&self, dir: &Path) -> Result<(), Error> {
        let place = dir.join("sha256");
        fs::create_dir_all(&place).map_err(|source| io(&place, "create", source))?;
        let documents = [&self.manifest, &self.config];
        let indexes = self.layers().map(|layer| layer.table.index().payload());
        documents.into_iter().chain(indexes).try_for_each(|bytes| keep(&place, bytes))
    }
}

/// Puts together the image whose manifest has the digest `manifest` from what [`LoadedImage::persist`] kept in `dir`,
/// with blobs from `repository`. Makes no request.
///
/// # Errors
///
/// [`Error::Io`] when something is missing, [`Error::DigestMismatch`] when it is damaged; the image has to be loaded
/// anew then.
pub async fn restore(
    dir: &Path,
    manifest: &Digest,
    repository: &dyn Repository,
) -> Result<LoadedImage, Error> {
    let (from, digest) = (dir.to_owned(), manifest.clone());
    let parts = tokio::task::spawn_blocking(move || kept_parts(&from, digest)).await;
    let parts =
        parts.map_err(|source| Error::Stopped { place: dir.display().to_string(), source }).flatten()?;
    assemble(repository, parts).await
}

fn kept_parts(dir: &Path, manifest_digest: Digest) -> Result<Parts, Error> {
    let manifest = kept(dir, &manifest_digest)?;
    let composition = Composition::read(&manifest, &manifest_digest)?;
    let config = kept(dir, composition.config.digest())?;
    let payloads =
        composition.layers().map(|plan| kept(dir, plan.index_digest())).collect::<Result<_, _>>()?;
    let tables = bind(&composition, payloads)?;
    Ok(Parts { manifest_digest, manifest, config, tables })
}

fn keep(place: &Path, bytes: &Bytes) -> Result<(), Error> {
    let path = place.join(digest::sha256(bytes).digest());
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(place)?;
        file.write_all(bytes)?;
        file.persist(&path).map_err(|error| error.error)
    };
    write().map(drop).map_err(|source| io(&path, "write", source))
}

fn kept(dir: &Path, digest: &Digest) -> Result<Bytes, Error> {
    let path = path_of(dir, digest)?;
    let bytes = read_bounded(&path, INDEX_BYTES_MAX)?;
    digest::verify(&bytes, digest, &path.display().to_string())?;
    Ok(bytes)
}

fn path_of(dir: &Path, digest: &Digest) -> Result<PathBuf, Error> {
    digest::require_sha256(digest, &dir.display().to_string())?;
    Ok(dir.join("sha256").join(digest.digest()))
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), action, source }
}
