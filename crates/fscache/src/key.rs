//! [`VolumeKey`] and [`CookieKey`]: names that are safe as path components, checked at the edge.
//!
//! The kernel's limits are traps: a 253-byte cookie key panics cachefiles, a `/` in a volume key makes
//! lookups fail (fs/cachefiles/key.c, v6.12). So a key has at most 200 bytes of `[A-Za-z0-9._-]`,
//! whoever asks, and what is built on keys needs no escaping.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Error;

/// Longest key in bytes.
const KEY_BYTES_MAX: usize = 200;

/// Says what is wrong with `text` as a key.
fn check(text: &str) -> Result<(), Error> {
    let reason = match text {
        "" => "it is empty",
        "." | ".." => "it names a directory",
        _ if text.len() > KEY_BYTES_MAX => "it is longer than 200 bytes",
        _ if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) => {
            "only letters, digits, '.', '_' and '-' may stand in it"
        }
        _ => return Ok(()),
    };
    // What comes from outside may be long: the message shows no more than a valid key could have.
    let shown = text.chars().take(KEY_BYTES_MAX).collect();
    Err(Error::Key { text: shown, reason })
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and returns it as a key.
            ///
            /// # Errors
            ///
            /// [`Error::Key`] unless it has 1 to 200 bytes of `[A-Za-z0-9._-]` and is neither `.` nor `..`.
            pub fn new(text: &str) -> Result<Self, Error> {
                check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The key as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

key! {
    /// The name of a volume: a namespace and trust domain, of which no two share bytes.
    VolumeKey
}

key! {
    /// The name of a cookie within its volume: for content, the digest of what it must be.
    CookieKey
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_alphabet_up_to_200_bytes_are_taken() {
        for text in ["a", "sha256-0f", "A.b_c-9", "...", ".x", &"k".repeat(200)] {
            assert_eq!(CookieKey::new(text).expect(text).as_str(), text);
            assert_eq!(VolumeKey::new(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn keys_that_could_leave_their_directory_are_refused() {
        for text in ["", ".", "..", "a/b", "/", "a\0", "a b", "é", "a@map", &"k".repeat(201)] {
            assert!(matches!(CookieKey::new(text), Err(Error::Key { .. })), "{text:?}");
            assert!(matches!(text.parse::<VolumeKey>(), Err(Error::Key { .. })), "{text:?}");
        }
    }
}
