//! [`Patient`]: a repository that may lie in a file system which hangs: it is waited for on few threads, and not for ever.
//!
//! Of images that are mounted already a directory is looked for when it is read, and what is not there then, again with each read:
//! what is cached is served meanwhile, and a directory that comes back is good again.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use larder_image::{Descriptor, Error, LayoutRepository, Reference, Repository, Version};
use larder_remote::{BlobRange, HttpClient, Meter, RangeSource, ReadHere};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::looking;
use super::place::connect;

/// How long something in a layout is waited for: as long as a reader waits for bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository that may be away.
#[derive(Clone)]
pub struct Patient {
    place: Arc<Whereabouts>,
    /// A blob that is not there is an error at once.
    insists: bool,
}

struct Whereabouts {
    reference: Reference,
    insecure: bool,
    http: HttpClient,
    patience: Duration,
    found: OnceLock<Found>,
}

/// What a reference leads to.
#[derive(Clone)]
enum Found {
    /// Whoever uses it may hang.
    Layout(LayoutRepository),
    Registry(Arc<dyn Repository>),
}

impl Patient {
    /// The place that `reference` names, whether it is there or not.
    pub fn new(reference: &Reference, insecure: bool, http: &HttpClient) -> Self {
        Self::with_patience(reference, insecure, http, PATIENCE)
    }

    fn with_patience(reference: &Reference, insecure: bool, http: &HttpClient, patience: Duration) -> Self {
        let (reference, http, found) = (reference.clone(), http.clone(), OnceLock::new());
        Self { place: Arc::new(Whereabouts { reference, insecure, http, patience, found }), insists: false }
    }

    /// The same, for a registry that was found.
    pub fn found(self, registry: Arc<dyn Repository>) -> Self {
        self.place.found.get_or_init(|| Found::Registry(registry));
        self
    }

    /// The same, for an image that is to be mounted: its place and its blobs must be there.
    ///
    /// # Errors
    ///
    /// When the place is not there, or does not answer.
    pub async fn insisting(self) -> anyhow::Result<Self> {
        self.find().await?;
        Ok(Self { insists: true, ..self })
    }

    async fn find(&self) -> anyhow::Result<Found> {
        match self.place.found.get() {
            Some(found) => Ok(found.clone()),
            None => self.on_a_thread(Self::look).await?,
        }
    }

    /// Looks for the place. Blocks on the file system for a layout.
    fn look(&self) -> anyhow::Result<Found> {
        let Whereabouts { reference, insecure, http, found, .. } = &*self.place;
        if let Some(found) = found.get() {
            return Ok(found.clone());
        }
        let looked = match reference {
            Reference::Layout { dir, .. } => Found::Layout(LayoutRepository::open(dir)?),
            Reference::Registry { .. } => Found::Registry(connect(reference, *insecure, http)?.repository),
        };
        Ok(found.get_or_init(|| looked).clone())
    }

    async fn open(&self, descriptor: &Descriptor) -> anyhow::Result<Arc<dyn RangeSource>> {
        Ok(match self.find().await? {
            Found::Registry(registry) => registry.blob(descriptor).await?,
            Found::Layout(layout) => {
                let descriptor = descriptor.clone();
                self.on_a_thread(move |_| layout.open_blob(&descriptor)).await??
            }
        })
    }

    /// Works on a thread that may hang. Whoever gives up waiting leaves it behind, and the next one waits for the same thread.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        let worked = async {
            let permit = looking::permit(&self.place.reference).await.map_err(io::Error::other)?;
            let patient = self.clone();
            let worked = spawn_blocking(move || {
                let _permit = permit;
                work(&patient)
            });
            worked.await.map_err(io::Error::other)
        };
        let after = self.place.patience;
        timeout(after, worked).await.unwrap_or_else(|_| {
            let silence = format!("its file system has not answered for {after:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, silence))
        })
    }

    fn away(&self, descriptor: &Descriptor) -> Arc<dyn RangeSource> {
        self.with(descriptor, OnceCell::new())
    }

    fn with(&self, descriptor: &Descriptor, found: OnceCell<Arc<dyn RangeSource>>) -> Arc<dyn RangeSource> {
        let (place, descriptor) = (self.clone(), descriptor.clone());
        Arc::new(AwayBlob { place, descriptor, found })
    }
}

#[async_trait]
impl Repository for Patient {
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error> {
        let failed = |error: anyhow::Error| {
            let place = format!("{}: manifest {version}", self.describe());
            remote(place.clone(), away(place, &error))
        };
        match self.find().await.map_err(failed)? {
            Found::Registry(registry) => registry.manifest(version).await,
            Found::Layout(layout) => {
                let version = version.clone();
                let read = self.on_a_thread(move |_| layout.read_manifest(&version)).await;
                read.map_err(|silence| failed(silence.into()))?
            }
        }
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        if let Some(Found::Registry(registry)) = self.place.found.get() {
            return Ok(registry.blob(descriptor).await.unwrap_or_else(|error| {
                let away = self.away(descriptor);
                tracing::warn!("{}: {error:#}", away.describe());
                away
            }));
        }
        if !self.insists {
            // Its file system may hang, and who takes a mount up waits for nobody.
            return Ok(self.away(descriptor));
        }
        match self.open(descriptor).await {
            Ok(found) => Ok(self.with(descriptor, OnceCell::new_with(Some(found)))),
            Err(error) => Err(error.downcast().unwrap_or_else(|error| {
                let place = format!("blob {}", descriptor.digest());
                remote(place, away(self.describe(), &error))
            })),
        }
    }

