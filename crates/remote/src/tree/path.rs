//! [`TreePath`]: a path within a tree, sound by construction.

use std::fmt;

/// Longest name of an entry in bytes: what a Linux file system allows.
const NAME_BYTES_MAX: usize = 255;
/// Longest path in bytes: what Linux allows.
const PATH_BYTES_MAX: usize = 4096;

/// A path within a tree: components without `/`, none of them empty, `.` or `..`; the root has none.
///
/// Names come from users and from servers; both are checked here, so that no path leads out of its tree.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TreePath(String);

impl TreePath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a path; `None` when it is not sound.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::root());
        }
        let sound = text.len() <= PATH_BYTES_MAX && text.split('/').all(is_name);
        sound.then(|| Self(text.to_owned()))
    }

    /// The path of the entry `name`; `None` when the name is not sound or the path gets too long.
    pub fn join(&self, name: &str) -> Option<Self> {
        if !is_name(name) {
            return None;
        }
        let joined = if self.is_root() { name.to_owned() } else { format!("{}/{name}", self.0) };
        (joined.len() <= PATH_BYTES_MAX).then_some(Self(joined))
    }

    /// The directory that it lies in; the root lies in itself.
    pub fn parent(&self) -> Self {
        Self(self.0.rsplit_once('/').map_or_else(String::new, |(parent, _)| parent.to_owned()))
    }

    /// The components, from the root on.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// As text, with `/` between the components and none at either end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `name` can be the name of an entry.
pub(super) fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_lead_elsewhere_is_none() {
        for text in ["a", "a/b", "a b/…", ".hidden", "a/..b"] {
            assert_eq!(TreePath::parse(text).expect(text).as_str(), text);
        }
        let long = "n".repeat(256);
        for text in ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0", &long, &"n/".repeat(3000)] {
            assert_eq!(TreePath::parse(text), None, "{text:?}");
        }
        assert_eq!(TreePath::root().join(".."), None);
        assert_eq!(TreePath::root().join("a/b"), None);
    }

    #[test]
    fn joining_and_going_up_are_each_others_inverse() {
        let dir = TreePath::parse("a/b").expect("sound");
        let file = dir.join("c").expect("sound");
        assert_eq!((file.as_str(), file.parent()), ("a/b/c", dir));
        assert_eq!(TreePath::root().join("a").expect("sound").parent(), TreePath::root());
        assert_eq!(file.components().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(TreePath::root().components().count(), 0);
    }
}
