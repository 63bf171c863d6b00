//! [`TreeFs`]: a tree as the FUSE loop serves it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use larder_mount::fuse::{
    Attributes, Backing, BackingId, Data, Entry, Errno, FileSystem, ListAt, Listing, Name, NodeId, Opened,
    OpenedDir, Outcome, ReadAt, Size, Validity,
};
use larder_netfs::File;
use larder_remote::tree::{FileVersion, Listed, TreeNode, TreePath, TreeStore};

use super::Files;
use super::listings::{self, Listings, Recent};
use super::nodes::{Nodes, Way};
use super::source::errno;
use crate::errors::chain;

/// For how long a directory, or what a listing said, is taken as it was: names are looked up one after the other.
const NAMES_VALID: Duration = Duration::from_secs(1);
/// What is told as the best size of a read: the largest that the loop answers.
const BLOCK_BYTES: u32 = 1 << 20;

/// A tree as the FUSE loop serves it. Cheap to clone.
#[derive(Clone)]
pub struct TreeFs(Arc<Inner>);

struct Inner {
    store: Arc<dyn TreeStore>,
    files: Files,
    /// For how long a version may be taken for the current one without asking.
    revalidate: Duration,
    mounted: SystemTime,
    owner: (u32, u32),
    nodes: Mutex<Nodes>,
    listings: Mutex<Listings>,
}

impl TreeFs {
    /// Serves `store`; the nodes that an earlier worker handed out are read from `journal`.
    ///
    /// # Errors
    ///
    /// When the journal can be neither read nor written.
    pub fn new(
        store: Arc<dyn TreeStore>,
        files: Files,
        revalidate: Duration,
        journal: &Path,
    ) -> io::Result<Self> {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let nodes = Mutex::new(Nodes::open(journal)?);
        let (mounted, listings) = (SystemTime::now(), Mutex::default());
        Ok(Self(Arc::new(Inner { store, files, revalidate, mounted, owner, nodes, listings })))
    }

    fn path_of(&self, node: NodeId) -> Result<(TreePath, TreeNode), Errno> {
        let nodes = self.nodes();
        let node = nodes.get(node).ok_or(libc::ESTALE)?;
        Ok((node.known.path.clone(), node.known.node.clone()))
    }

    fn directory(&self, node: NodeId) -> Result<TreePath, Errno> {
        match self.path_of(node)? {
            (path, TreeNode::Directory) => Ok(path),
            _ => Err(libc::ENOTDIR),
        }
    }

    /// Asks the server what lies at `path`, and takes note of it.
    async fn look_up(self, path: TreePath) -> Result<Entry, Errno> {
        let found = answered(&path, self.0.store.look_up(&path).await)?;
        Ok(self.entry(&path, found.as_ref(), true))
    }

    /// The entry for what was found at `path`; `is_confirmed` when the server has just been asked about it.
    fn entry(&self, path: &TreePath, found: Option<&TreeNode>, is_confirmed: bool) -> Entry {
        let Some(found) = found else { return Entry { node: None, valid: self.names_valid() } };
        let mut nodes = self.nodes();
        let id = nodes.learn(path, found);
        if let Some(node) = nodes.get_mut(id).filter(|_| is_confirmed) {
            node.confirmed = Some(Instant::now());
        }
        let valid = match found {
            TreeNode::Directory => Validity(self.directories_valid()),
            TreeNode::File(version) => Validity(self.age_of(version)),
        };
        Entry { node: Some((id, self.attributes(path, found))), valid }
    }

    /// With close-to-open every path that is opened is looked up.
    fn names_valid(&self) -> Validity {
        Validity(self.0.revalidate)
    }

    fn directories_valid(&self) -> Duration {
        self.0.revalidate.max(NAMES_VALID)
    }

    /// For how long a version may be taken for the current one: one that is not settled is asked for until it is.
    fn age_of(&self, version: &FileVersion) -> Duration {
        if version.is_settled { self.0.revalidate } else { Duration::ZERO }
    }

