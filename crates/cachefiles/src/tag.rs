//! [`Tag`]: the name of a cache, so that a configuration cannot mean another one.

use std::fmt;

use larder_fscache::{CookieKey, Error};

/// The name of a cache, as `tag` names a cache of cachefiles: 1 to 200 bytes of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tag(CookieKey);

impl Tag {
    /// Checks `text` and returns it as a tag.
    ///
    /// # Errors
    ///
    /// [`Error::Key`] unless it is made as a key is.
    pub fn new(text: &str) -> Result<Self, Error> {
        CookieKey::new(text).map(Self)
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Default for Tag {
    fn default() -> Self {
        Self::new("larder").expect("a valid key")
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
