//! The tree: every directory once, every name, and how many names each inode has.

use std::collections::HashMap;

use super::fault::{FaultKind, Faults};
use crate::dirent::{DirBlock, Dirent};
use crate::{DirFault, Error, FileType, Image, Inode, Nid};

/// Most damaged blocks of one directory that are looked at: a directory of zeros has no end.
const BAD_BLOCKS_MAX: u32 = 16;

/// What the walk counted.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub inodes: u64,
    pub directories: u64,
    pub entries: u64,
    pub file_bytes: u64,
}

/// The names that lead to an inode.
struct Links {
    kind: FileType,
    stored: u32,
    found: u64,
}

/// Walks the tree, or what is below `from`, and hands every inode to `send`, once.
pub(super) fn walk(image: &Image, from: Option<Nid>, faults: &Faults, send: &mut dyn FnMut(Inode)) -> Found {
    let mut walk =
        Walk { image, faults, send, links: HashMap::new(), todo: Vec::new(), found: Found::default() };
    match from {
        Some(nid) => walk.below(nid, None),
        None => walk.whole(),
    }
    walk.found
}

struct Walk<'a> {
    image: &'a Image,
    faults: &'a Faults,
    send: &'a mut dyn FnMut(Inode),
    /// Every inode met; `None` for what cannot be read.
    links: HashMap<Nid, Option<Links>>,
    /// Directories to go through, each with its parent, if that is known.
    todo: Vec<(Inode, Option<Nid>)>,
    found: Found,
}

impl Walk<'_> {
    fn below(&mut self, nid: Nid, parent: Option<Nid>) {
        self.meet(nid, parent);
        while let Some((dir, parent)) = self.todo.pop() {
            self.directory(&dir, parent);
        }
    }

    fn whole(&mut self) {
        for inode in self.image.unnamed_inodes() {
            (self.send)(*inode);
        }
        let root = self.image.root();
        self.below(root, Some(root));
        for (nid, links) in &self.links {
            if let Some(Links { kind, stored, found }) = *links {
                // A directory with one link does not count its subdirectories, as on btrfs.
                let uncounted = kind == FileType::Directory && stored == 1;
                if u64::from(stored) != found && !uncounted {
                    self.faults.inode(*nid, FaultKind::Links { stored, found });
                }
            }
        }
    }

    /// Reads an inode when it is met for the first time; returns its kind.
    fn meet(&mut self, nid: Nid, parent: Option<Nid>) -> Option<FileType> {
        if let Some(links) = self.links.get(&nid) {
            return links.as_ref().map(|links| links.kind);
        }
        let inode = self.image.inode(nid).map_err(|error| self.faults.inode(nid, error)).ok();
        let links = inode.map(|Inode { kind, nlink, .. }| Links {
            kind,
            stored: nlink,
            found: if kind == FileType::Directory { 2 } else { 0 },
        });
        self.links.insert(nid, links);
        let inode = inode?;
        self.found.inodes += 1;
        match inode.kind {
            FileType::Directory => {
                self.found.directories += 1;
                self.todo.push((inode, parent));
            }
            FileType::Regular => self.found.file_bytes = self.found.file_bytes.saturating_add(inode.size),
            _ => {}
        }
        (self.send)(inode);
        Some(inode.kind)
    }

    fn directory(&mut self, dir: &Inode, parent: Option<Nid>) {
        let blocks = match self.image.dir_blocks(dir) {
            Ok(blocks) => blocks,
            Err(error) => {
                self.faults.inode(dir.nid, error);
                return;
            }
        };
        let mut listing = Listing { last: Vec::new(), dot: None, dotdot: None, bad: 0 };
        let mut buffer = Vec::new();
        for number in 0..blocks {
            if let Err(error) = self.image.read_dir_block(dir, number, &mut buffer) {
                self.faults.inode(dir.nid, error);
                // What lies behind a place that cannot be read cannot be read either, mostly.
                break;
            }
            if !self.block(dir, number, &buffer, &mut listing) {
                listing.bad += 1;
                if listing.bad >= BAD_BLOCKS_MAX {
                    break;
                }
            }
        }
        self.dots(dir, parent, &listing);
    }

    /// Goes through the entries of a block; returns whether all of them could be made out.
    fn block(&mut self, dir: &Inode, number: u64, bytes: &[u8], listing: &mut Listing) -> bool {
        let faults = self.faults;
        let fault = |fault| {
            faults.inode(dir.nid, Error::Directory { nid: dir.nid, block: number, fault });
            false
        };
        let block = match DirBlock::parse(bytes) {
            Ok(block) => block,
            Err(found) => return fault(found),
        };
        let mut good = true;
        for index in 0..block.count() {
            match block.entry(index) {
                Err(found) => {
                    good = fault(found);
                    break;
                }
                Ok(entry) if entry.name.contains(&b'/') || entry.name.contains(&0) => {
                    good = fault(DirFault::NameByte { index });
                }
                Ok(entry) => {
                    if entry.name <= listing.last.as_slice() {
                        good = fault(DirFault::Order { index });
                    }
                    listing.last.clear();
                    listing.last.extend_from_slice(entry.name);
                    self.entry(dir, entry, listing);
                }
            }
        }
        good
    }

    fn entry(&mut self, dir: &Inode, entry: Dirent<'_>, listing: &mut Listing) {
        match entry.name {
            b"." => listing.dot = Some(entry.nid),
            b".." => listing.dotdot = Some(entry.nid),
            _ => {
                self.found.entries += 1;
                let known = self.links.contains_key(&entry.nid);
                let found = self.meet(entry.nid, Some(dir.nid));
                if found == Some(FileType::Directory) {
                    if known {
                        self.faults.inode(entry.nid, Error::DirectoryLinkedTwice { nid: entry.nid });
                    } else {
                        self.link(dir.nid);
                    }
                } else {
                    self.link(entry.nid);
                }
                if let Some(found) = found.filter(|&found| entry.kind != Some(found)) {
                    let (name, claimed) = (entry.name.to_vec(), entry.kind);
                    self.faults.inode(dir.nid, FaultKind::EntryType { name, claimed, found });
                }
            }
        }
    }

    fn link(&mut self, nid: Nid) {
        if let Some(Some(links)) = self.links.get_mut(&nid) {
            links.found += 1;
        }
    }

    /// Checks where `.` and `..` lead.
    fn dots(&self, dir: &Inode, parent: Option<Nid>, listing: &Listing) {
        let dot = listing.dot.or(dir.dot_omitted.then_some(dir.nid));
        for (name, found, expected) in [(".", dot, Some(dir.nid)), ("..", listing.dotdot, parent)] {
            match (found, expected) {
                // In a damaged directory it may be what is damaged.
                (None, _) if listing.bad > 0 => {}
                (None, _) => {
                    self.faults.inode(dir.nid, FaultKind::NoDot { name });
                }
                (Some(found), Some(expected)) if found != expected => {
                    self.faults.inode(dir.nid, FaultKind::DotElsewhere { name, found, expected });
                }
                (Some(_), _) => {}
            }
        }
    }
}

/// What a directory was seen to have.
struct Listing {
    last: Vec<u8>,
    dot: Option<Nid>,
    dotdot: Option<Nid>,
    bad: u32,
}
