//! [`Version`]: which content of a file is meant.

use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

/// Which content of a remote file is meant: what its server says about it without showing it.
///
/// Two versions that are equal are taken for the same bytes: that is the trust that a remote tree rests on. So only one
/// that no other bytes can have may be opened with a place in the cache.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Version {
    /// Length in bytes.
    pub size: u64,
    /// The entity tag as the server wrote it, quotes and `W/` included.
    pub etag: Option<String>,
    /// When the server says it was changed, in whole seconds.
    pub modified: Option<SystemTime>,
}

impl Version {
    /// The version as coherency data: SHA-256 of size, entity tag and time of change.
    ///
    /// A digest, since a server may choose an entity tag of any length and coherency data has at most 128 bytes.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.size.to_le_bytes());
        let seconds =
            self.modified.map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        hash.update([u8::from(self.etag.is_some()), u8::from(seconds.is_some())]);
        hash.update(seconds.map_or(0, |since: Duration| since.as_secs()).to_le_bytes());
        hash.update(self.etag.as_deref().unwrap_or_default().as_bytes());
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_in_a_version_differs_in_its_digest() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let etag = |text: &str| Some(text.to_owned());
        let versions = [
            Version { size: 1, etag: None, modified: None },
            Version { size: 2, etag: None, modified: None },
            Version { size: 1, etag: etag(""), modified: None },
            Version { size: 1, etag: etag("\"a\""), modified: None },
            Version { size: 1, etag: etag("W/\"a\""), modified: None },
            Version { size: 1, etag: None, modified: at(0) },
            Version { size: 1, etag: None, modified: at(1) },
            Version { size: 1, etag: etag("\"a\""), modified: at(1) },
        ];
        for (n, one) in versions.iter().enumerate() {
            for (m, other) in versions.iter().enumerate() {
                assert_eq!(one.digest() == other.digest(), n == m, "{one:?} and {other:?}");
            }
        }
    }
}
