//! Names of the simulated disk: what a process sees, what is synced, and what lies between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::layout::folder_of;

/// What a name stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    /// A folder, and the number that no other has.
    Dir(u64),
    File(u64),
    /// An attribute of the folder it lies in: made, lost and synced as a name in it is.
    Attr(Arc<[u8]>),
}

/// The path that stands for an attribute of a folder. No name of a file begins with a NUL.
pub(super) fn attr_path(dir: &str, name: &str) -> String {
    format!("{dir}/\0{name}")
}

#[derive(Clone, Default)]
pub(super) struct Names {
    now: BTreeMap<String, Entry>,
    synced: BTreeMap<String, Entry>,
    /// Changes that no sync of a folder has covered, oldest first.
    unsynced: Vec<Change>,
}

/// One change, which happens whole or not at all: a rename is both halves.
#[derive(Clone)]
struct Change {
    removed: Option<String>,
    added: Option<(String, Entry)>,
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        let removed = self.removed.as_ref().and_then(|path| Some((path, names.remove(path)?)));
        if let Some((path, entry)) = &self.added {
            names.insert(path.clone(), entry.clone());
        }
        match (removed, &self.added) {
            (Some((from, Entry::Dir(_))), Some((to, Entry::Dir(_)))) => move_inside(names, from, to),
            // Only attributes can be left in a folder that is removed.
            (Some((path, Entry::Dir(_))), None) => {
                let prefix = format!("{path}/");
                names.retain(|inside, _| !inside.starts_with(&prefix));
            }
            _ => {}
        }
    }

    fn paths(&self) -> impl Iterator<Item = &str> {
        self.removed.iter().chain(self.added.iter().map(|(path, _)| path)).map(String::as_str)
    }

    fn touches(&self, dir: &str) -> bool {
        self.paths().any(|path| folder_of(path) == dir)
    }
}

/// Moves what lies in a folder along with it.
fn move_inside(names: &mut BTreeMap<String, Entry>, from: &str, to: &str) {
    let prefix = format!("{from}/");
    let inside: Vec<String> = names.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
    for path in inside {
        let entry = names.remove(&path).expect("just seen");
        names.insert(format!("{to}/{}", &path[prefix.len()..]), entry);
    }
}

impl Names {
    pub fn get(&self, path: &str) -> Option<Entry> {
        self.now.get(path).cloned()
    }

    pub fn list(&self, dir: &str) -> Vec<String> {
        let inside = self.now.keys().filter(|path| folder_of(path) == dir && !path.contains('\0'));
        inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect()
    }

    /// The files below a folder, however deep.
    pub fn files_below(&self, dir: &str) -> impl Iterator<Item = u64> {
        let inside = self
            .now
            .iter()
            .filter(move |(path, _)| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')));
        inside.filter_map(|(_, entry)| if let Entry::File(id) = entry { Some(*id) } else { None })
    }

    pub fn change(&mut self, removed: Option<&str>, added: Option<(&str, Entry)>) {
        let change = Change {
            removed: removed.map(str::to_owned),
            added: added.map(|(path, entry)| (path.to_owned(), entry)),
        };
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    /// Syncs the changes of a folder, and what was done before them to the same names: a journal keeps their order.
    pub fn sync(&mut self, dir: &str) {
        let (mut covered, mut rest) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for change in self.unsynced.drain(..).rev() {
            let here = change.touches(dir) || change.paths().any(|path| names.contains(path));
            if here {
                names.extend(change.paths().map(str::to_owned));
                covered.push(change);
            } else {
                rest.push(change);
            }
        }
        rest.reverse();
        self.unsynced = rest;
        covered.iter().rev().for_each(|change| change.apply(&mut self.synced));
    }

    pub fn sync_all(&mut self) {
        self.unsynced.clear();
        self.synced = self.now.clone();
    }

    /// Whether the file has a name.
    pub fn has_name(&self, id: u64) -> bool {
        self.now.values().any(|found| *found == Entry::File(id))
    }

    /// Whether any state that a crash could leave, or the present one, has the file.
    pub fn mentions(&self, id: u64) -> bool {
        let entry = Entry::File(id);
        let added = self.unsynced.iter().filter_map(|change| change.added.as_ref());
        let mut all = self.now.values().chain(self.synced.values()).chain(added.map(|(_, entry)| entry));
        all.any(|found| *found == entry)
    }

    pub fn after_power_loss(&self, mut keep: impl FnMut() -> bool) -> Self {
        let mut names = self.synced.clone();
        for change in self.unsynced.iter().filter(|_| keep()) {
            // What was lost before cannot be renamed or removed.
            if change.removed.as_ref().is_none_or(|path| names.contains_key(path)) {
                change.apply(&mut names);
            }
        }
        // Without its folder nothing is reachable. Folders sort before what is in them.
        let mut reachable = BTreeMap::new();
        for (path, entry) in names {
            let dir = folder_of(&path);
            if dir.is_empty() || matches!(reachable.get(dir), Some(Entry::Dir(_))) {
                reachable.insert(path, entry);
            }
        }
        Self { now: reachable.clone(), synced: reachable, unsynced: Vec::new() }
    }
}