    fn attributes(&self, path: &TreePath, node: &TreeNode) -> Attributes {
        let (mode, size, modified, nlink) = match node {
            TreeNode::Directory => (libc::S_IFDIR | 0o555, 0, None, 2),
            TreeNode::File(version) => (libc::S_IFREG | 0o444, version.size, version.modified, 1),
        };
        let time = modified.unwrap_or(self.0.mounted);
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Attributes {
            ino: inode_number(path),
            size,
            mtime_s: i64::try_from(seconds).unwrap_or(i64::MAX),
            mtime_ns: 0,
            mode,
            nlink,
            uid: self.0.owner.0,
            gid: self.0.owner.1,
            rdev: 0,
            block_bytes: BLOCK_BYTES,
        }
    }

    /// What is known of `path` without asking, if anything.
    fn known(&self, directory: &TreePath, name: &str, path: &TreePath) -> Option<Entry> {
        let now = Instant::now();
        let age = self.directories_valid();
        let listed = match self.listings().recent(directory, name, age, now) {
            Recent::Missing => return Some(self.entry(path, None, false)),
            Recent::Found(Listed::Directory) => Some(TreeNode::Directory),
            Recent::Found(Listed::Version(version)) => Some(TreeNode::File(version.clone())),
            Recent::Found(Listed::File) | Recent::Unknown => None,
        };
        let found = listed.or_else(|| {
            let nodes = self.nodes();
            let (_, node) = nodes.newest(path)?;
            let age = match node.known.node {
                TreeNode::Directory => age,
                TreeNode::File(ref version) => self.age_of(version),
            };
            let confirmed = now.saturating_duration_since(node.confirmed?);
            (confirmed < age).then(|| node.known.node.clone())
        });
        found.map(|found| self.entry(path, Some(&found), false))
    }

    /// Asks whether `node` is still the current version.
    async fn confirm(&self, node: NodeId, path: TreePath, version: FileVersion) -> Result<(), Errno> {
        let found = answered(&path, self.0.store.confirm(&path).await)?;
        let mut nodes = self.nodes();
        if found.is_some_and(|found| TreeNode::File(version).is_confirmed_by(&found)) {
            if let Some(node) = nodes.get_mut(node) {
                node.confirmed = Some(Instant::now());
            }
            return Ok(());
        }
        nodes.outdate(node);
        drop(nodes);
        self.listings().outdate(&path.parent());
        Err(libc::ESTALE)
    }

    /// Opens what is known to be the current version.
    fn opened(&self, id: NodeId) -> Result<Opened, Errno> {
        let is_settled = {
            let mut nodes = self.nodes();
            let node = nodes.get_mut(id).ok_or(libc::ESTALE)?;
            let is_settled = matches!(&node.known.node, TreeNode::File(version) if version.is_settled);
            if !is_settled {
                // What an earlier open has in memory may be of other content. It has no cookie to let go.
                node.file = None;
            }
            is_settled
        };
        let (file, _) = self.file(id)?;
        let mut nodes = self.nodes();
        let node = nodes.get_mut(id).ok_or(libc::ESTALE)?;
        node.opens += 1;
        let backing = match node.way {
            Some(Way::Asks) => None,
            Some(Way::Itself(id)) => Some(Backing::Known(id)),
            None => whole(&file).map(Backing::New),
        };
        if backing.is_none() {
            node.way = Some(Way::Asks);
        }
        // A node is one version for ever: what the kernel has of it is right, once no other content can have that version.
        Ok(Opened { handle: HANDLE, keep_cache: is_settled, backing })
    }

    /// The bytes of a node.
    fn file(&self, id: NodeId) -> Result<(Arc<File>, TreePath), Errno> {
        let (path, version) = {
            let nodes = self.nodes();
            let node = nodes.get(id).ok_or(libc::ESTALE)?;
            if let Some(file) = &node.file {
                return Ok((Arc::clone(file), node.known.path.clone()));
            }
            match &node.known.node {
                TreeNode::File(version) => (node.known.path.clone(), version.clone()),
                TreeNode::Directory => return Err(libc::EISDIR),
            }
        };
        let file = self.0.files.open(&self.0.store, &path, &version);
        let mut nodes = self.nodes();
        let node = nodes.get_mut(id).ok_or(libc::ESTALE)?;
        Ok((Arc::clone(node.file.get_or_insert(file)), path))
    }

