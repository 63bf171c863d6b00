//! Taking up the mounts of an earlier worker: from the records, the kept descriptors and the cache, with no registry.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use larder_fscache::VolumeKey;
use larder_image::{Digest, LoadedImage, Reference, Version};
use larder_mount::{FrontEnd, FrontEndKind, Mounted};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Daemon;
use super::front_ends::FrontEnds;
use super::live::{Cost, Live};
use super::record::MountRecord;
use crate::inventory::{Catalogue, KnownImage};
use crate::store::{Place, connect_patiently};

/// How often a mount is taken up before it is left for later, and the first pause, which doubles: most of a second in all.
const RESUME_TRIES: u32 = 5;
const RESUME_PAUSE: Duration = Duration::from_millis(50);

/// How long the registry of an image may take whose documents are damaged here: all other mounts wait meanwhile.
const RESTORE_MAX: Duration = Duration::from_secs(5);

/// What the kernel still has of a mount that is given up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// The mount: it is detached.
    Mount,
    /// Nothing on its target, where something of somebody else's may be mounted by now.
    Nothing,
}

impl Daemon {
    /// Takes up every mount there is a record of; one that cannot be does not keep the others from it.
    ///
    /// # Errors
    ///
    /// When the records cannot be read.
    pub async fn resume_all(self: &Arc<Self>) -> anyhow::Result<()> {
        let records = MountRecord::load_all(&self.paths.mounts())?;
        self.forget_images(&records);
        let known: BTreeSet<String> = records.iter().map(|record| record.id.clone()).collect();
        for mut record in records {
            let target = record.target.clone();
            match self.resume_patiently(&mut record).await {
                Ok(()) => tracing::info!(target = %target.display(), image = record.image, "resumed"),
                Err(error) => {
                    tracing::error!(target = %target.display(), image = record.image, "not resumed: {error:#}");
                    if !(is_for_good(&error) && self.give_up(&record, Left::Nothing).await) {
                        self.take_up_later(record, &error).await;
                    }
                }
            }
            self.front_ends.made().iter().for_each(|front_end| front_end.resume_goes_on());
            // It ends a worker that gets no further.
            self.keeper.as_ref().inspect(|keeper| keeper.alive());
        }
        for front_end in self.front_ends.made() {
            spawn_blocking({
                let (front_end, known) = (Arc::clone(&front_end), known.clone());
                move || abandon_unknown(&*front_end, &known)
            })
            .await?;
            front_end.finish_resume();
        }
        Ok(())
    }

    /// Opens the front ends of which an earlier worker left something with the keeper, mounts or not: whoever reads from
    /// a mount that was detached waits for an answer.
    pub async fn open_inherited(&self) {
        let names = self.holder().names();
        let inherited: Vec<_> = FrontEnds::inherited(&names).collect();
        if !inherited.contains(&FrontEndKind::Cachefiles) {
            let cache = self.paths.cache();
            drop(spawn_blocking(move || larder_mount::cachefiles::discard(&cache)).await);
        }
        for kind in inherited {
            let front_ends = Arc::clone(&self.front_ends);
            if let Ok(Err(error)) = spawn_blocking(move || front_ends.get(kind).map(drop)).await {
                tracing::error!(%kind, "not opened: {error:#}");
            }
        }
    }

    /// Forgets the manifests and indexes of images of which nothing is in the cache any more, unless a record names them.
    /// Only while nothing is being mounted.
    fn forget_images(&self, records: &[MountRecord]) {
        let cachefiles = self.store.cache().backend();
        if cachefiles.usage().rebuilding {
            // What is not found yet may still be there.
            return;
        }
        let has_cookies = |image: &KnownImage| {
            let volume = VolumeKey::new(&image.volume);
            volume.is_ok_and(|volume| {
                Catalogue::cookies(image).any(|cookie| cachefiles.object_info(&volume, &cookie).is_some())
            })
        };
        let is_wanted = |image: &KnownImage| {
            records.iter().any(|record| record.manifest == image.manifest) || has_cookies(image)
        };
        if let Err(error) = self.catalogue().forget(is_wanted) {
            tracing::warn!("known_images: {error:#}");
        }
    }

