//! Paths in JSON: a string when they are UTF-8, else the list of their bytes. Names are bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Either {
    Text(String),
    Bytes(Vec<u8>),
}

/// Writes `path` without loss.
///
/// # Errors
///
/// Only the serializer's own.
pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => text.serialize(to),
        None => path.as_os_str().as_bytes().serialize(to),
    }
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
///
/// When it is neither a string nor a list of bytes.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Ok(match Either::deserialize(from)? {
        Either::Text(text) => text.into(),
        Either::Bytes(bytes) => OsString::from_vec(bytes).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::UmountRequest;

    #[test]
    fn a_path_that_is_not_utf8_comes_through() {
        for name in [&b"/mnt/plain"[..], b"/mnt/\xff\xfe", "/mnt/ü".as_bytes()] {
            let path = PathBuf::from(OsString::from_vec(name.to_vec()));
            let request = UmountRequest { path: path.clone(), lazy: false };
            let text = serde_json::to_string(&request).expect("it can be written");
            let back: UmountRequest = serde_json::from_str(&text).expect("it can be read");
            assert_eq!(back.path, path);
        }
    }
}
