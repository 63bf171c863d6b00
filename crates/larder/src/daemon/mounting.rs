//! Mounting and unmounting: each step, and its undoing when a later one fails.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use larder_faults::{Site, point};
use larder_image::Reference;
use larder_mount::{FrontEnd, MountSpec, Mounted, check_path};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::Daemon;
use super::live::{Cost, Live};
use super::record::{MountRecord, RecordFile};
use super::stale;
use super::table::Reservation;
use crate::api::types::{Mount, MountRequest};
use crate::errors::{Kind, tell, told};
use crate::store::{OpenImage, Place, connect_in_time};

/// How long an unmount waits until its image is closed: much longer than that takes where nothing hangs.
const CLOSE_MAX: Duration = Duration::from_secs(1);

impl Daemon {
    /// Mounts an image: resolve, fetch the metadata, check it, acquire the blobs, mount, remember.
    ///
    /// # Errors
    ///
    /// What kept it from being mounted; nothing is left of it then.
    pub async fn mount(&self, request: MountRequest) -> anyhow::Result<Mount> {
        // Before anything is fetched; what counts is asked again.
        drop(self.gate.pass()?);
        if request.tree.is_some() {
            return self.mount_tree(request).await;
        }
        let reference: Reference = request.image.parse()?;
        let target = spawn_blocking({
            let target = request.target.clone();
            move || check_target(&target)
        });
        let target = target.await??;
        let reservation = self.mounts.reserve(&target)?;
        let cannot =
            || tell(Kind::Failed, format!("{reference} cannot be mounted on {}", target.display()), "");
        // Before anything is fetched: a front end that does not work here costs no request.
        let front_end = self.front_end(request.frontend.clone()).await.with_context(cannot)?;
        let place = connect_in_time(&reference, request.insecure, &self.http).await.with_context(cannot)?;
        let image = larder_image::load(&*place.repository, &place.version).await;
        let image = image.map_err(anyhow::Error::from).with_context(cannot)?;
        let _turn = self.opening.acquire().await?;
        let open = self.store.open_for(&front_end, image).await.with_context(cannot)?;
        let keys = open.keys();
        self.tell_tracers(
            &request.image,
            open.image.manifest_digest.as_ref(),
            &target,
            &keys.clone().into_all(),
        );
        let attached = async {
            let pass = self.gate.pass()?;
            let live = self.attach(&request, &target, (front_end, &place), open).await?;
            reservation.fill(Arc::clone(&live));
            drop(pass);
            anyhow::Ok(live)
        };
        match attached.await {
            Ok(live) => {
                let view = live.view();
                // Again: who has begun to listen in between found the mount neither there nor coming.
                self.tell_tracers_of(&live);
                crate::sys::trim_malloc();
                Ok(view)
            }
            Err(error) => {
                self.store.close(keys).await;
                Err(error.context(cannot()))
            }
        }
    }

    async fn front_end(&self, wanted: Option<String>) -> anyhow::Result<Arc<dyn FrontEnd>> {
        let front_ends = Arc::clone(&self.front_ends);
        spawn_blocking(move || front_ends.choose(wanted.as_deref())).await?
    }

    async fn attach(
        &self,
        request: &MountRequest,
        target: &Path,
        (front_end, place): (Arc<dyn FrontEnd>, &Place),
        open: OpenImage,
    ) -> anyhow::Result<Arc<Live>> {
        let mut record = MountRecord::new(
            target.to_owned(),
            request.image.clone(),
            request.insecure,
            front_end.kind().to_string(),
            open.image.manifest_digest.to_string(),
        );
        self.note_image(&open, &request.image, request.insecure)?;
        let opening = opening_cost(place, &open);
        record.fetched_bytes = opening.bytes.load(Ordering::Relaxed);
        record.requests = opening.requests.load(Ordering::Relaxed);
        let (paths, kept) = (self.paths.clone(), Arc::clone(&self.kept));
        spawn_blocking(move || {
            kept.keep_what_is_left(&open.held_names())?;
            open.image.persist(&paths.images())?;
            let spec = open.spec(&record);
            let mounted = mount_on_record(&*front_end, spec, &mut record, &paths.mounts())?;
            point(Site::LarderMounted);
            Ok(open.into_live(record, opening, mounted))
        })
        .await?
    }

    /// Unmounts what is mounted on `target`.
    ///
    /// # Errors
    ///
    /// When nothing of ours is mounted there, or it is in use and `lazy` is false.
    pub async fn umount(&self, target: &Path, lazy: bool) -> anyhow::Result<()> {
        self.umount_target(target, lazy).await?;
        // So that on return the cache can cull what nobody uses any more; unless something hangs.
        drop(timeout(CLOSE_MAX, join_all(self.close_what_is_gone())).await);
        Ok(())
    }

