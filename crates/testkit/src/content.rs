//! [`Content`]: what the registry has to offer.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Larger manifests are served without a look inside.
const TYPED_BYTES_MAX: u64 = 1024 * 1024;
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Blobs by digest and manifests by tag. Every repository name shows the same.
#[derive(Clone, Debug, Default)]
pub struct Content {
    blobs: HashMap<String, Stored>,
    tags: HashMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Memory(Bytes),
    File(PathBuf, u64),
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Content {
    /// Reads the OCI image layout in `dir`: the tags of its `index.json` and every file in `blobs/sha256`, by name.
    /// Whether names and contents agree is not looked at, nor are changes on disk prevented.
    ///
    /// # Errors
    ///
    /// What reading gives; a broken `index.json` is [`io::ErrorKind::InvalidData`].
    pub fn layout_from_dir(dir: impl AsRef<Path>) -> io::Result<Self> {
        let dir = dir.as_ref();
        let index: Index = serde_json::from_slice(&std::fs::read(dir.join("index.json"))?)?;
        let mut content = Self::default();
        for entry in std::fs::read_dir(dir.join("blobs/sha256"))? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            content.blobs.insert(digest, Stored::File(entry.path(), entry.metadata()?.len()));
        }
        for manifest in index.manifests {
            if let Some(tag) = manifest.annotations.get("org.opencontainers.image.ref.name") {
                content.tags.insert(tag.clone(), manifest.digest);
            }
        }
        Ok(content)
    }

    /// Adds a blob and returns its digest.
    pub fn add_blob(&mut self, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        self.blobs.insert(digest.clone(), Stored::Memory(bytes));
        digest
    }

    /// Adds a manifest under `tag` and its digest, which is returned.
    pub fn add_manifest(&mut self, tag: &str, bytes: impl Into<Bytes>) -> String {
        let digest = self.add_blob(bytes);
        self.tags.insert(tag.to_owned(), digest.clone());
        digest
    }

    pub(crate) fn blob(&self, digest: &str) -> Option<&Stored> {
        self.blobs.get(digest)
    }

    /// Returns a manifest by tag or digest: its digest, media type and bytes.
    pub(crate) fn manifest(&self, reference: &str) -> Option<(String, String, Stored)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        let stored = self.blobs.get(digest)?.clone();
        let bytes = stored.read(0, stored.len().min(TYPED_BYTES_MAX)).ok()?;
        let typed: Option<Typed> = serde_json::from_slice(&bytes).ok();
        let media_type = typed.and_then(|typed| typed.media_type).unwrap_or_else(|| MANIFEST_TYPE.into());
        Some((digest.to_owned(), media_type, stored))
    }
}

impl Stored {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    pub(crate) fn read(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let at = |n| usize::try_from(n).map_err(io::Error::other);
        match self {
            Self::Memory(bytes) => Ok(bytes[at(start)?..at(end)?].to_vec()),
            Self::File(path, _) => {
                let mut buffer = vec![0; at(end - start)?];
                File::open(path)?.read_exact_at(&mut buffer, start)?;
                Ok(buffer)
            }
        }
    }
}

/// Returns `sha256:` and the digest of `bytes` in hexadecimal.
fn digest_of(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_served_by_tag_and_digest() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).expect("made");
        let manifest = br#"{"mediaType":"application/x"}"#;
        let digest = digest_of(manifest);
        let blob = dir.path().join("blobs").join(digest.replace(':', "/"));
        std::fs::write(blob, manifest).expect("written");
        let index = format!(
            r#"{{"manifests":[{{"digest":"{digest}","annotations":{{"org.opencontainers.image.ref.name":"v1"}}}}]}}"#
        );
        std::fs::write(dir.path().join("index.json"), index).expect("written");
        let content = Content::layout_from_dir(dir.path()).expect("a layout");
        for reference in ["v1", &digest] {
            let (found, media_type, stored) = content.manifest(reference).expect("there");
            assert_eq!((found.as_str(), media_type.as_str()), (digest.as_str(), "application/x"));
            assert_eq!(stored.read(0, stored.len()).expect("readable"), manifest);
        }
        assert!(content.manifest("v2").is_none());
    }
}
