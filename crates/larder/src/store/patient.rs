//! [`Patient`]: a repository of images that are mounted already. A directory is looked for when it is read, and what is not
//! there then, again with each read: what is cached is served meanwhile, and a directory that comes back is good again.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use larder_image::{Descriptor, Error, Reference, Repository, Version};
use larder_remote::{BlobRange, HttpClient, RangeSource, ReadHere};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::looking;
use super::place::connect;

/// A repository that may be away.
#[derive(Clone)]
pub struct Patient(Arc<Whereabouts>);

struct Whereabouts {
    reference: Reference,
    insecure: bool,
    http: HttpClient,
    found: OnceLock<Arc<dyn Repository>>,
}

impl Patient {
    /// The place that `reference` names, whether it is there or not.
    pub fn new(reference: &Reference, insecure: bool, http: &HttpClient) -> Self {
        let (reference, http) = (reference.clone(), http.clone());
        Self(Arc::new(Whereabouts { reference, insecure, http, found: OnceLock::new() }))
    }

    /// The same, for one that was found.
    pub fn found(self, repository: Arc<dyn Repository>) -> Self {
        self.0.found.get_or_init(|| repository);
        self
    }

    /// Looks for the place. Blocks on the file system for a layout.
    fn look(&self) -> anyhow::Result<Arc<dyn Repository>> {
        if let Some(found) = self.0.found.get() {
            return Ok(Arc::clone(found));
        }
        let repository = connect(&self.0.reference, self.0.insecure, &self.0.http)?.repository;
        Ok(Arc::clone(self.0.found.get_or_init(|| repository)))
    }

    /// Looks on a thread that may hang. Whoever gives up waiting leaves it behind, and the next one waits for the same thread.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let permit = looking::permit(&self.0.reference).await?;
        let patient = self.clone();
        let looked = spawn_blocking(move || {
            let _permit = permit;
            look(&patient)
        });
        looked.await?
    }

    fn away(&self, descriptor: &Descriptor) -> Arc<dyn RangeSource> {
        let (place, descriptor) = (self.clone(), descriptor.clone());
        Arc::new(AwayBlob { place, descriptor, found: OnceCell::new() })
    }
}

#[async_trait]
impl Repository for Patient {
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error> {
        let place = || format!("{}: manifest {version}", self.describe());
        let found = self.on_a_thread(Self::look).await.map_err(|error| {
            let source = Box::new(away(place(), &error));
            Error::Remote { source, place: place() }
        })?;
        found.manifest(version).await
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        let (Reference::Registry { .. }, Some(registry)) = (&self.0.reference, self.0.found.get()) else {
            // Its file system may hang, and who takes a mount up waits for nobody.
            return Ok(self.away(descriptor));
        };
        Ok(registry.blob(descriptor).unwrap_or_else(|error| {
            let away = self.away(descriptor);
            tracing::warn!("{}: {error:#}", away.describe());
            away
        }))
    }

    fn describe(&self) -> String {
        self.0.reference.to_string()
    }
}

/// A blob that nobody has looked for yet, or that was not there.
struct AwayBlob {
    place: Patient,
    descriptor: Descriptor,
    found: OnceCell<Arc<dyn RangeSource>>,
}

impl AwayBlob {
    async fn look(&self) -> Result<&Arc<dyn RangeSource>, larder_remote::Error> {
        let look = || async {
            let descriptor = self.descriptor.clone();
            let looked = self.place.on_a_thread(move |place| Ok(place.look()?.blob(&descriptor)?)).await;
            looked.map_err(|error| away(self.describe(), &error))
        };
        self.found.get_or_try_init(look).await
    }
}

#[async_trait]
impl RangeSource for AwayBlob {
    fn len(&self) -> u64 {
        self.descriptor.size()
    }

    fn describe(&self) -> String {
        format!("{}: blob {}", self.place.describe(), self.descriptor.digest())
    }

    /// The directory: the tags of an image in it are no places of their own.
    fn origin(&self) -> String {
        match (self.found.get(), &self.place.0.reference) {
            (Some(found), _) => found.origin(),
            (None, Reference::Layout { dir, .. }) => dir.display().to_string(),
            (None, Reference::Registry { host, .. }) => host.clone(),
        }
    }

