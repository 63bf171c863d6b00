//! Paths for faults: looked for afterwards, since a sound image needs none.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::fault::Fault;
use crate::dirent::DirBlock;
use crate::{FileType, Image, Inode, Nid};

/// Entries looked at, at most: the paths are for people, and the faults are known without them.
const ENTRIES_MAX: u64 = 20_000_000;
/// Bytes of a path, at most: no system call takes as many.
const PATH_BYTES_MAX: usize = 64 << 10;
/// Bytes that a name takes which is kept, beside its own: about those of an entry in a table.
const KNOWN_BYTES: usize = 64;
/// Bytes of all paths together, at most; further faults are named by their inode alone.
const PATHS_BYTES_MAX: usize = 16 << 20;

/// Fills in the paths of faults, as far as they are found.
///
/// Memory: some bytes for each directory of the image, and the names on the way to what is wanted.
pub(super) fn find(image: &Image, faults: &mut [Fault]) {
    let wanted: HashSet<Nid> = faults.iter().filter_map(|fault| fault.nid).collect();
    if wanted.is_empty() {
        return;
    }
    let (missing, found) = (wanted.len(), HashMap::new());
    let mut search = Search { image, wanted, missing, found, above: HashMap::new(), left: ENTRIES_MAX };
    search.run();
    let mut paths = Paths::new(image, &search);
    for fault in faults {
        fault.path = fault.nid.and_then(|nid| paths.of(nid));
    }
}

/// Finds out which directories what is wanted lies in. Names are not kept: a path repeats those above it, and a small
/// image can have many long ones.
struct Search<'a> {
    image: &'a Image,
    wanted: HashSet<Nid>,
    missing: usize,
    /// Where a name of what is wanted was found.
    found: HashMap<Nid, EntryAt>,
    /// Where the name of each directory was found; the root has none.
    above: HashMap<Nid, EntryAt>,
    left: u64,
}

/// A place in a directory.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct EntryAt {
    dir: Nid,
    block: u64,
    index: usize,
}

impl Search<'_> {
    fn run(&mut self) {
        let root = self.image.root();
        self.missing -= usize::from(self.wanted.contains(&root));
        // Directories still to be listed: the last one first, so that few wait.
        let mut todo = vec![root];
        while let Some(nid) = todo.pop() {
            if self.missing == 0 || self.left == 0 {
                return;
            }
            let Ok(dir) = self.image.inode(nid) else { continue };
            self.list(&dir, &mut todo);
        }
    }

    /// Looks at the names of a directory and adds the directories among them, each once.
    fn list(&mut self, dir: &Inode, todo: &mut Vec<Nid>) {
        let root = self.image.root();
        let mut buffer = Vec::new();
        for block in 0..self.image.dir_blocks(dir).unwrap_or(0) {
            if self.image.read_dir_block(dir, block, &mut buffer).is_err() {
                break;
            }
            let Ok(entries) = DirBlock::parse(&buffer) else { break };
            for (index, entry) in
                (0..entries.count()).map_while(|index| Some((index, entries.entry(index).ok()?)))
            {
                self.left = self.left.saturating_sub(1);
                if entry.name == b"." || entry.name == b".." || self.left == 0 {
                    continue;
                }
                let at = EntryAt { dir: dir.nid, block, index };
                if entry.nid != root
                    && self.wanted.contains(&entry.nid)
                    && !self.found.contains_key(&entry.nid)
                {
                    self.found.insert(entry.nid, at);
                    self.missing -= 1;
                }
                // What the entry says it is decides here: the inode may be damaged, or say something else.
                let is_dir = entry.kind.is_none_or(|kind| kind == FileType::Directory);
                if is_dir && entry.nid != root && !self.above.contains_key(&entry.nid) {
                    self.above.insert(entry.nid, at);
                    todo.push(entry.nid);
                }
            }
        }
    }
}

/// Puts paths together, from the names that are read once more.
struct Paths<'a> {
    image: &'a Image,
    search: &'a Search<'a>,
    /// Bytes that all paths may still have together.
    left: usize,
    /// Names of directories, which many paths go through.
    known: HashMap<EntryAt, Rc<[u8]>>,
    /// Bytes that they may still take.
    known_left: usize,
    buffer: Vec<u8>,
}

impl<'a> Paths<'a> {
    fn new(image: &'a Image, search: &'a Search<'a>) -> Self {
        let (left, known_left) = (PATHS_BYTES_MAX, PATHS_BYTES_MAX);
        Self { image, search, left, known: HashMap::new(), known_left, buffer: Vec::new() }
    }

    /// The path of an inode; `None` when none was found, or there is no room for it.
    fn of(&mut self, nid: Nid) -> Option<Vec<u8>> {
        let root = self.image.root();
        let mut names = Vec::new();
        let (mut at, mut len) = (self.search.found.get(&nid).copied(), 0);
        if at.is_none() && nid != root {
            return None;
        }
        while let Some(place) = at {
            let name = if names.is_empty() { self.read(place)? } else { self.of_dir(place)? };
            len += name.len() + 1;
            self.left = self.left.saturating_sub(name.len() + 1);
            if len > PATH_BYTES_MAX || self.left == 0 {
                return None;
            }
            names.push(name);
            // A directory was met before what is in it, so this ends at the root.
            at = self.search.above.get(&place.dir).copied();
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// The name of a directory.
    fn of_dir(&mut self, at: EntryAt) -> Option<Rc<[u8]>> {
        if let Some(name) = self.known.get(&at) {
            return Some(Rc::clone(name));
        }
        let name = self.read(at)?;
        let bytes = name.len() + KNOWN_BYTES;
        if let Some(left) = self.known_left.checked_sub(bytes) {
            self.known_left = left;
            self.known.insert(at, Rc::clone(&name));
        }
        Some(name)
    }

    fn read(&mut self, at: EntryAt) -> Option<Rc<[u8]>> {
        let inode = self.image.inode(at.dir).ok()?;
        self.image.read_dir_block(&inode, at.block, &mut self.buffer).ok()?;
        Some(DirBlock::parse(&self.buffer).ok()?.entry(at.index).ok()?.name.into())
    }
}