    fn describe(&self) -> String {
        self.place.reference.to_string()
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
            let looked = self.place.open(&self.descriptor).await;
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
        let unknown = || format!("{}: blob {}", self.place.describe(), self.descriptor.digest());
        self.found.get().map_or_else(unknown, |found| found.describe())
    }

    /// The directory: the tags of an image in it are no places of their own.
    fn origin(&self) -> String {
        match (self.found.get(), &self.place.place.reference) {
            (Some(found), _) => found.origin(),
            (None, Reference::Layout { dir, .. }) => dir.display().to_string(),
            (None, Reference::Registry { host, .. }) => host.clone(),
        }
    }

    async fn find(&self) -> Result<(), larder_remote::Error> {
        self.look().await.map(drop)
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, larder_remote::Error> {
        let found = self.look().await?;
        if found.here().is_none() {
            return found.read_range(range).await;
        }
        // A lane of the engine does not come here: it reads on threads of its own.
        let here = Arc::clone(found);
        let read = move |_: &Patient| here.here().map(|here| here.read_here(range, Vec::new(), &|| ()));
        let read = self.place.on_a_thread(read).await;
        let read = read.map_err(|source| larder_remote::Error::Io { place: self.describe(), source })?;
        read.unwrap_or_else(|| Ok(Bytes::new()))
    }

    async fn read_stream(
        &self,
        range: BlobRange,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), larder_remote::Error> {
        let found = self.look().await?;
        if found.here().is_none() {
            return found.read_stream(range, sink).await;
        }
        sink(self.read_range(range).await?);
        Ok(())
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        self.found.get()?.here()
    }

    fn meter(&self) -> Option<&Meter> {
        self.found.get()?.meter()
    }
}

fn remote(place: String, source: larder_remote::Error) -> Error {
    Error::Remote { source: Box::new(source), place }
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

    fn descriptor() -> Descriptor {
        let digest = larder_image::digest::sha256(b"bytes");
        let descriptor = serde_json::json!({
            "mediaType": "application/octet-stream", "digest": digest.as_ref(), "size": 5
        });
        serde_json::from_value(descriptor).expect("a descriptor")
    }

    fn reference(layout: &Path) -> Reference {
        format!("oci:{}", layout.display()).parse().expect("a reference")
    }

    fn http() -> HttpClient {
        HttpClient::new(Policy::default()).expect("a client")
    }

    /// Where the blob of a layout has to lie.
    fn file(layout: &Path) -> std::path::PathBuf {
        layout.join("blobs/sha256").join(descriptor().digest().digest())
    }

    /// A blob of a layout, and the file that it has to lie in.
    async fn blob(layout: &Path) -> (Arc<dyn RangeSource>, std::path::PathBuf) {
        let place = super::super::connect_patiently(&reference(layout), false, &http());
        let blob = place.repository.blob(&descriptor()).await.expect("it may be away");
        (blob, file(layout))
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
        let (blob, file) = blob(&layout).await;
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

    /// One that blocks in so many threads at most.
    fn runtime(threads: usize) -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.max_blocking_threads(threads).enable_all().build().expect("a runtime")
    }

    #[test]
    fn p4_a_layout_that_hangs_holds_up_nobody_who_takes_a_mount_up_and_no_thread_for_each_reader() {
        const THREADS: usize = 2;
        let runtime = runtime(THREADS);
        let dir = tempfile::tempdir().expect("a directory");
        let index = hanging(dir.path());
        let (blob, file) = runtime.block_on(blob(dir.path()));
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
    fn p4_images_that_are_mounted_from_a_layout_that_hangs_fail_in_time_and_take_one_thread() {
        const THREADS: usize = 2;
        let runtime = runtime(THREADS);
        let dir = tempfile::tempdir().expect("a directory");
        let index = hanging(dir.path());
        let patience = Duration::from_millis(50);
        let new = || Patient::with_patience(&reference(dir.path()), false, &http(), patience).insisting();
        let idle = runtime.block_on(async {
            for _ in 0..=THREADS {
                let error = new().await.map(drop).expect_err("it hangs");
                assert!(format!("{error:#}").contains("has not answered"), "{error:#}");
            }
            timeout(Duration::from_secs(60), spawn_blocking(|| ())).await
        });
        // A reader is there, so that this does not wait.
        fs::write(&index, INDEX).expect("room");
        fs::remove_file(&index).expect("it is there");
        fs::write(&index, INDEX).expect("room");
        let (before, after) = runtime.block_on(async {
            let place = loop {
                if let Ok(place) = new().await {
                    break place;
                }
            };
            let before = place.blob(&descriptor()).await.map(drop);
            fs::write(file(dir.path()), b"bytes").expect("room");
            let blob = place.blob(&descriptor()).await.expect("it is there");
            assert!(blob.here().is_some() && blob.meter().is_some());
            (before, blob.read_range(whole()).await)
        });
        runtime.shutdown_background();
        idle.expect("a thread is left").expect("no panic");
        before.expect_err("a blob that is not there is refused at once");
        assert_eq!(after.expect("it is there"), &b"bytes"[..]);
    }

    #[test]
    fn p3_images_of_a_layout_that_hangs_leave_threads_for_another_layout() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (away, here) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let index = hanging(away.path());
        let (well, file) = runtime.block_on(blob(here.path()));
        fs::create_dir_all(here.path().join("blobs/sha256")).expect("room");
        fs::write(here.path().join("index.json"), INDEX).expect("room");
        fs::write(file, b"bytes").expect("room");
        let read = runtime.block_on(async {
            for _ in 0..looking::LOOKING_MAX {
                let (hung, _) = blob(away.path()).await;
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