    async fn find(&self) -> Result<(), larder_remote::Error> {
        self.look().await.map(drop)
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, larder_remote::Error> {
        self.look().await?.read_range(range).await
    }

    async fn read_stream(
        &self,
        range: BlobRange,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), larder_remote::Error> {
        self.look().await?.read_stream(range, sink).await
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        self.found.get()?.here()
    }
}

fn away(place: String, error: &anyhow::Error) -> larder_remote::Error {
    let source = std::io::Error::new(std::io::ErrorKind::NotFound, format!("{error:#}"));
    larder_remote::Error::Io { place, source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::time::Duration;

    use larder_remote::Policy;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tokio::time::timeout;

    use super::*;

    const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

    /// A blob of a layout, and the file that it has to lie in.
    fn blob(layout: &Path) -> (Arc<dyn RangeSource>, std::path::PathBuf) {
        let digest = larder_image::digest::sha256(b"bytes");
        let descriptor = serde_json::json!({
            "mediaType": "application/octet-stream", "digest": digest.as_ref(), "size": 5
        });
        let descriptor: Descriptor = serde_json::from_value(descriptor).expect("a descriptor");
        let reference: Reference = format!("oci:{}", layout.display()).parse().expect("a reference");
        let http = HttpClient::new(Policy::default()).expect("a client");
        let place = super::super::connect_patiently(&reference, false, &http);
        let blob = place.repository.blob(&descriptor).expect("it may be away");
        (blob, layout.join("blobs/sha256").join(digest.digest()))
    }

    /// Makes a layout whose index, which is returned, keeps whoever opens it waiting for a writer.
    fn hanging(layout: &Path) -> std::path::PathBuf {
        fs::create_dir_all(layout.join("blobs/sha256")).expect("room");
        let index = layout.join("index.json");
        mknodat(CWD, &index, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("it can be made");
        index
    }

    fn whole() -> BlobRange {
        BlobRange::new(0, 5).expect("ascending")
    }

    #[tokio::test]
    async fn p4_a_layout_and_its_blobs_may_be_away_and_are_read_when_they_are_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = dir.path().join("layout");
        let (blob, file) = blob(&layout);
        let error = blob.read_range(whole()).await.expect_err("nothing is there");
        assert!(error.to_string().contains("layout"), "{error}");

        fs::create_dir_all(layout.join("blobs/sha256")).expect("room");
        fs::write(layout.join("index.json"), INDEX).expect("room");
        blob.read_range(whole()).await.expect_err("the blob is not there");
        fs::write(&file, b"bytes").expect("room");
        assert!(blob.here().is_none(), "nobody has found it");
        assert_eq!(blob.read_range(whole()).await.expect("it is back"), &b"bytes"[..]);
        assert!(blob.here().is_some());
    }

    #[test]
    fn p4_a_layout_that_hangs_holds_up_nobody_who_takes_a_mount_up_and_no_thread_for_each_reader() {
        const THREADS: usize = 2;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let index = hanging(dir.path());
        let (blob, file) = blob(dir.path());
        fs::write(&file, b"bytes").expect("room");
        let minute = Duration::from_secs(60);
        let (idle, read) = runtime.block_on(async {
            for _ in 0..=THREADS {
                let read = timeout(Duration::from_millis(50), blob.read_range(whole())).await;
                assert!(read.is_err(), "it hangs");
            }
            let idle = timeout(minute, spawn_blocking(|| ())).await;
            // A reader is there, so that this does not wait.
            let back = std::thread::spawn(move || fs::write(index, INDEX));
            let read = timeout(minute, blob.read_range(whole())).await;
            back.join().expect("no panic").expect("room");
            (idle, read)
        });
        runtime.shutdown_background();
        idle.expect("a thread is left").expect("no panic");
        assert_eq!(read.expect("it answers").expect("it is back"), &b"bytes"[..]);
    }

    #[test]
    fn p3_images_of_a_layout_that_hangs_leave_threads_for_another_layout() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (away, here) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let index = hanging(away.path());
        let (well, file) = blob(here.path());
        fs::create_dir_all(here.path().join("blobs/sha256")).expect("room");
        fs::write(here.path().join("index.json"), INDEX).expect("room");
        fs::write(file, b"bytes").expect("room");
        let read = runtime.block_on(async {
            for _ in 0..looking::LOOKING_MAX {
                let (hung, _) = blob(away.path());
                let read = timeout(Duration::from_millis(50), hung.read_range(whole())).await;
                assert!(read.is_err(), "it hangs");
            }
            timeout(Duration::from_secs(60), well.read_range(whole())).await
        });
        // Opened for both, it waits for nobody.
        let mut fifo = fs::File::options().read(true).write(true).open(index).expect("it is there");
        fifo.write_all(INDEX).expect("room");
        runtime.shutdown_background();
        assert_eq!(read.expect("nobody waits for the other layout").expect("it is well"), &b"bytes"[..]);
    }
}