    /// The same, without waiting until its image is closed.
    pub(super) async fn umount_target(&self, target: &Path, lazy: bool) -> anyhow::Result<()> {
        let target = self.known_target(target).await;
        if self.umount_waiting(&target, lazy).await? {
            return Ok(());
        }
        let (live, reservation) = self.mounts.take(&target)?;
        self.umount_taken(live, reservation, lazy).await
    }

    /// The same with a mount that was taken out of the table, into which it goes back when it cannot be unmounted.
    pub(super) async fn umount_taken(
        &self,
        live: Arc<Live>,
        reservation: Reservation<'_>,
        lazy: bool,
    ) -> anyhow::Result<()> {
        let work = spawn_blocking({
            let (live, mounts) = (Arc::clone(&live), self.paths.mounts());
            move || detach(&live, lazy, &mounts)
        });
        if let Err(error) = work.await.map_err(anyhow::Error::from).flatten() {
            let target = live.record.target.display().to_string();
            reservation.fill(live);
            let own_hint = |error: &larder_mount::Error| match error {
                larder_mount::Error::Covered { .. } | larder_mount::Error::NoAnswer { .. } => error.hint(),
                _ => None,
            };
            let hint = error.downcast_ref().and_then(own_hint);
            let hint = hint.unwrap_or(
                "end the processes that use it (`fuser -vm` lists them), or detach it with --lazy",
            );
            return Err(error.context(tell(Kind::Conflict, format!("{target} cannot be unmounted"), hint)));
        }
        self.forget_tree(&live.record);
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(live);
        Ok(())
    }

    /// Closes the images of mounts from which nobody reads any more, each in a task of its own: a fill that hangs in a file
    /// system holds up the close of its image, and of no other.
    pub(super) fn close_what_is_gone(&self) -> Vec<JoinHandle<()>> {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = leaving.extract_if(.., |live| live.mounted.is_gone());
        let close = |live: Arc<Live>| {
            let store = self.store.clone();
            tokio::spawn(async move {
                let keys = live.keys();
                // Before its blobs are withdrawn, so that their cookies can be relinquished.
                drop(live);
                store.close(keys).await;
            })
        };
        gone.map(close).collect()
    }

    /// The target as the table knows it: links in the path to it are followed where that does not block.
    async fn known_target(&self, target: &Path) -> PathBuf {
        let is_known = |path: &Path| {
            self.mounts.all().iter().any(|live| live.record.target == path) || self.waiting.contains(path)
        };
        if is_known(target) {
            return target.to_owned();
        }
        let canonical = spawn_blocking({
            let target = target.to_owned();
            move || canonical(&target)
        });
        let canonical = canonical.await.ok().flatten();
        canonical.filter(|path| is_known(path)).unwrap_or_else(|| target.to_owned())
    }
}

/// The same directory by a path without links, if there is one and whoever leads to it answers. The parent is looked at, not the
/// mount itself: its daemon, that is we, might be what it waits for. Blocks.
fn canonical(target: &Path) -> Option<PathBuf> {
    let parent = target.parent()?;
    check_path(parent).ok()?;
    Some(parent.canonicalize().ok()?.join(target.file_name()?))
}

impl OpenImage {
    /// What a front end is to mount.
    pub(super) fn spec(&self, record: &MountRecord) -> MountSpec {
        MountSpec {
            id: record.id.clone(),
            target: record.target.clone(),
            metadata: self.metadata_path.clone(),
            metadata_blob: self.metadata_blob.clone(),
            devices: self.devices.clone(),
            whole_files: self.image.devices.iter().any(larder_image::Layer::is_one_file),
            source_name: record.image.clone(),
            identity: record.identity(),
        }
    }

    /// What the worker holds of a mount that a front end has made.
    pub(super) fn into_live(
        self,
        record: MountRecord,
        opening: Cost,
        mounted: Box<dyn Mounted>,
    ) -> Arc<Live> {
        Arc::new(Live {
            record,
            record_file: RecordFile::default(),
            image_bytes: self.image.image_bytes,
            opening,
            metadata: Some(self.metadata),
            metadata_blob: self.metadata_blob,
            metadata_stored_bytes: self.image.metadata.descriptor.size(),
            devices: self.devices,
            _sources: self.sources,
            tree: None,
            mounted,
        })
    }
}

/// What it took to open the image: what crossed the connection, where that is counted, else what was asked for.
fn opening_cost(place: &Place, open: &OpenImage) -> Cost {
    let (bytes, requests) =
        place.cost().unwrap_or((open.metadata_fetched_bytes, u64::from(open.metadata_fetched_bytes > 0)));
    Cost::new(bytes, requests)
}

