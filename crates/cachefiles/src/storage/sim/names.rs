//! Names of the simulated disk: what a process sees, what is synced, and what lies between.

use std::collections::BTreeMap;

use crate::layout::folder_of;

/// What a name stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    Dir,
    File(u64),
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
        if let Some(path) = &self.removed {
            names.remove(path);
        }
        if let Some((path, entry)) = &self.added {
            names.insert(path.clone(), *entry);
        }
    }

    fn touches(&self, dir: &str) -> bool {
        let paths = self.removed.iter().chain(self.added.iter().map(|(path, _)| path));
        paths.into_iter().any(|path| folder_of(path) == dir)
    }
}

impl Names {
    pub fn get(&self, path: &str) -> Option<Entry> {
        self.now.get(path).copied()
    }

    pub fn list(&self, dir: &str) -> Vec<String> {
        let inside = self.now.keys().filter(|path| folder_of(path) == dir);
        inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect()
    }

    pub fn change(&mut self, removed: Option<&str>, added: Option<(&str, Entry)>) {
        let change = Change {
            removed: removed.map(str::to_owned),
            added: added.map(|(path, entry)| (path.to_owned(), entry)),
        };
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    pub fn sync(&mut self, dir: &str) {
        let (covered, rest) = self.unsynced.drain(..).partition(|change| change.touches(dir));
        self.unsynced = rest;
        let covered: Vec<Change> = covered;
        covered.iter().for_each(|change| change.apply(&mut self.synced));
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
            if dir.is_empty() || reachable.get(dir) == Some(&Entry::Dir) {
                reachable.insert(path, entry);
            }
        }
        Self { now: reachable.clone(), synced: reachable, unsynced: Vec::new() }
    }
}
