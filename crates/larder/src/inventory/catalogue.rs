//! [`Catalogue`]: images whose blobs may be in the cache, mounted or not.
//!
//! One JSON file an image, beside its manifest and chunk indexes: written when it is mounted, removed when nothing of it is
//! in the cache any more. It says what an image's cookies are, and where damaged bytes can be had again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use larder_fscache::CookieKey;
use larder_image::{LoadedImage, digest};
use serde::{Deserialize, Serialize};

use crate::api::types::ImageName;
use crate::daemon::record::write_durably;

/// Version of the file's layout; a file of another one is left alone.
const VERSION: u32 = 1;

/// Images whose blobs may be in the cache.
#[derive(Clone, Debug)]
pub struct Catalogue {
    images: PathBuf,
}

/// An image whose blobs may be in the cache.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KnownImage {
    version: u32,
    /// Digest of the manifest.
    pub manifest: String,
    /// References it was mounted by, the newest last.
    pub references: Vec<String>,
    /// Whether its registry is spoken to without TLS.
    pub insecure: bool,
    /// The volume of its cookies.
    pub volume: String,
    /// Keys of its cookies: metadata first, then devices in the image's order.
    pub cookies: Vec<String>,
    /// Names of the files that are kept of it: manifest, configuration, chunk indexes.
    files: BTreeSet<String>,
}

impl KnownImage {
    /// What is worth knowing of an image that was loaded.
    pub fn new(image: &LoadedImage, reference: &str, insecure: bool, volume: &str) -> Self {
        let indexes = image.layers().map(|layer| digest::sha256(layer.table.index().payload()));
        let files = indexes.chain([image.manifest_digest.clone(), digest::sha256(&image.config)]);
        Self {
            version: VERSION,
            manifest: image.manifest_digest.to_string(),
            references: vec![reference.to_owned()],
            insecure,
            volume: volume.to_owned(),
            cookies: image.layers().map(|layer| layer.table.identity().as_str().to_owned()).collect(),
            files: files.map(|digest| digest.digest().to_owned()).collect(),
        }
    }

    /// The newest reference it was mounted by.
    pub fn reference(&self) -> &str {
        self.references.last().map_or(&self.manifest, |reference| reference)
    }

    /// Whether `name` is one of its references, or its manifest.
    pub fn is_named(&self, name: &ImageName) -> bool {
        self.manifest == name.reference || self.references.contains(&name.reference)
    }
}

impl Catalogue {
    /// The images that are known in the directory of manifests and indexes.
    pub fn new(images: PathBuf) -> Self {
        Self { images }
    }

    /// The directory of manifests and indexes.
    pub fn images(&self) -> &Path {
        &self.images
    }

    fn dir(&self) -> PathBuf {
        self.images.join("known")
    }

    /// Takes note of an image, or of another reference to it.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn note(&self, mut image: KnownImage) -> anyhow::Result<()> {
        let dir = self.dir();
        let path = dir.join(file_name(&image.manifest));
        let place = || format!("{}: cannot be written", path.display());
        fs::create_dir_all(&dir).with_context(place)?;
        if let Ok(before) = read(&path) {
            let mut references = before.references;
            references.retain(|reference| !image.references.contains(reference));
            references.append(&mut image.references);
            image.references = references;
        }
        write_durably(&path, &serde_json::to_vec_pretty(&image)?).with_context(place)
    }

    /// Every image that is known, in the order of their manifests; what cannot be read is passed over.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read; one that is not there has nothing.
    pub fn all(&self) -> anyhow::Result<Vec<KnownImage>> {
        let dir = self.dir();
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("{}: cannot be read", dir.display()))?,
        };
        let mut images = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("{}: cannot be read", dir.display()))?.path();
            match read(&path) {
                Ok(image) => images.push(image),
                Err(error) => tracing::warn!(path = %path.display(), "known_image_unreadable: {error:#}"),
            }
        }
        images.sort_by(|a, b| a.manifest.cmp(&b.manifest));
        Ok(images)
    }

    /// Forgets images of which `is_wanted` is not true, and what is kept of them alone.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn forget(&self, is_wanted: impl Fn(&KnownImage) -> bool) -> anyhow::Result<()> {
        let (wanted, others): (Vec<_>, Vec<_>) = self.all()?.into_iter().partition(is_wanted);
        let kept: BTreeSet<&String> = wanted.iter().flat_map(|image| &image.files).collect();
        for image in &others {
            for name in image.files.iter().filter(|name| !kept.contains(name) && is_hex(name)) {
                remove(&self.images.join("sha256").join(name))?;
            }
            remove(&self.dir().join(file_name(&image.manifest)))?;
        }
        Ok(())
    }

    /// The keys of an image's cookies.
    pub fn cookies(image: &KnownImage) -> impl Iterator<Item = CookieKey> + '_ {
        image.cookies.iter().filter_map(|key| CookieKey::new(key).ok())
    }
}

