//! [`Listings`]: directories as they were listed, for those who read them and for a moment for those who look up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_remote::tree::{Listed, TreeEntry, TreePath};

/// Listings kept for lookups that follow, as those of `ls -l` do.
const RECENT_MAX: usize = 64;
/// Entries of all of them.
const RECENT_ENTRIES_MAX: usize = 1 << 20;
/// Entries that open directories keep in memory, all together: two of the largest that there may be.
const OPEN_ENTRIES_MAX: usize = 2 << 20;

/// A directory as it was listed: sorted by name.
pub type Listing = Arc<[TreeEntry]>;

/// Directories as they were listed.
#[derive(Default)]
pub struct Listings {
    open: HashMap<u64, (TreePath, Listing)>,
    last_handle: u64,
    /// How many handles share a listing, by its address: it has it for as long as there is one.
    sharing: HashMap<usize, usize>,
    /// Entries of the listings of all handles, those of a shared one counted once.
    open_entries: usize,
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
    /// Keeps a listing as the recent one of its directory.
    pub fn remember(&mut self, directory: &TreePath, listing: &Listing, now: Instant) {
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
        self.recent.insert(directory.clone(), (now, Arc::clone(listing)));
    }

    /// Keeps a listing for a handle, until that is closed; `None` when open directories keep too much already.
    pub fn hold(&mut self, directory: TreePath, listing: Listing) -> Option<u64> {
        let sharing = self.sharing.get(&address(&listing)).copied().unwrap_or(0);
        if sharing == 0 {
            let open_entries = self.open_entries.saturating_add(listing.len());
            if open_entries > OPEN_ENTRIES_MAX {
                return None;
            }
            self.open_entries = open_entries;
        }
        self.sharing.insert(address(&listing), sharing + 1);
        self.last_handle += 1;
        self.open.insert(self.last_handle, (directory, listing));
        Some(self.last_handle)
    }

    /// The listing of a handle for `directory`; a handle of an earlier worker may be that of another one here.
    pub fn of(&self, handle: u64, directory: &TreePath) -> Option<Listing> {
        self.open.get(&handle).filter(|(path, _)| path == directory).map(|(_, listing)| Arc::clone(listing))
    }

    /// A handle is closed.
    pub fn close(&mut self, handle: u64) {
        let Some((_, listing)) = self.open.remove(&handle) else { return };
        match self.sharing.get_mut(&address(&listing)) {
            Some(sharing) if *sharing > 1 => *sharing -= 1,
            _ => {
                self.sharing.remove(&address(&listing));
                self.open_entries -= listing.len();
            }
        }
    }

    /// Forgets the recent listing of a directory: something in it is known to have changed.
    pub fn outdate(&mut self, directory: &TreePath) {
        self.recent.remove(directory);
    }

    /// The listing of `directory`, if there is one that is not older than `age`.
    pub fn young(&mut self, directory: &TreePath, age: Duration, now: Instant) -> Option<&Listing> {
        if self.recent.get(directory).is_some_and(|(at, _)| now.saturating_duration_since(*at) > age) {
            self.recent.remove(directory);
        }
        self.recent.get(directory).map(|(_, listing)| listing)
    }

    /// What a listing that is not older than `age` says of `name`.
    pub fn recent(&mut self, directory: &TreePath, name: &str, age: Duration, now: Instant) -> Recent<'_> {
        let Some(listing) = self.young(directory, age, now) else { return Recent::Unknown };
        match listing.binary_search_by(|entry| entry.name.as_str().cmp(name)) {
            Ok(place) => Recent::Found(&listing[place].node),
            Err(_) => Recent::Missing,
        }
    }
}

fn address(listing: &Listing) -> usize {
    listing.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_open_directories_share_their_listing_and_keep_no_more_than_a_limit() {
        let entry = || TreeEntry { name: "n".into(), node: Listed::Directory };
        let (mut listings, now, age) = (Listings::default(), Instant::now(), Duration::from_secs(1));
        let root = TreePath::root();
        listings.remember(&root, &sorted(vec![entry(); OPEN_ENTRIES_MAX / 2]), now);
        let mut handles = Vec::new();
        for _ in 0..1000 {
            let listing = Arc::clone(listings.young(&root, age, now).expect("a moment old"));
            handles.push(listings.hold(root.clone(), listing).expect("the same as before"));
        }
        assert!(listings.young(&root, age, now + age * 2).is_none());
        let another = || sorted(vec![entry(); OPEN_ENTRIES_MAX / 2]);
        let second = listings.hold(root.clone(), another()).expect("as much as there may be");
        let one = || sorted(vec![entry()]);
        assert_eq!(listings.hold(root.clone(), one()), None);
        listings.close(second);
        listings.close(second);
        let second = listings.hold(root.clone(), another()).expect("there is room again");
        handles.drain(..).for_each(|handle| listings.close(handle));
        assert!(listings.hold(root.clone(), another()).is_some(), "the last handle has let it go");
        listings.close(second);
        assert!(listings.hold(root, one()).is_some());
    }

    #[test]
    fn a_listing_answers_for_a_moment_and_its_handle_until_it_is_closed() {
        let entry = |name: &str| TreeEntry { name: name.into(), node: Listed::Directory };
        let (mut listings, now, age) = (Listings::default(), Instant::now(), Duration::from_secs(1));
        let root = TreePath::root();
        let listing = sorted(vec![entry("b"), entry("a")]);
        listings.remember(&root, &listing, now);
        let handle = listings.hold(root.clone(), listing).expect("small");
        assert_eq!(listings.of(handle, &root).expect("open")[0].name, "a");
        assert!(listings.of(handle, &TreePath::parse("a").expect("sound")).is_none());
        assert_eq!(listings.recent(&root, "b", age, now), Recent::Found(&Listed::Directory));
        assert_eq!(listings.recent(&root, "c", age, now), Recent::Missing);
        assert_eq!(listings.recent(&root, "b", age, now + age * 2), Recent::Unknown);
        assert!(listings.of(handle, &root).is_some());
        listings.close(handle);
        assert!(listings.of(handle, &root).is_none());
        for n in 0..1000 {
            listings.remember(&TreePath::parse(&n.to_string()).expect("sound"), &sorted(Vec::new()), now);
        }
        assert!(listings.recent.len() <= RECENT_MAX);
    }
}