    /// Tries again what may pass: readers wait meanwhile, and so do the other mounts.
    async fn resume_patiently(&self, record: &mut MountRecord) -> anyhow::Result<()> {
        let (begun, mut pause) = (Instant::now(), RESUME_PAUSE);
        for _ in 1..RESUME_TRIES {
            match self.try_to_resume(record).await {
                Err(error) if may_pass_at_once(&error) && begun.elapsed() < RESTORE_MAX => {
                    tracing::warn!(target = %record.target.display(), "not resumed yet: {error:#}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.try_to_resume(record).await
    }

    /// Takes a mount up, and notes in its record when the front end has taken it away instead, and could not make it anew.
    pub(super) async fn try_to_resume(&self, record: &mut MountRecord) -> anyhow::Result<()> {
        let was_kept = self.keeps(record);
        let resumed = self.resume(record.clone()).await;
        if resumed.as_ref().is_err_and(|error| !is_for_good(error)) {
            self.note_what_is_left(record, was_kept);
        }
        resumed
    }

    /// Whether the keeper has something of the mount.
    fn keeps(&self, record: &MountRecord) -> bool {
        let mut front_ends = self.front_ends.made().into_iter().chain([self.trees.front_end()]);
        front_ends.any(|front_end| front_end.kept_ids().contains(&record.id))
    }

    fn note_what_is_left(&self, record: &mut MountRecord, was_kept: bool) {
        if was_kept && !record.is_taken_away() && !self.keeps(record) {
            record.note_taken_away(&self.paths.mounts());
        }
    }

    async fn resume(&self, mut record: MountRecord) -> anyhow::Result<()> {
        if record.is_of_earlier_boot() {
            return Err(larder_mount::Error::Gone { target: record.target }.into());
        }
        if record.tree.is_some() {
            return self.resume_tree(record).await;
        }
        let reservation = self.mounts.reserve(&record.target)?;
        let reference: Reference = record.image.parse()?;
        let kind: FrontEndKind = record.frontend.parse().ok().context("the record names no front end")?;
        let place = self.connect_patiently(&reference, record.insecure).await?;
        let image = self.restore(&record, &place).await?;
        let front_end = self.front_ends.get(kind)?;
        let _turn = self.opening.acquire().await?;
        let open = self.store.open_for(&front_end, image).await?;
        let keys = open.keys();
        let mounts = self.paths.mounts();
        let live = spawn_blocking(move || {
            let spec = open.spec(&record);
            let (resume, mount) = (|| front_end.resume(spec.clone()), || front_end.mount(spec.clone()));
            let mounted = take_up(record.is_taken_away(), resume, mount)?;
            record.note_made(mounted.identity(), &mounts);
            let opening = Cost::new(record.fetched_bytes, record.requests);
            anyhow::Ok(open.into_live(record, opening, mounted))
        });
        let live: Arc<Live> = match live.await.map_err(anyhow::Error::from).flatten() {
            Ok(live) => live,
            Err(error) => {
                self.store.close(keys).await;
                return Err(error);
            }
        };
        self.tell_tracers_of(&live);
        reservation.fill(live);
        Ok(())
    }

    /// Puts the image together from what is here; what is damaged is loaded again.
    async fn restore(&self, record: &MountRecord, place: &Place) -> anyhow::Result<LoadedImage> {
        let manifest: Digest = record.manifest.parse()?;
        match larder_image::restore(&self.paths.images(), &manifest, &*place.repository).await {
            Ok(image) => Ok(image),
            Err(error) => {
                tracing::warn!(image = record.image, %error, "loaded again");
                let version = Version::Digest(manifest);
                let loaded = larder_image::load(&*place.repository, &version);
                Ok(timeout(RESTORE_MAX, loaded).await.context("its registry does not answer in time")??)
            }
        }
    }

    /// A place that cannot be reached is no reason to give up a mount: what is cached is served.
    async fn connect_patiently(&self, reference: &Reference, insecure: bool) -> anyhow::Result<Place> {
        let (reference, http) = (reference.clone(), self.http.clone());
        Ok(spawn_blocking(move || connect_patiently(&reference, insecure, &http)).await?)
    }

    /// Forgets a mount that is not to be taken up any more; what is left of it is detached, so that nobody reads what
    /// nobody vouches for. Tells whether that is done.
    pub(super) async fn give_up(&self, record: &MountRecord, left: Left) -> bool {
        let (paths, front_end, gone) = (self.paths.clone(), self.front_end_of(record), record.clone());
        let done = spawn_blocking(move || {
            if left == Left::Mount {
                super::stale::detach(&gone, &paths.cache())?;
            }
            if let Some(front_end) = front_end()? {
                front_end.abandon(&gone.id)?;
            }
            MountRecord::remove(&paths.mounts(), &gone.id)
        });
        match done.await.map_err(anyhow::Error::from).flatten() {
            Ok(()) => {
                self.forget_tree(record);
                true
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.complaints.are_due(&format!("give up {}", record.id), &reason) {
                    tracing::error!(target = %record.target.display(), "give up: {reason}");
                }
                false
            }
        }
    }

    /// Has the readers of `record`, which could not be taken up, get errors. Where that ends the mount, it is to be made anew.
    pub(super) async fn refuse_readers(&self, record: &mut MountRecord) {
        let was_kept = self.keeps(record);
        let (front_end, id) = (self.front_end_of(record), record.id.clone());
        let done = spawn_blocking(move || match front_end()? {
            Some(front_end) => Ok(front_end.refuse(&id)?),
            None => Ok(()),
        });
        if let Err(error) = done.await.map_err(anyhow::Error::from).flatten() {
            tracing::error!(target = %record.target.display(), "its readers wait: {error:#}");
        }
        self.note_what_is_left(record, was_kept);
    }

    /// Opens the front end that mounted `record`, if this release has it; to be called where blocking is allowed.
    fn front_end_of(
        &self,
        record: &MountRecord,
    ) -> impl FnOnce() -> anyhow::Result<Option<Arc<dyn FrontEnd>>> + Send + use<> {
        let (front_ends, trees) = (Arc::clone(&self.front_ends), self.trees.front_end());
        let (is_tree, kind) = (record.tree.is_some(), record.frontend.parse::<FrontEndKind>());
        move || match kind {
            _ if is_tree => Ok(Some(trees)),
            Ok(kind) => front_ends.get(kind).map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// Takes a mount up by `resume`; one that `was_taken_away` to be made anew, and is gone for that reason, is made by `mount`. Blocks.
///
/// # Errors
///
/// Those of both.
pub(super) fn take_up(
    was_taken_away: bool,
    resume: impl FnOnce() -> Result<Box<dyn Mounted>, larder_mount::Error>,
    mount: impl FnOnce() -> Result<Box<dyn Mounted>, larder_mount::Error>,
) -> Result<Box<dyn Mounted>, larder_mount::Error> {
    match resume() {
        Err(larder_mount::Error::Gone { .. }) if was_taken_away => mount(),
        resumed => resumed,
    }
}

/// Refuses and forgets what the keeper has of mounts that no record tells of: nobody else would answer their readers, and the
/// end of the daemon would not wait for them. Blocks.
fn abandon_unknown(front_end: &dyn FrontEnd, known: &BTreeSet<String>) {
    for id in front_end.kept_ids().into_iter().filter(|id| !known.contains(id)) {
        tracing::error!(kind = %front_end.kind(), id, "a mount without a record: its readers get errors");
        if let Err(error) = front_end.refuse(&id).and_then(|()| front_end.abandon(&id)) {
            tracing::error!(id, %error, "abandon");
        }
    }
}

/// Whether it is worth to let all other mounts wait a moment more. A file system that does not answer has been waited for.
fn may_pass_at_once(error: &anyhow::Error) -> bool {
    !is_for_good(error) && !matches!(error.downcast_ref(), Some(larder_mount::Error::NoAnswer { .. }))
}

/// Whether there is nothing to take up any more.
pub(super) fn is_for_good(error: &anyhow::Error) -> bool {
    use larder_mount::Error::{Gone, Poisoned};
    matches!(error.downcast_ref(), Some(Gone { .. } | Poisoned { .. }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use larder_erofs::writer::{Attributes, Tree};
    use larder_image::build::{BuildOptions, build};
    use larder_image::{LayoutRepository, load};
    use larder_mount::{Error, MountSpec};

    use super::super::testing::{FakeMount, daemon};
    use super::*;

    /// One that takes the only mount away to make it anew, and has to try that twice.
    struct Failing {
        id: String,
        /// What was asked of it.
        asked: Mutex<Vec<&'static str>>,
    }

    impl Failing {
        /// Notes what is asked; tells how often it was before.
        fn ask(&self, what: &'static str) -> usize {
            let mut asked = self.asked.lock().expect("no panic");
            asked.push(what);
            asked.iter().filter(|before| **before == what).count() - 1
        }
    }

    impl FrontEnd for Failing {
        fn kind(&self) -> FrontEndKind {
            FrontEndKind::Fuse
        }

        fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
            assert_eq!(spec.id, self.id);
            match self.ask("mount") {
                0 => Err(Error::NoFusermount { target: spec.target }),
                _ => Ok(Box::new(FakeMount { target: spec.target, ..FakeMount::at("") })),
            }
        }

        fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
            match self.ask("resume") {
                0 => Err(Error::NoFusermount { target: spec.target }),
                _ => Err(Error::Gone { target: spec.target }),
            }
        }

        fn abandon(&self, _: &str) -> Result<(), Error> {
            Ok(())
        }

        fn kept_ids(&self) -> Vec<String> {
            let is_untouched = self.asked.lock().expect("no panic").is_empty();
            is_untouched.then(|| self.id.clone()).into_iter().collect()
        }

        fn hand_over(&self) {}
    }

    /// The record of an image that an earlier worker has mounted.
    async fn mounted_before(daemon: &Daemon, dir: &Path) -> MountRecord {
        let (layout, mut tree) = (dir.join("layout"), Tree::new());
        tree.add_file(b"file", vec![1; 5000], &Attributes::default()).expect("a name");
        build(tree, &BuildOptions::default(), &layout).expect("room");
        let repository = LayoutRepository::open(&layout).expect("a layout");
        let image = load(&repository, &Version::Only).await.expect("a good one");
        image.persist(&daemon.paths.images()).expect("room");
        let (reference, digest) = (format!("oci:{}", layout.display()), image.manifest_digest.to_string());
        let record = MountRecord::new("/m".into(), reference, false, "fuse".into(), digest);
        record.save(&daemon.paths.mounts()).expect("room");
        record
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn p3_a_mount_that_was_taken_away_to_be_made_anew_is_made_when_it_can_be() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = daemon(dir.path());
        let mut record = mounted_before(&daemon, dir.path()).await;
        let failing = Arc::new(Failing { id: record.id.clone(), asked: Mutex::default() });
        daemon.front_ends.insert(Arc::clone(&failing) as _);
        let noted = || MountRecord::load_all(&daemon.paths.mounts()).expect("readable").pop();
        for _ in 0..2 {
            let error = daemon.try_to_resume(&mut record).await.expect_err("it cannot be made");
            assert!(!is_for_good(&error), "{error:#}");
            assert!(noted().expect("it is not forgotten").is_taken_away());
        }
        daemon.try_to_resume(&mut record).await.expect("it can be made");
        assert_eq!(
            *failing.asked.lock().expect("no panic"),
            ["resume", "resume", "mount", "resume", "mount"]
        );
        assert_eq!(daemon.mounts.all().len(), 1);
        assert!(!noted().expect("it is mounted").is_taken_away());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_mount_that_somebody_has_taken_away_is_not_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = daemon(dir.path());
        let mut record = mounted_before(&daemon, dir.path()).await;
        let failing = Arc::new(Failing { id: record.id.clone(), asked: Mutex::default() });
        failing.ask("resume");
        daemon.front_ends.insert(Arc::clone(&failing) as _);
        let error = daemon.try_to_resume(&mut record).await.expect_err("it is gone");
        assert!(is_for_good(&error), "{error:#}");
        assert_eq!(*failing.asked.lock().expect("no panic"), ["resume", "resume"]);
    }
}
