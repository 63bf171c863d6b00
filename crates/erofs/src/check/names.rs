//! Paths for faults: looked for afterwards, since a sound image needs none.

use std::collections::{HashMap, HashSet};

use super::fault::Fault;
use crate::dirent::DirBlock;
use crate::{FileType, Image, Inode, Nid};

/// Entries looked at, at most: the paths are for people, and the faults are known without them.
const ENTRIES_MAX: u64 = 20_000_000;

/// Fills in the paths of faults, as far as they are found.
pub(super) fn find(image: &Image, faults: &mut [Fault]) {
    let mut wanted: HashMap<Nid, Option<Vec<u8>>> =
        faults.iter().filter_map(|fault| Some((fault.nid?, None))).collect();
    if wanted.is_empty() {
        return;
    }
    let mut search = Search { image, missing: wanted.len(), wanted: &mut wanted, left: ENTRIES_MAX };
    search.run();
    for fault in faults {
        fault.path = fault.nid.and_then(|nid| wanted.get(&nid).cloned().flatten());
    }
}

struct Search<'a> {
    image: &'a Image,
    wanted: &'a mut HashMap<Nid, Option<Vec<u8>>>,
    missing: usize,
    left: u64,
}

impl Search<'_> {
    fn run(&mut self) {
        let root = self.image.root();
        self.meet(root, &[]);
        let mut seen = HashSet::from([root]);
        // Paths of directories still to be listed: the last one first, so that few wait.
        let mut todo = vec![(root, Vec::new())];
        while let Some((nid, path)) = todo.pop() {
            let Ok(dir) = self.image.inode(nid) else { continue };
            let mut below = self.list(&dir, &path);
            below.retain(|(nid, _)| seen.insert(*nid));
            todo.append(&mut below);
            if self.missing == 0 || self.left == 0 {
                return;
            }
        }
    }

    /// Looks at the names of a directory and returns the directories among them.
    fn list(&mut self, dir: &Inode, path: &[u8]) -> Vec<(Nid, Vec<u8>)> {
        let mut below = Vec::new();
        let mut buffer = Vec::new();
        for number in 0..self.image.dir_blocks(dir).unwrap_or(0) {
            if self.image.read_dir_block(dir, number, &mut buffer).is_err() {
                break;
            }
            let Ok(block) = DirBlock::parse(&buffer) else { break };
            for entry in (0..block.count()).map_while(|index| block.entry(index).ok()) {
                self.left = self.left.saturating_sub(1);
                if entry.name == b"." || entry.name == b".." || self.left == 0 {
                    continue;
                }
                let mut path = path.to_vec();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(entry.name);
                self.meet(entry.nid, &path);
                // What the entry says it is decides here: the inode may be damaged, or say something else.
                if entry.kind.is_none_or(|kind| kind == FileType::Directory) {
                    below.push((entry.nid, path));
                }
            }
        }
        below
    }

    fn meet(&mut self, nid: Nid, path: &[u8]) {
        if let Some(place @ None) = self.wanted.get_mut(&nid) {
            *place = Some(path.to_vec());
            self.missing -= 1;
        }
    }
}
