//! [`Shown`]: which blobs are files of the FUSE, and what they are called there.
//!
//! The kernel keeps node ids over the death of a worker, and pages of a node over the end of the last mount that used
//! it. So an id is a function of what the blob *is*, and never stands for anything else.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::Error;
use crate::content::Content;
use crate::fuse::NodeId;
use crate::mounts::{Names, User};

/// Between a name and its label.
const LABEL: char = '.';

/// A file of the FUSE: its node id and its generation, 95 bits of a digest, which the kernel compares.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct ShownAs {
    pub(super) node: NodeId,
    pub(super) generation: u32,
}

impl ShownAs {
    /// What `content` of the mount `id` is called. A blob is called the same in all mounts, a file in one.
    fn of(content: &Content, id: &str) -> Self {
        let mut digest = Sha256::new_with_prefix(content.identity());
        if let Content::File(..) = content {
            digest.update(format!(" {id}"));
        }
        let digest = digest.finalize();
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = digest.0;
        // The highest bit keeps away from 0 and 1, which mean no node and the root.
        let node = u64::from_le_bytes([a, b, c, d, e, f, g, h]) | 1 << 63;
        Self { node: NodeId(node), generation: u32::from_le_bytes([i, j, k, l]) }
    }

    /// The name with a label for the mount table behind it, in at most `bytes_max` bytes.
    pub(super) fn labelled(self, label: &str, bytes_max: usize) -> String {
        let mut name = format!("{self}{LABEL}");
        for char in label.chars() {
            let char = if char == '/' || char.is_control() { '_' } else { char };
            if name.len() + char.len_utf8() > bytes_max {
                break;
            }
            name.push(char);
        }
        name
    }

    /// What a name stands for, whatever its label.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let (digits, _) = name.split_once(LABEL).unwrap_or((name, ""));
        let (node, generation) = digits.split_at_checked(16)?;
        let node = NodeId(u64::from_str_radix(node, 16).ok()?);
        let shown = Self { node, generation: u32::from_str_radix(generation, 16).ok()? };
        (shown.to_string() == digits).then_some(shown)
    }
}

impl fmt::Display for ShownAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:08x}", self.node.0, self.generation)
    }
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    content: Content,
    users: Vec<User>,
}

/// What is known of a node.
#[derive(Debug)]
pub(super) enum Found {
    /// What it is.
    Known(ShownAs, Content),
    /// Its mount may still have to be taken up.
    NotYet,
    /// No mount has it.
    Unknown,
}

/// The files of the FUSE.
#[derive(Debug)]
pub(super) struct Shown {
    entries: Mutex<HashMap<NodeId, Entry>>,
    /// Whether mounts of an earlier worker may still have to be taken up. Every change of the table is told here.
    resuming: watch::Sender<bool>,
}

impl Shown {
    pub(super) fn new(resuming: bool) -> Self {
        Self { entries: Mutex::default(), resuming: watch::Sender::new(resuming) }
    }

    /// Shows `content` for the mount `user`, whose id is `id`.
    ///
    /// # Errors
    ///
    /// [`Error::NameInUse`] when something else is called the same.
    pub(super) fn enter(&self, user: User, id: &str, content: Content) -> Result<ShownAs, Error> {
        let shown = ShownAs::of(&content, id);
        let mut entries = self.lock();
        let entry = entries.entry(shown.node).or_insert_with(|| Entry {
            generation: shown.generation,
            content: content.clone(),
            users: Vec::new(),
        });
        if entry.generation != shown.generation || !entry.content.is_same(&content) {
            return Err(Error::NameInUse { name: shown.to_string() });
        }
        entry.users.push(user);
        drop(entries);
        // Wakes who waits for it.
        self.resuming.send_modify(|_| {});
        Ok(shown)
    }

    /// Every mount was taken up or given up: what is not known is an error.
    pub(super) fn finish_resume(&self) {
        self.resuming.send_replace(false);
    }

    /// What `node` is.
    pub(super) fn find(&self, node: NodeId) -> Found {
        // Asked first: what is entered before resuming ends is found below.
        let resuming = *self.resuming.borrow();
        match self.lock().get(&node) {
            Some(Entry { generation, content, .. }) => {
                Found::Known(ShownAs { node, generation: *generation }, content.clone())
            }
            None if resuming => Found::NotYet,
            None => Found::Unknown,
        }
    }

    /// The same, as soon as it is certain.
    pub(super) async fn wait_for(&self, node: NodeId) -> Option<(ShownAs, Content)> {
        let mut changes = self.resuming.subscribe();
        loop {
            match self.find(node) {
                Found::Known(shown, content) => return Some((shown, content)),
                Found::Unknown => return None,
                Found::NotYet => {}
            }
            // The sender lives as long as `self` does.
            changes.changed().await.ok()?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names for Shown {
    fn leave(&self, user: User) {
        self.lock().retain(|_, entry| {
            entry.users.retain(|other| *other != user);
            !entry.users.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn file() -> Content {
        Content::of_file(std::fs::File::open("/dev/null").unwrap()).unwrap()
    }

    #[test]
    fn a_name_leads_back_to_its_node_with_and_without_a_label() {
        let shown = ShownAs::of(&file(), "m1");
        assert!(shown.node.0 > 1);
        assert_eq!(ShownAs::parse(shown.to_string().as_bytes()), Some(shown));
        let label = shown.labelled("registry.example/a:1\n", 255);
        assert_eq!(label, format!("{shown}.registry.example_a:1_"));
        assert_eq!(ShownAs::parse(label.as_bytes()), Some(shown));
        let long = shown.labelled(&"ä".repeat(200), 40);
        assert_eq!(long.len(), 24 + 1 + 14, "whole characters only");
        for wrong in ["", ".", "x", "+000000000000001+0000001", &format!("{shown}0"), &shown.to_string()[1..]]
        {
            assert_eq!(ShownAs::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(ShownAs::parse(&[0xff; 24]), None);
    }

    #[test]
    fn what_one_name_stands_for_does_not_change_while_a_mount_uses_it() {
        let shown = Shown::new(false);
        let (one, other) = (User::new(), User::new());
        let content = file();
        let name = shown.enter(one, "m1", content.clone()).unwrap();
        assert_eq!(shown.enter(other, "m1", content).unwrap(), name);
        assert!(matches!(shown.enter(other, "m1", file()), Err(Error::NameInUse { .. })));
        shown.leave(one);
        assert!(matches!(shown.find(name.node), Found::Known(..)));
        shown.leave(other);
        assert!(matches!(shown.find(name.node), Found::Unknown));
    }

    #[tokio::test]
    async fn who_asks_too_early_waits_for_the_mount_or_for_the_end_of_taking_up() {
        let shown = Arc::new(Shown::new(true));
        let (first, second) = (ShownAs::of(&file(), "m1").node, ShownAs::of(&file(), "m2").node);
        assert!(matches!(shown.find(first), Found::NotYet));
        let waiting = [first, second].map(|node| {
            let shown = Arc::clone(&shown);
            tokio::spawn(async move { shown.wait_for(node).await.is_some() })
        });
        tokio::task::yield_now().await;
        shown.enter(User::new(), "m1", file()).unwrap();
        let [first, second] = waiting;
        assert!(first.await.unwrap());
        assert!(!second.is_finished());
        shown.finish_resume();
        assert!(!second.await.unwrap());
    }
}
