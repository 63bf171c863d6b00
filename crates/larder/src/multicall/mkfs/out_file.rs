//! [`OutFile`]: a file that is being written, and what is left of it when that fails.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A file, or a block device, that is being written. As mkfs.erofs does, what is there is written over.
///
/// Dropped without [`keep`](Self::keep), it leaves nothing that could be mistaken for what was wanted: a file that was
/// made is removed, one that was there before is left empty. Devices and pipes are left as they are.
#[derive(Debug)]
pub(super) struct OutFile {
    path: PathBuf,
    pub file: File,
    /// Whether it was not there before.
    made: bool,
    /// Whether it is a regular file, whose length counts.
    is_file: bool,
    kept: bool,
}

impl OutFile {
    /// Opens or makes the file, empty; a device keeps its length.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let named = || format!("{}: cannot be written", path.display());
        let mut options = OpenOptions::new();
        let (file, made) = match options.write(true).create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Also where a link leads to a file that is not there yet.
                let file = options.create_new(false).create(true).truncate(false).open(path);
                (file.with_context(named)?, false)
            }
            made => (made.with_context(named)?, true),
        };
        let metadata = file.metadata().with_context(named)?;
        let is_file = metadata.is_file();
        // Not where there is nothing to cut off: ext4 takes that for a file that is replaced, and flushes it when closed.
        if is_file && metadata.len() > 0 {
            file.set_len(0).with_context(named)?;
        }
        Ok(Self { path: path.to_owned(), file, made, is_file, kept: false })
    }

    /// Gives a regular file its length.
    pub fn set_len(&self, bytes: u64) -> anyhow::Result<()> {
        if !self.is_file {
            return Ok(());
        }
        self.file.set_len(bytes).with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    /// It is complete and stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if self.kept || !self.is_file {
            return;
        }
        // What made this fail is said already; that this failed too would tell nobody more.
        let _ = if self.made { std::fs::remove_file(&self.path) } else { self.file.set_len(0) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_not_kept_is_removed_or_emptied() {
        let dir = tempfile::tempdir().expect("can make");
        let path = dir.path().join("file");
        let write = |path: &Path| {
            let mut output = OutFile::open(path).expect("writable");
            output.file.write_all(b"partial").expect("writable");
            output
        };
        drop(write(&path));
        assert!(!path.exists(), "it was made here");
        fs::write(&path, "something longer that was there").expect("writable");
        drop(write(&path));
        assert_eq!(fs::read(&path).expect("still there"), b"");
        write(&path).keep();
        assert_eq!(fs::read(&path).expect("kept"), b"partial");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("target"), &link).expect("a link");
        write(&link).keep();
        assert_eq!(fs::read(dir.path().join("target")).expect("through the link"), b"partial");
        write(Path::new("/dev/null")).set_len(4096).expect("a device keeps its length");
    }
}
