//! Taking up the mounts of an earlier worker: from the records, the kept descriptors and the cache, with no registry.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use larder_fscache::VolumeKey;
use larder_image::{Digest, LoadedImage, Reference, Version};
use larder_mount::{FrontEnd, FrontEndKind};
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
        for record in records {
            let target = record.target.clone();
            match self.resume_patiently(&record).await {
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
    async fn resume_patiently(&self, record: &MountRecord) -> anyhow::Result<()> {
        let (begun, mut pause) = (Instant::now(), RESUME_PAUSE);
        for _ in 1..RESUME_TRIES {
            match self.resume(record.clone()).await {
                Err(error) if may_pass_at_once(&error) && begun.elapsed() < RESTORE_MAX => {
                    tracing::warn!(target = %record.target.display(), "not resumed yet: {error:#}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.resume(record.clone()).await
    }

    pub(super) async fn resume(&self, mut record: MountRecord) -> anyhow::Result<()> {
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
            let mounted = front_end.resume(open.spec(&record))?;
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
        let (dir, manifest): (_, Digest) = (self.paths.images(), record.manifest.parse()?);
        let (repository, digest) = (Arc::clone(&place.repository), manifest.clone());
        match spawn_blocking(move || larder_image::restore(&dir, &digest, &*repository)).await? {
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

    /// Has the readers of `record`, which could not be taken up, get errors.
    pub(super) async fn refuse_readers(&self, record: &MountRecord) {
        let (front_end, id) = (self.front_end_of(record), record.id.clone());
        let done = spawn_blocking(move || match front_end()? {
            Some(front_end) => Ok(front_end.refuse(&id)?),
            None => Ok(()),
        });
        if let Err(error) = done.await.map_err(anyhow::Error::from).flatten() {
            tracing::error!(target = %record.target.display(), "its readers wait: {error:#}");
        }
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
