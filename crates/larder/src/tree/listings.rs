//! [`Listings`]: directories as they were listed, for those who read them and for a moment for those who look up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_remote::tree::{Listed, TreeEntry, TreePath};

/// Listings kept for lookups that follow, as those of `ls -l` do.
const RECENT_MAX: usize = 64;
/// Entries of all of them.
const RECENT_ENTRIES_MAX: usize = 1 << 20;

/// A directory as it was listed: sorted by name.
pub type Listing = Arc<[TreeEntry]>;

/// Directories as they were listed.
#[derive(Default)]
pub struct Listings {
    open: HashMap<u64, (TreePath, Listing)>,
    last_handle: u64,
    recent: HashMap<TreePath, (Instant, Listing)>,
}

/// What a recent listing says of a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recent<'a> {
    /// Nothing: there is none.
    Unknown,
    /// The name is not there.
    Missing,
    /// It is.
    Found(&'a Listed),
}

/// Sorts a listing, so that a place in it means the same whoever lists it again.
pub fn sorted(mut entries: Vec<TreeEntry>) -> Listing {
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    entries.into()
}

impl Listings {
    /// Keeps a listing for a handle, and as the recent one of its directory.
    pub fn keep(&mut self, directory: TreePath, listing: Listing, now: Instant) -> u64 {
        let entries = |recent: &HashMap<TreePath, (Instant, Listing)>| -> usize {
            recent.values().map(|(_, listing)| listing.len()).sum()
        };
        while self.recent.len() >= RECENT_MAX
            || entries(&self.recent).saturating_add(listing.len()) > RECENT_ENTRIES_MAX
        {
            let oldest = self.recent.iter().min_by_key(|(_, (at, _))| *at).map(|(path, _)| path.clone());
            let Some(oldest) = oldest else { break };
            self.recent.remove(&oldest);
        }
        self.recent.insert(directory.clone(), (now, Arc::clone(&listing)));
        self.last_handle += 1;
        self.open.insert(self.last_handle, (directory, listing));
        self.last_handle
    }

    /// The listing of a handle for `directory`; a handle of an earlier worker may be that of another one here.
    pub fn of(&self, handle: u64, directory: &TreePath) -> Option<Listing> {
        self.open.get(&handle).filter(|(path, _)| path == directory).map(|(_, listing)| Arc::clone(listing))
    }

    /// A handle is closed.
    pub fn close(&mut self, handle: u64) {
        self.open.remove(&handle);
    }

    /// Forgets the recent listing of a directory: something in it is known to have changed.
    pub fn outdate(&mut self, directory: &TreePath) {
        self.recent.remove(directory);
    }

    /// What a listing that is not older than `age` says of `name`.
    pub fn recent(&mut self, directory: &TreePath, name: &str, age: Duration, now: Instant) -> Recent<'_> {
        if self.recent.get(directory).is_some_and(|(at, _)| now.saturating_duration_since(*at) > age) {
            self.recent.remove(directory);
        }
        let Some((_, listing)) = self.recent.get(directory) else { return Recent::Unknown };
        match listing.binary_search_by(|entry| entry.name.as_str().cmp(name)) {
            Ok(place) => Recent::Found(&listing[place].node),
            Err(_) => Recent::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_answers_for_a_moment_and_its_handle_until_it_is_closed() {
        let entry = |name: &str| TreeEntry { name: name.into(), node: Listed::Directory };
        let (mut listings, now, age) = (Listings::default(), Instant::now(), Duration::from_secs(1));
        let root = TreePath::root();
        let handle = listings.keep(root.clone(), sorted(vec![entry("b"), entry("a")]), now);
        assert_eq!(listings.of(handle, &root).expect("open")[0].name, "a");
        assert!(listings.of(handle, &TreePath::parse("a").expect("sound")).is_none());
        assert_eq!(listings.recent(&root, "b", age, now), Recent::Found(&Listed::Directory));
        assert_eq!(listings.recent(&root, "c", age, now), Recent::Missing);
        assert_eq!(listings.recent(&root, "b", age, now + age * 2), Recent::Unknown);
        assert!(listings.of(handle, &root).is_some());
        listings.close(handle);
        assert!(listings.of(handle, &root).is_none());
        for n in 0..1000 {
            listings.keep(TreePath::parse(&n.to_string()).expect("sound"), sorted(Vec::new()), now);
        }
        assert!(listings.recent.len() <= RECENT_MAX);
    }
}