    /// Lists a directory, or gives the listing of a moment ago.
    async fn list(&self, path: &TreePath) -> Result<listings::Listing, Errno> {
        if let Some(listing) = self.listings().young(path, self.directories_valid(), Instant::now()) {
            return Ok(Arc::clone(listing));
        }
        let entries = self.0.store.list(path).await.map_err(|error| {
            tracing::warn!(%path, error = %chain(&error), "not listed");
            errno(&error)
        })?;
        let listing = listings::sorted(entries);
        self.listings().remember(path, &listing, Instant::now());
        Ok(listing)
    }

    /// Nothing panics while it holds these locks, and what they guard is sound at any moment.
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.0.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cache's file, if it has all of `file` for good: then nobody need be asked for its bytes.
fn whole(file: &File) -> Option<OwnedFd> {
    file.cached().resources()?.object().sealed_file()?.try_clone_to_owned().ok()
}

/// What opens of this worker carry: those of an earlier one carried another, or nothing.
const HANDLE: u64 = 1;

impl FileSystem for TreeFs {
    fn has_state(&self) -> bool {
        true
    }

    fn lookup(&self, parent: NodeId, name: &[u8]) -> Outcome<Entry> {
        let directory = match self.directory(parent) {
            Ok(directory) => directory,
            Err(errno) => return Outcome::error(errno),
        };
        let nothing = || Outcome::Now(Ok(Entry { node: None, valid: self.names_valid() }));
        let Ok(name) = std::str::from_utf8(name) else { return nothing() };
        let Some(path) = directory.join(name) else { return nothing() };
        match self.known(&directory, name, &path) {
            Some(entry) => Outcome::Now(Ok(entry)),
            None => Outcome::later(self.clone().look_up(path)),
        }
    }

    fn forget(&self, node: NodeId, lookups: u64) {
        let forgotten = self.nodes().forget(node, lookups);
        if let Some(file) = forgotten.and_then(|node| node.file) {
            self.0.files.close(Some(file));
        }
    }

    fn getattr(&self, node: NodeId) -> Outcome<(Attributes, Validity)> {
        let found = self.path_of(node);
        Outcome::Now(found.map(|(path, node)| (self.attributes(&path, &node), Validity::FOREVER)))
    }

    fn open(&self, id: NodeId) -> Outcome<Opened> {
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(id) else { return Outcome::error(libc::ESTALE) };
        let TreeNode::File(version) = &node.known.node else { return Outcome::error(libc::EISDIR) };
        if node.is_inherited {
            // How many of its files are open is not known here: of a new node it is.
            return Outcome::error(libc::ESTALE);
        }
        let is_young = node.confirmed.is_some_and(|at| at.elapsed() < self.age_of(version));
        let (path, version) = (node.known.path.clone(), version.clone());
        drop(nodes);
        let fs = self.clone();
        Outcome::later(async move {
            if !is_young {
                // Always: a lookup that another open waited for may have asked before that open began.
                fs.confirm(id, path, version).await?;
            }
            // Opening a cookie reads from the disk.
            let opened = tokio::task::spawn_blocking(move || fs.opened(id)).await;
            opened.map_err(|_| libc::EIO)?
        })
    }

    fn backed(&self, id: NodeId, _handle: u64, backing: Option<BackingId>) -> Option<BackingId> {
        let mut nodes = self.nodes();
        let way = &mut nodes.get_mut(id)?.way;
        // Two first opens may both have come with a file: the first answer counts for both.
        match *way.get_or_insert(backing.map_or(Way::Asks, Way::Itself)) {
            Way::Asks => None,
            Way::Itself(id) => Some(id),
        }
    }

    fn release(&self, id: NodeId, handle: u64) -> Option<BackingId> {
        let mut nodes = self.nodes();
        let node = nodes.get_mut(id)?;
        if node.is_inherited || handle != HANDLE {
            return None;
        }
        node.opens = node.opens.saturating_sub(1);
        if node.opens > 0 {
            return None;
        }
        let (file, way) = (node.file.take(), node.way.take());
        drop(nodes);
        self.0.files.close(file);
        match way? {
            Way::Asks => None,
            Way::Itself(id) => Some(id),
        }
    }

