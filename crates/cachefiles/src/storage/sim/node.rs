//! Files of the simulated disk: bytes as a process sees them, and as they are on the platters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, fstat, memfd_create};

use super::names::Names;
use crate::storage::{AttrName, Kind, Stat};

/// What is written and lost as one.
pub(super) const PAGE: usize = 4096;

/// A number that is greater than any before: the time of a change, or the number of a folder.
pub(super) fn tick() -> u64 {
    static TICKS: AtomicU64 = AtomicU64::new(1);
    TICKS.fetch_add(1, Ordering::Relaxed)
}

/// All files, by an identifier that is never used again (unlike the inode number).
#[derive(Default)]
pub(super) struct Nodes(HashMap<u64, Node>);

#[derive(Clone)]
pub(super) struct Node {
    token: Arc<OwnedFd>,
    ino: u64,
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Pages that differ, or may.
    dirty: BTreeSet<usize>,
    attrs: Attrs,
    synced_attrs: Attrs,
    used_ms: u64,
    changed: u64,
}

/// Attributes of a file.
type Attrs = BTreeMap<AttrName, Vec<u8>>;

impl Nodes {
    /// Makes an empty file with the lowest free inode number.
    pub fn create(&mut self, names: &Names) -> u64 {
        self.0.retain(|id, node| names.mentions(*id) || Arc::strong_count(&node.token) > 1);
        let used: BTreeSet<u64> = self.0.values().map(|node| node.ino).collect();
        let ino = (1..).find(|ino| !used.contains(ino)).expect("numbers are left");
        let token = memfd_create("sim", MemfdFlags::CLOEXEC).expect("descriptors are left");
        let id = fstat(&token).expect("it is open").st_ino;
        let node = Node {
            token: Arc::new(token),
            ino,
            now: vec![],
            synced: vec![],
            dirty: BTreeSet::new(),
            attrs: Attrs::new(),
            synced_attrs: Attrs::new(),
            used_ms: 0,
            changed: tick(),
        };
        self.0.insert(id, node);
        id
    }

    pub fn get(&self, id: u64) -> Option<&Node> {
        self.0.get(&id)
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.0[&id]
    }

    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.0.get_mut(&id).expect("an open file is not forgotten")
    }

    /// Takes note of the time of a change to a file, or to its names.
    pub fn change(&mut self, id: u64) {
        self.node_mut(id).changed = tick();
    }

    /// The file with an inode number, and the identifier, which is its generation, unless it has neither a name nor anybody
    /// who has it open.
    pub fn of_handle(&self, names: &Names, ino: u64, id: u64) -> Option<u64> {
        let node = self.0.get(&id).filter(|node| node.ino == ino)?;
        (names.has_name(id) || Arc::strong_count(&node.token) > 1).then_some(id)
    }

    pub fn token(&self, id: u64) -> Arc<OwnedFd> {
        Arc::clone(&self.node(id).token)
    }

    pub fn each(&mut self, mut visit: impl FnMut(&mut Node)) {
        self.0.values_mut().for_each(&mut visit);
    }

    pub fn after_power_loss(&self, names: &Names, mut keep: impl FnMut() -> bool) -> Self {
        let mut left: Vec<_> = self.0.iter().filter(|(id, _)| names.mentions(**id)).collect();
        // The coin falls in the same order in every run.
        left.sort_by_key(|(_, node)| node.ino);
        Self(left.into_iter().map(|(id, node)| (*id, node.after_power_loss(&mut keep))).collect())
    }
}

impl Node {
    pub fn read(&self, buf: &mut [u8], at: u64) -> usize {
        let rest = usize::try_from(at).ok().and_then(|at| self.now.get(at..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        len
    }

    pub fn write(&mut self, data: &[u8], at: u64) {
        let start = usize::try_from(at).expect("small");
        let end = start + data.len();
        self.now.resize(self.now.len().max(end), 0);
        self.now[start..end].copy_from_slice(data);
        self.dirty.extend(start / PAGE..end.div_ceil(PAGE));
    }

    pub fn set_len(&mut self, len: u64) {
        self.now.resize(usize::try_from(len).expect("small"), 0);
    }

    pub fn stat(&self) -> Stat {
        let stored = self.now.chunks(PAGE).filter(|page| **page != [0; PAGE][..page.len()]).count() * PAGE;
        Stat {
            kind: Kind::File,
            dev: 1,
            ino: self.ino,
            has_one_name: true,
            len: self.now.len() as u64,
            stored: stored as u64,
            used_ms: self.used_ms,
            changed_ns: self.changed,
        }
    }

    pub fn ino(&self) -> u64 {
        self.ino
    }

    pub fn attr(&self, name: AttrName) -> Option<Vec<u8>> {
        self.attrs.get(name).cloned()
    }

    pub fn set_attr(&mut self, name: AttrName, value: &[u8]) {
        self.attrs.insert(name, value.to_vec());
    }

    pub fn sync_attrs(&mut self) {
        self.synced_attrs = self.attrs.clone();
    }

    pub fn touch(&mut self, now_ms: u64) {
        self.used_ms = now_ms;
    }

    /// Zeroes a range, which lasts through a power loss no sooner than any other change.
    pub fn punch(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len).min(self.now.len() as u64);
        let len = usize::try_from(end.saturating_sub(at)).expect("small");
        if len > 0 {
            self.write(&vec![0; len], at);
        }
    }

    /// Syncs the dirty pages that `pick` picks; the length goes with any of them.
    pub fn sync_some(&mut self, mut pick: impl FnMut() -> bool) {
        if !pick() {
            return;
        }
        self.synced.resize(self.now.len(), 0);
        let picked: Vec<usize> = self.dirty.iter().copied().filter(|_| pick()).collect();
        for page in picked {
            self.dirty.remove(&page);
            copy_page(&self.now, &mut self.synced, page);
        }
    }

    /// A sync that failed. Nothing is dirty afterwards; what was lost reads as before, now or later.
    pub fn lose_some(&mut self, mut coin: impl FnMut() -> bool) {
        self.synced.resize(self.now.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            match (coin(), coin()) {
                (true, _) => copy_page(&self.now, &mut self.synced, page),
                (false, true) => copy_page(&self.synced, &mut self.now, page),
                (false, false) => {}
            }
        }
    }

    fn after_power_loss(&self, mut keep: impl FnMut() -> bool) -> Self {
        let mut left = self.synced.clone();
        if self.now.len() < left.len() && keep() {
            // The end of the last block was zeroed for the new length, whether that lasts or not.
            let end = self.now.len().next_multiple_of(PAGE).min(left.len());
            left[self.now.len()..end].fill(0);
        }
        if keep() {
            left.resize(self.now.len(), 0);
        }
        for page in self.dirty.iter().filter(|_| keep()) {
            copy_page(&self.now, &mut left, *page);
        }
        let attrs = if keep() { self.attrs.clone() } else { self.synced_attrs.clone() };
        Self {
            token: Arc::clone(&self.token),
            ino: self.ino,
            now: left.clone(),
            synced: left,
            dirty: BTreeSet::new(),
            attrs: attrs.clone(),
            synced_attrs: attrs,
            used_ms: self.used_ms,
            changed: self.changed,
        }
    }
}

/// Copies as much of a page as both have.
fn copy_page(from: &[u8], to: &mut [u8], page: usize) {
    let start = page * PAGE;
    let end = (start + PAGE).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}
