//! [`Destination`]: the layout that an image is built into. Nothing has its final name before everything is there.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::image::Digest;
use tempfile::TempDir;

use crate::Error;
use crate::digest::sha256;
use crate::manifest::{IndexDocument, ManifestEntry, canonical};
use crate::repository::{blob_path, read_bounded, read_index};

/// Content of the file that makes a directory a layout.
const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Names of what is not finished yet.
const STAGING_PREFIX: &str = ".larder-build-";

/// A directory younger than this may be one whose build goes on: on a file system that several machines share, its lock is
/// not seen by all.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// A layout directory that is there already, or is to be.
#[derive(Debug)]
pub(super) struct Destination {
    dir: PathBuf,
    /// Whether the directory is there: new blobs move into it then, else the staged layout becomes it.
    exists: bool,
    /// A layout of its own on the same file system; removed with all it has unless it is published.
    staging: TempDir,
    /// The staged layout, locked: it is no leftover.
    _lock: File,
}

/// A blob under construction.
pub(super) struct StagedBlob {
    path: PathBuf,
}

impl Destination {
    /// Looks at what is in the place and prepares a layout beside it, or in it where it is a layout already.
    ///
    /// # Errors
    ///
    /// [`Error::Destination`] when something else is there, [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let exists = match fs::metadata(dir) {
            Ok(found) if found.is_dir() => check_layout(dir).map(|()| true)?,
            Ok(_) => return Err(refused(dir, "exists and is no directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(failed(dir, "look at", source)),
        };
        let place = if exists { dir } else { parent(dir) };
        remove_leftovers(place);
        let staging = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(place)
            .map_err(|source| failed(place, "write in", source))?;
        let lock = File::open(staging.path()).and_then(|dir| dir.lock().map(|()| dir));
        let lock = lock.map_err(|source| failed(staging.path(), "lock", source))?;
        let blobs = staging.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|source| failed(&blobs, "create", source))?;
        Ok(Self { dir: dir.to_owned(), exists, staging, _lock: lock })
    }

    /// Begins a blob whose digest is not known yet.
    pub fn create_blob(&self, name: &str) -> Result<(StagedBlob, File), Error> {
        let path = self.staging.path().join(name);
        let file = File::create_new(&path).map_err(|source| failed(&path, "create", source))?;
        Ok((StagedBlob { path }, file))
    }

    /// Gives a finished blob its name.
    pub fn add_blob(&self, blob: StagedBlob, digest: &Digest) -> Result<(), Error> {
        let path = blob_path(self.staging.path(), digest);
        fs::rename(&blob.path, &path).map_err(|source| failed(&path, "write", source))
    }

    /// Removes a blob that is not needed.
    pub fn drop_blob(&self, blob: &StagedBlob) -> Result<(), Error> {
        fs::remove_file(&blob.path).map_err(|source| failed(&blob.path, "remove", source))
    }

    /// Writes a small blob and returns its digest.
    pub fn add_document(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = sha256(bytes);
        let path = blob_path(self.staging.path(), &digest);
        fs::write(&path, bytes).map_err(|source| failed(&path, "write", source))?;
        Ok(digest)
    }

    /// Takes a blob over from another layout, unless it is here: by a hard link, or a copy on another file system.
    pub fn take_blob(&self, from: &Path, digest: &Digest) -> Result<(), Error> {
        let (source, target) = (blob_path(from, digest), blob_path(self.staging.path(), digest));
        let is_here = self.exists && blob_path(&self.dir, digest).exists();
        if is_here || target.exists() || fs::hard_link(&source, &target).is_ok() {
            return Ok(());
        }
        fs::copy(&source, &target).map(drop).map_err(|error| failed(&source, "copy", error))
    }

    /// Makes the image visible under its tag, and everything it needs before it.
    pub fn publish(self, entry: ManifestEntry) -> Result<(), Error> {
        if self.exists { self.publish_into(entry) } else { self.publish_new(entry) }
    }

    fn publish_new(self, entry: ManifestEntry) -> Result<(), Error> {
        let staged = self.staging.path();
        write_layout_file(staged)?;
        write_index(staged, IndexDocument::new(), entry)?;
        match fs::rename(staged, &self.dir) {
            Ok(()) => {
                let _ = self.staging.keep();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Err(refused(&self.dir, "appeared while the image was built"))
            }
            Err(source) => Err(failed(&self.dir, "create", source)),
        }
    }

    fn publish_into(self, entry: ManifestEntry) -> Result<(), Error> {
        let dir = &self.dir;
        // Two builds into one layout take turns here, so that neither loses the other's tag.
        let lock = File::open(dir).and_then(|dir| dir.lock().map(|()| dir));
        let _lock = lock.map_err(|source| failed(dir, "lock", source))?;
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|source| failed(&blobs, "create", source))?;
        move_all(&self.staging.path().join("blobs/sha256"), &blobs)?;
        let index = match is_empty_layout(dir)? {
            true => IndexDocument::new(),
            false => read_index(dir)?,
        };
        write_layout_file(dir)?;
        write_index(dir, index, entry)
    }
}