fn read(path: &Path) -> anyhow::Result<KnownImage> {
    let image: KnownImage = serde_json::from_slice(&fs::read(path)?)?;
    anyhow::ensure!(image.version == VERSION, "layout version {} is unknown", image.version);
    Ok(image)
}

/// The digest without its kind: what follows the colon is hexadecimal, and so is a file name.
fn file_name(manifest: &str) -> String {
    let digest = manifest.rsplit(':').next().unwrap_or(manifest);
    format!("{digest}.json")
}

fn is_hex(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(manifest: &str, reference: &str, files: &[&str]) -> KnownImage {
        KnownImage {
            version: VERSION,
            manifest: format!("sha256:{manifest}"),
            references: vec![reference.to_owned()],
            insecure: false,
            volume: "default".to_owned(),
            cookies: vec!["sha256-01".to_owned()],
            files: files.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn an_image_of_two_names_is_known_by_both() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let catalogue = Catalogue::new(temp.path().to_owned());
        assert!(catalogue.all().expect("nothing").is_empty());
        for reference in ["r.example/a:1", "r.example/a:2", "r.example/a:1"] {
            catalogue.note(image("ab", reference, &[])).expect("written");
        }
        let known = catalogue.all().expect("readable");
        assert_eq!((known.len(), known[0].reference()), (1, "r.example/a:1"));
        let name = |text: &str| ImageName { reference: text.to_owned(), path: "/".into() };
        assert!(["r.example/a:2", "sha256:ab"].iter().all(|text| known[0].is_named(&name(text))));
        assert!(!known[0].is_named(&name("r.example/a:3")));
    }

    #[test]
    fn what_two_images_share_stays_as_long_as_one_of_them() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let catalogue = Catalogue::new(temp.path().to_owned());
        let kept = temp.path().join("sha256");
        fs::create_dir(&kept).expect("our own");
        for name in ["aa", "bb", "cc"] {
            fs::write(kept.join(name), "x").expect("our own");
        }
        catalogue.note(image("01", "a", &["aa", "bb"])).expect("written");
        catalogue.note(image("02", "b", &["bb", "cc", "../known/01.json"])).expect("written");
        catalogue.forget(|image| image.manifest == "sha256:01").expect("removed");
        let left = |name: &str| kept.join(name).exists();
        assert_eq!((left("aa"), left("bb"), left("cc")), (true, true, false));
        assert_eq!(catalogue.all().expect("readable").len(), 1);
        catalogue.forget(|_| false).expect("removed");
        assert!(catalogue.all().expect("readable").is_empty() && !left("bb"));
    }

    #[test]
    fn damaged_and_foreign_entries_are_passed_over() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let catalogue = Catalogue::new(temp.path().to_owned());
        catalogue.note(image("01", "a", &[])).expect("written");
        let known = temp.path().join("known");
        fs::write(known.join("02.json"), "{").expect("our own");
        let text = fs::read_to_string(known.join("01.json")).expect("our own");
        fs::write(known.join("03.json"), text.replace("\"version\": 1", "\"version\": 9")).expect("our own");
        assert_eq!(catalogue.all().expect("readable").len(), 1);
    }
}