/// Mounts an image, with the record written first: a worker that dies in between leaves nothing that its successor does not
/// know. Blocks.
fn mount_on_record(
    front_end: &dyn FrontEnd,
    spec: MountSpec,
    record: &mut MountRecord,
    records: &Path,
) -> anyhow::Result<Box<dyn Mounted>> {
    if stale::vanished(vec![record.target.clone()])?.is_empty() {
        // Something of somebody else's is mounted there, and a record would have a successor detach it.
        front_end.mount(spec)?.unmount(true)?;
        anyhow::bail!("{}: was in use a moment ago", record.target.display());
    }
    on_record(record, records, || Ok(front_end.mount(spec)?))
}

/// Saves the record, mounts, and notes there which mount it is. Blocks.
pub(super) fn on_record(
    record: &mut MountRecord,
    records: &Path,
    mount: impl FnOnce() -> anyhow::Result<Box<dyn Mounted>>,
) -> anyhow::Result<Box<dyn Mounted>> {
    record.save(records)?;
    point(Site::LarderRecord);
    let mounted = mount().inspect_err(|_| {
        if let Err(error) = MountRecord::remove(records, &record.id) {
            tracing::warn!(target = %record.target.display(), "mount_record: {error:#}");
        }
    })?;
    record.note_made(mounted.identity(), records);
    Ok(mounted)
}

/// Unmounts and forgets. Blocks.
fn detach(live: &Live, lazy: bool, records: &Path) -> anyhow::Result<()> {
    live.mounted.unmount(lazy)?;
    point(Site::LarderUnmounted);
    live.record_file.remove(&live.record, records)
}

/// The directory to mount on, by a path without links.
pub(super) fn check_target(target: &Path) -> anyhow::Result<PathBuf> {
    let place = || {
        tell(
            Kind::BadRequest,
            format!("{}: cannot be a mount point", target.display()),
            "name an existing directory",
        )
    };
    if !target.is_absolute() {
        return Err(told(Kind::BadRequest, format!("{}: is no absolute path", target.display()), ""));
    }
    check_path(target).with_context(place)?;
    let found = target.canonicalize().with_context(place)?;
    if found.is_dir() {
        return Ok(found);
    }
    Err(told(
        Kind::BadRequest,
        format!("{}: is no directory", target.display()),
        "name an existing directory",
    ))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use larder_fscache::ObjectRange;
    use larder_ondemand::Cause;
    use larder_remote::{BlobRange, RangeSource};
    use tokio::task::block_in_place;

    use super::super::testing::{Door, Doorkeeper, FakeMount, daemon, until};
    use super::*;
    use crate::store::testing::{LAYER_BYTES, layer};

    /// Longer than anything takes that goes on at all.
    const LONG: Duration = Duration::from_secs(60);

    /// A source that does not come back to whoever asks it: the task that does has the blob, and cannot be given up.
    struct Hangs(Arc<Door>);

    #[async_trait]
    impl RangeSource for Hangs {
        fn len(&self) -> u64 {
            LAYER_BYTES
        }

        fn describe(&self) -> String {
            "a source that hangs".into()
        }

        async fn read_range(&self, _: BlobRange) -> Result<Bytes, larder_remote::Error> {
            block_in_place(|| self.0.go_through());
            Ok(Bytes::from(vec![0; 1 << 20]))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn p4_a_fill_that_hangs_holds_up_no_unmount_no_other_close_and_no_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let (daemon, keeper) = (daemon(dir.path()), Doorkeeper::default());
        let open = |name| daemon.store.open_blob(&layer(name, Arc::new(Hangs(keeper.door())))).blob;
        let hanging = open(1);
        let cause = Cause::Demand { pid: None };
        daemon.store.engine().spawn_fill(&hanging, ObjectRange::at(0, 4096), cause, |_| {});
        keeper.somebody_comes().await;
        daemon.add_mount(FakeMount::at("/m1"), vec![hanging]);
        let other = Arc::downgrade(&daemon.add_mount(FakeMount::at("/m2"), vec![open(2)]));
        daemon.umount_target("/m1".as_ref(), false).await.expect("it can be unmounted");
        let umount = daemon.umount("/m2".as_ref(), false);
        timeout(LONG, umount).await.expect("its close is not waited for").expect("it can be unmounted");
        timeout(LONG, until(|| other.strong_count() == 0)).await.expect("it is closed, too");
        daemon.stop(true).await.expect("nothing is mounted");
        timeout(LONG, daemon.stopped.notified()).await.expect("it ends");
        assert!(!daemon.cache_hangs.load(Ordering::Relaxed), "that can be committed");
    }
}