/// Accepts an empty directory and a layout.
fn check_layout(dir: &Path) -> Result<(), Error> {
    if is_empty_layout(dir)? {
        return Ok(());
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker = read_bounded(&dir.join("oci-layout"), 4096).ok();
    let marker = marker.and_then(|bytes| serde_json::from_slice::<Marker>(&bytes).ok());
    match marker {
        Some(marker) if marker.image_layout_version.starts_with("1.") => read_index(dir).map(drop),
        Some(_) => Err(refused(dir, "is an OCI image layout of another version than 1")),
        None => Err(refused(dir, "exists and is no OCI image layout")),
    }
}

/// Whether there is nothing in `dir` but what builds under way, or cut short, have there.
fn is_empty_layout(dir: &Path) -> Result<bool, Error> {
    let read = || -> io::Result<bool> {
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let name = name.as_encoded_bytes();
            if !name.starts_with(STAGING_PREFIX.as_bytes()) && name != b"blobs" {
                return Ok(false);
            }
        }
        Ok(true)
    };
    read().map_err(|source| failed(dir, "read", source))
}

fn move_all(from: &Path, to: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(from).map_err(|source| failed(from, "read", source))?;
    for entry in entries {
        let entry = entry.map_err(|source| failed(from, "read", source))?;
        let target = to.join(entry.file_name());
        fs::rename(entry.path(), &target).map_err(|source| failed(&target, "write", source))?;
    }
    Ok(())
}

fn write_layout_file(dir: &Path) -> Result<(), Error> {
    let path = dir.join("oci-layout");
    if path.exists() {
        return Ok(());
    }
    fs::write(&path, OCI_LAYOUT).map_err(|source| failed(&path, "write", source))
}

/// Replaces `index.json` in one step.
fn write_index(dir: &Path, mut index: IndexDocument, entry: ManifestEntry) -> Result<(), Error> {
    index.replace_tag(entry);
    let path = dir.join("index.json");
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)?;
        file.write_all(&canonical(&index))?;
        // Of all files of a layout this one is synced: the others are new, but with it every image would be lost.
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| failed(&path, "write", source))
}

/// Takes away what builds into `place` have left there that were killed. A build that is under way has its directory locked.
fn remove_leftovers(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let is_old = || {
            let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
            (age > LEFTOVER_AGE_MIN).then_some(())
        };
        let is_leftover = is_staging(&entry.file_name()) && is_old().is_some();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_leftover
            && is_dir
            && let Ok(dir) = File::open(entry.path())
            && dir.try_lock().is_ok()
        {
            // It is only in the way: a build does not fail because of it.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `name` is that of a directory in which a build puts its blobs together, beside the layout or in it. It belongs to
/// no image.
pub fn is_staging(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(STAGING_PREFIX.as_bytes())
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refused(dir: &Path, reason: &'static str) -> Error {
    Error::Destination { path: dir.to_owned(), reason }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_a_killed_build_has_left_goes_with_the_next_and_a_build_under_way_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let staged = |name: &str| {
            let dir = place.path().join(name);
            fs::create_dir_all(dir.join("blobs")).expect("room");
            File::open(dir).expect("it is there")
        };
        let (killed, under_way, other) =
            (staged(".larder-build-killed"), staged(".larder-build-under-way"), staged("something-else"));
        let _young = staged(".larder-build-young");
        let long_ago = SystemTime::now() - LEFTOVER_AGE_MIN * 2;
        for dir in [&killed, &under_way, &other] {
            dir.set_modified(long_ago).expect("it is ours");
        }
        under_way.lock().expect("nobody else has it");
        let destination = Destination::open(&place.path().join("layout")).expect("room");
        let mut left: Vec<_> = fs::read_dir(place.path())
            .expect("it is there")
            .map(|entry| entry.expect("it is there").file_name().into_string().expect("text"))
            .filter(|name| {
                Some(name.as_str()) != destination.staging.path().file_name().and_then(OsStr::to_str)
            })
            .collect();
        left.sort_unstable();
        assert_eq!(left, [".larder-build-under-way", ".larder-build-young", "something-else"]);
    }
}
