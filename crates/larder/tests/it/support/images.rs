//! Images for tests: built by the program, served by a registry that can misbehave.

use std::fs;
use std::path::{Path, PathBuf};

use larder_testkit::Registry;
use serde_json::Value;

use super::daemon::Larder;
use super::program::argument;

/// An image in a layout directory, with a registry in front of it.
pub struct Image {
    /// The layout.
    pub dir: PathBuf,
    /// The registry that serves it.
    pub registry: Registry,
}

impl Image {
    /// Builds `source` into a layout called `name`, and serves it.
    #[track_caller]
    pub fn build(larder: &Larder, source: &Path, name: &str) -> Self {
        let dir = larder.path(name);
        larder.run(["build".into(), argument("dir:", source), argument("oci:", &dir)]).ok();
        Self::opened(&dir)
    }

    /// An image that was built in the layout `dir`.
    pub fn opened(dir: &Path) -> Self {
        let registry = Registry::layout_from_dir(dir);
        Self { dir: dir.to_owned(), registry }
    }

    /// What the registry calls it.
    pub fn reference(&self) -> String {
        format!("{}/test", self.registry.host())
    }

    /// The manifest.
    pub fn manifest(&self) -> Value {
        let index: Value = read_json(&self.dir.join("index.json"));
        read_json(&self.blob(index["manifests"][0]["digest"].as_str().expect("a digest")))
    }

    /// Where the blob `digest` lies.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.strip_prefix("sha256:").expect("a SHA-256"))
    }

    /// Digests of the data blobs.
    pub fn devices(&self) -> Vec<String> {
        self.layers(|role| role == Some("device"))
    }

    /// Digest of the metadata.
    pub fn metadata(&self) -> String {
        self.layers(|role| role != Some("device")).remove(0)
    }

    fn layers(&self, wanted: impl Fn(Option<&str>) -> bool) -> Vec<String> {
        let manifest = self.manifest();
        let layers = manifest["layers"].as_array().expect("a list").iter();
        let wanted = layers.filter(|layer| wanted(role(layer)));
        wanted.map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect()
    }
}

/// The role that a layer's annotations give it.
fn role(layer: &Value) -> Option<&str> {
    let annotations = layer["annotations"].as_object()?;
    annotations.iter().find(|(name, _)| name.ends_with(".role")).and_then(|(_, role)| role.as_str())
}

fn read_json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("it is JSON")
}
