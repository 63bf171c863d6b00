//! [`Journal`]: the nodes that the kernel knows, so that the next worker knows them too.
//!
//! One file a mount, one JSON line a node or a node forgotten. It need not survive the machine: neither does the mount.
//! So nothing is synced; a line is written before the kernel hears of its node.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use larder_remote::tree::{FileVersion, TreeNode, TreePath};
use serde::{Deserialize, Serialize};

/// Lines beyond twice the number of nodes after which the file is written anew.
const SLACK_LINES: usize = 10_000;

/// The nodes that the kernel knows, on disk.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// The last line may be half a line.
    is_torn: bool,
}

/// A node as it stands in the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Known {
    /// Its path.
    pub path: TreePath,
    /// What it is.
    pub node: TreeNode,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<FileLine>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileLine {
    size: u64,
    etag: Option<String>,
    modified_s: Option<u64>,
    #[serde(default)]
    is_settled: bool,
}

impl Journal {
    /// Opens the journal at `path` and returns the nodes in it; what cannot be read of it is left out.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<(Self, BTreeMap<u64, Known>)> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut known = BTreeMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
            match line.known() {
                Some(node) => drop(known.insert(line.id, node)),
                None => drop(known.remove(&line.id)),
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let mut journal = Self { path: path.to_owned(), file, lines: 0, is_torn: false };
        if let Err(error) = journal.rewrite(known.iter().map(|(id, known)| (*id, known))) {
            // On a full disk the old one has to do; its last line may be half a line.
            tracing::warn!(path = %path.display(), %error, "node journal");
            journal.is_torn = true;
        }
        Ok((journal, known))
    }

    /// Notes a node. A failure costs only what a successor would know of it.
    pub fn learn(&mut self, id: u64, known: &Known) {
        self.append(&Line::of(id, known));
    }

    /// Notes that the kernel has forgotten a node.
    pub fn forget(&mut self, id: u64) {
        self.append(&Line { id, path: None, file: None });
    }

    /// Whether it is time for [`Journal::rewrite`], with so many nodes known.
    pub fn is_long(&self, known: usize) -> bool {
        self.lines > known.saturating_mul(2).saturating_add(SLACK_LINES)
    }

    /// Writes the journal anew, with these nodes.
    ///
    /// # Errors
    ///
    /// What the file system says; the old one stays then.
    pub fn rewrite<'a>(&mut self, known: impl Iterator<Item = (u64, &'a Known)>) -> io::Result<()> {
        let mut text = Vec::new();
        let mut lines = 0;
        for (id, known) in known {
            serde_json::to_writer(&mut text, &Line::of(id, known))?;
            text.push(b'\n');
            lines += 1;
        }
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut fresh = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
        fresh.write_all(&text)?;
        self.file = fresh.persist(&self.path).map_err(|failed| failed.error)?;
        (self.lines, self.is_torn) = (lines, false);
        Ok(())
    }

    fn append(&mut self, line: &Line) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if self.is_torn {
            text.insert(0, b'\n');
        }
        self.lines += 1;
        let written = self.file.write_all(&text);
        self.is_torn = written.is_err();
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "node journal");
        }
    }
}

/// Removes the journal at `path`; none is fine.
pub fn forget(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "node journal");
    }
}

impl Line {
    fn of(id: u64, known: &Known) -> Self {
        let file = match &known.node {
            TreeNode::Directory => None,
            TreeNode::File(version) => Some(FileLine {
                size: version.size,
                etag: version.etag.clone(),
                modified_s: version
                    .modified
                    .and_then(|time| Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())),
                is_settled: version.is_settled,
            }),
        };
        Self { id, path: Some(known.path.as_str().to_owned()), file }
    }

    /// The node that it is about; `None` when it says that it was forgotten.
    fn known(&self) -> Option<Known> {
        let path = TreePath::parse(self.path.as_deref()?)?;
        let node = match &self.file {
            None => TreeNode::Directory,
            Some(file) => TreeNode::File(FileVersion {
                size: file.size,
                etag: file.etag.clone(),
                modified: file
                    .modified_s
                    .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
                is_settled: file.is_settled,
            }),
        };
        Some(Known { path, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(path: &str, node: TreeNode) -> Known {
        Known { path: TreePath::parse(path).expect("sound"), node }
    }

    #[test]
    fn what_was_learnt_and_not_forgotten_comes_back() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("nodes");
        let version = FileVersion {
            size: 7,
            etag: Some("\"a\"".into()),
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(9)),
            is_settled: true,
        };
        let (dir, file) = (known("a", TreeNode::Directory), known("a/é", TreeNode::File(version)));
        let (mut journal, none) = Journal::open(&path).expect("a new one");
        assert!(none.is_empty());
        journal.learn(2, &dir);
        journal.learn(3, &file);
        journal.learn(4, &file);
        journal.forget(4);
        drop(journal);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"id\":5,\"pa").unwrap();
        let (mut journal, found) = Journal::open(&path).expect("it can be read");
        assert_eq!(found, BTreeMap::from([(2, dir), (3, file.clone())]), "half a line is no line");
        journal.learn(6, &file);
        assert_eq!(Journal::open(&path).expect("it can be read").1.len(), 3);
        forget(&path);
        forget(&path);
        assert!(!path.exists());
    }
}
