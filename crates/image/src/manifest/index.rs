//! [`IndexDocument`]: an OCI image index, also `index.json` of a layout.
//!
//! Fields that are not known are kept as they are, so that adding a tag to a layout loses nothing.

use std::collections::BTreeMap;

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys;

/// A list of manifests.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexDocument {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<ManifestEntry>,
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A descriptor of a manifest.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestEntry {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// What a manifest runs on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl IndexDocument {
    /// An index of nothing.
    pub fn new() -> Self {
        let media_type = Some(super::types::INDEX.to_owned());
        Self { schema_version: 2, media_type, manifests: Vec::new(), rest: BTreeMap::new() }
    }

    /// The tags there are, in order of appearance.
    pub fn tags(&self) -> Vec<String> {
        self.manifests.iter().filter_map(|entry| entry.tag().map(str::to_owned)).collect()
    }

    /// Puts `entry` in, in the place of the one with the same tag if there is one.
    pub fn replace_tag(&mut self, entry: ManifestEntry) {
        let same = self.manifests.iter().position(|old| old.tag() == entry.tag());
        match same {
            Some(at) => self.manifests[at] = entry,
            None => self.manifests.push(entry),
        }
    }

    /// The first EROFS manifest for `architecture` on Linux.
    pub fn for_host(&self, architecture: &str) -> Option<&ManifestEntry> {
        self.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(|p| p.runs_on(architecture)))
    }
}

impl ManifestEntry {
    /// The name of the image in its layout.
    pub fn tag(&self) -> Option<&str> {
        self.annotations.get(keys::REF_NAME).map(String::as_str)
    }
}

impl Platform {
    /// Linux with EROFS images, on `architecture`.
    pub fn erofs_on(architecture: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            os_features: vec!["erofs".to_owned()],
            variant: None,
            rest: BTreeMap::new(),
        }
    }

    fn runs_on(&self, architecture: &str) -> bool {
        let has_erofs = self.os_features.iter().any(|feature| feature == "erofs");
        self.os == "linux" && self.architecture == architecture && has_erofs
    }

    /// `os/architecture` with its features, for messages.
    pub fn describe(&self) -> String {
        let features: String = self.os_features.iter().map(|feature| format!("(+{feature})")).collect();
        format!("{}{features}/{}", self.os, self.architecture)
    }
}

/// The architecture of this host by its OCI name.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "loongarch64" => "loong64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    fn entry(tag: &str, content: &[u8]) -> ManifestEntry {
        ManifestEntry {
            media_type: super::super::types::MANIFEST.to_owned(),
            digest: sha256(content),
            size: content.len() as u64,
            platform: Some(Platform::erofs_on("amd64")),
            annotations: [(keys::REF_NAME.to_owned(), tag.to_owned())].into(),
            rest: BTreeMap::new(),
        }
    }

    #[test]
    fn a_tag_is_replaced_in_its_place_and_the_others_stay() {
        let mut index = IndexDocument::new();
        for (tag, content) in [("a", b"1"), ("b", b"2"), ("a", b"3")] {
            index.replace_tag(entry(tag, content));
        }
        assert_eq!(index.tags(), ["a", "b"]);
        assert_eq!(index.manifests[0].digest, sha256(b"3"));
    }

    #[test]
    fn unknown_fields_survive() {
        let text = r#"{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"platform":{"architecture":"arm64","os":"linux","os.version":"7"},"urls":["x"]}],"subject":{"n":1}}"#;
        let index: IndexDocument = serde_json::from_str(text).expect("well formed");
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("well formed");
        assert_eq!(value(&serde_json::to_string(&index).expect("it is plain data")), value(text));
    }

    #[test]
    fn a_platform_without_erofs_is_not_chosen() {
        let mut index = IndexDocument::new();
        let mut tar = entry("tar", b"tar");
        tar.platform.as_mut().expect("set above").os_features.clear();
        index.replace_tag(tar);
        assert!(index.for_host("amd64").is_none());
        index.replace_tag(entry("erofs", b"erofs"));
        assert_eq!(index.for_host("amd64").map(|entry| entry.digest.clone()), Some(sha256(b"erofs")));
        assert!(index.for_host("arm64").is_none());
    }
}