    fn opendir(&self, node: NodeId) -> Outcome<OpenedDir> {
        let directory = match self.directory(node) {
            Ok(directory) => directory,
            Err(errno) => return Outcome::error(errno),
        };
        let fs = self.clone();
        Outcome::later(async move {
            let listing = fs.list(&directory).await?;
            let held = fs.listings().hold(directory.clone(), listing);
            let handle = held.ok_or_else(|| {
                tracing::warn!(path = %directory, "not opened: open directories take too much memory");
                libc::ENFILE
            })?;
            Ok(OpenedDir { handle, ..OpenedDir::default() })
        })
    }

    fn releasedir(&self, handle: u64) {
        self.listings().close(handle);
    }

    fn read(&self, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data> {
        let (file, path) = match self.file(at.node) {
            Ok(found) => found,
            Err(errno) => return Outcome::error(errno),
        };
        match file.read_now(at.offset, at.len, buf) {
            Some(pieces) if pieces.is_empty() => return Outcome::Now(Ok(Data::InBuffer)),
            Some(pieces) => return Outcome::Now(Ok(Data::Pieces(pieces))),
            None => {}
        }
        let (fs, node) = (self.clone(), at.node);
        Outcome::later(async move {
            match file.read(at.offset, at.len).await {
                Ok(pieces) => Ok(Data::Pieces(pieces)),
                Err(error) => {
                    tracing::warn!(%path, at.offset, at.len, error = %chain(&error), "read failed");
                    if matches!(error, larder_netfs::Error::Stale { .. }) {
                        fs.nodes().outdate(node);
                        fs.listings().outdate(&path.parent());
                    }
                    Err(error.errno())
                }
            }
        })
    }

    fn readdir(&self, at: ListAt, listing: Listing) -> Outcome<Listing> {
        let directory = match self.directory(at.node) {
            Ok(directory) => directory,
            Err(errno) => return Outcome::error(errno),
        };
        if let Some(entries) = self.listings().of(at.handle, &directory) {
            return Outcome::Now(Ok(fill(&directory, &entries, at.offset, listing)));
        }
        // Opened with an earlier worker: listed again, and gone on with at the same place.
        let fs = self.clone();
        Outcome::later(async move {
            let entries = fs.list(&directory).await?;
            Ok(fill(&directory, &entries, at.offset, listing))
        })
    }

    fn statfs(&self) -> Size {
        Size { blocks: 0, files: 0, block_bytes: 4096 }
    }
}

/// What a store answered about `path`.
fn answered<T>(path: &TreePath, answer: Result<T, larder_remote::Error>) -> Result<T, Errno> {
    answer.map_err(|error| {
        tracing::warn!(%path, error = %chain(&error), "not looked up");
        errno(&error)
    })
}

/// Lists from `offset` on: the dots, then the entries.
fn fill(directory: &TreePath, entries: &listings::Listing, offset: u64, mut listing: Listing) -> Listing {
    let dots = [(".", directory.clone()), ("..", directory.parent())];
    let dots = dots.into_iter().map(|(name, path)| (name, path, libc::S_IFDIR));
    let entries = entries.iter().filter_map(|entry| {
        let kind = match entry.node {
            Listed::Directory => libc::S_IFDIR,
            Listed::File | Listed::Version(_) => libc::S_IFREG,
        };
        Some((entry.name.as_str(), directory.join(&entry.name)?, kind))
    });
    let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
    for (next, (name, path, type_bits)) in (offset + 1..).zip(dots.chain(entries).skip(skipped)) {
        if !listing.has_room(name.len()) {
            break;
        }
        // Attributes are asked for by name: each is a question to the server of its own.
        listing.push(Name { name: name.as_bytes(), ino: inode_number(&path), next, type_bits }, None);
    }
    listing
}

/// Inode numbers are computed from paths: all versions of a file have the same, as on any file system.
fn inode_number(path: &TreePath) -> u64 {
    if path.is_root() {
        return 1;
    }
    // FNV-1a: a collision shows two files with one number, which mislead only programs that look for hard links, and
    // those look at the number of links first.
    let hash = path.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(2)
}
