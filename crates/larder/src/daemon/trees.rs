//! Mounting and resuming trees of remote stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use larder_cachefiles::Cachefiles;
use larder_fscache::Cache;
use larder_mount::fuse::{FileSystem, Fuse, Place};
use larder_mount::keeper::Holder;
use larder_mount::{FrontEnd, FrontEndKind, Mounted};
use larder_netfs::{Limits, Netfs};
use larder_ondemand::Engine;
use larder_remote::tree::{TreeAddress, TreePath, TreeStore};
use tokio::task::spawn_blocking;

use super::Daemon;
use super::live::{Cost, Live};
use super::mounting::{check_target, on_record};
use super::record::{MountRecord, RecordFile};
use super::resume::take_up;
use crate::api::types::{Mount, MountRequest};
use crate::errors::{Kind, tell};
use crate::tree::{Files, TreeFs, connect};

/// How far the kernel may read ahead in a tree, in bytes: several of the largest reads.
const READ_AHEAD_BYTES: u64 = 4 << 20;

/// What all trees share.
pub struct Trees {
    fuse: Arc<Fuse>,
    files: Files,
}

impl Trees {
    /// No trees yet.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn new(
        holder: Arc<dyn Holder>,
        engine: Arc<Engine>,
        cache: &Cache<Cachefiles>,
    ) -> anyhow::Result<Self> {
        let netfs = Netfs::new(engine.handle().clone(), Limits::default())?;
        Ok(Self { fuse: Arc::new(Fuse::open(holder, engine)?), files: Files::new(netfs, cache)? })
    }

    /// The files of all trees.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// What mounts them.
    pub fn front_end(&self) -> Arc<dyn FrontEnd> {
        Arc::clone(&self.fuse) as _
    }

    /// Waits until what was downloaded has been copied to the cache. Blocks.
    pub fn flush(&self) {
        self.files.netfs().flush();
    }
}

impl Daemon {
    /// Mounts a tree: ask its root, mount, remember.
    ///
    /// # Errors
    ///
    /// What kept it from being mounted; nothing is left of it then.
    pub(super) async fn mount_tree(&self, request: MountRequest) -> anyhow::Result<Mount> {
        let address: TreeAddress = request.image.parse()?;
        let options = request.tree.unwrap_or_default();
        let target = request.target.clone();
        let target = spawn_blocking(move || check_target(&target)).await??;
        let reservation = self.mounts.reserve(&target)?;
        let cannot =
            || tell(Kind::Failed, format!("{address} cannot be mounted on {}", target.display()), "");
        let store = connect(&address, &options, request.insecure, &self.http).with_context(cannot)?;
        store.list(&TreePath::root()).await.map_err(|error| {
            let hint = hint(&address, &error);
            let message = format!("{address} cannot be mounted on {}", target.display());
            anyhow::Error::new(error).context(tell(Kind::Failed, message, hint))
        })?;
        let fuse = FrontEndKind::Fuse.to_string();
        let image = address.to_string();
        let mut record = MountRecord::new(target.clone(), image, request.insecure, fuse, String::new());
        record.tree = Some(options);
        let _pass = self.gate.pass()?;
        let attached = spawn_blocking({
            let (mut record, store, attach) = (record.clone(), Arc::clone(&store), self.attach_tree(&record));
            let mounts = self.paths.mounts();
            move || {
                let new = record.clone();
                let mount = |fuse: &Fuse, place, fs: OpenFs<'_>| Ok(fuse.mount_file_system(place, fs()?)?);
                let mounted = on_record(&mut record, &mounts, || attach(store, Box::new(mount), &new))?;
                anyhow::Ok((record, mounted))
            }
        });
        let (record, mounted) =
            attached.await?.inspect_err(|_| self.forget_tree(&record)).with_context(cannot)?;
        let live = live(record, store, mounted);
        let view = live.view();
        reservation.fill(live);
        Ok(view)
    }

    /// Takes up a tree of an earlier worker; no server is asked.
    ///
    /// # Errors
    ///
    /// What kept it from being taken up.
    pub(super) async fn resume_tree(&self, record: MountRecord) -> anyhow::Result<()> {
        let reservation = self.mounts.reserve(&record.target)?;
        let address: TreeAddress = record.image.parse()?;
        let options = record.tree.clone().unwrap_or_default();
        let store = connect(&address, &options, record.insecure, &self.http)?;
        let attached = spawn_blocking({
            let (store, attach, mounts) =
                (Arc::clone(&store), self.attach_tree(&record), self.paths.mounts());
            let mut record = record;
            let was_taken_away = record.is_taken_away();
            let resume = move |fuse: &Fuse, place: Place, fs: OpenFs<'_>| {
                let fs = || {
                    fs().map_err(|source| larder_mount::Error::Kernel {
                        kind: FrontEndKind::Fuse,
                        doing: "reading the nodes of the last worker",
                        source,
                    })
                };
                let (again, resume) = (place.clone(), || fuse.resume_file_system(place, fs));
                Ok(take_up(was_taken_away, resume, || fuse.mount_file_system(again, fs()?))?)
            };
            move || {
                let mounted = attach(store, Box::new(resume), &record)?;
                record.note_made(mounted.identity(), &mounts);
                anyhow::Ok((record, mounted))
            }
        });
        let (record, mounted) = attached.await??;
        reservation.fill(live(record, store, mounted));
        Ok(())
    }

    /// What mounts or resumes a tree, away from the runtime.
    fn attach_tree(
        &self,
        record: &MountRecord,
    ) -> impl FnOnce(Arc<dyn TreeStore>, Attach, &MountRecord) -> anyhow::Result<Box<dyn Mounted>> + use<>
    {
        let (fuse, files) = (Arc::clone(&self.trees.fuse), self.trees.files.clone());
        let journal = journal(&self.paths.mounts(), record);
        move |store, attach, record| {
            let revalidate = record.tree.clone().unwrap_or_default().revalidate();
            let place = Place {
                id: record.id.clone(),
                target: record.target.clone(),
                source_name: record.image.clone(),
                identity: record.identity(),
            };
            let open = || {
                let fs = TreeFs::new(Arc::clone(&store), files.clone(), revalidate, &journal)?;
                Ok(Arc::new(fs) as Arc<dyn FileSystem>)
            };
            let mounted = attach(&fuse, place.clone(), &open)?;
            place.read_ahead(READ_AHEAD_BYTES);
            Ok(mounted)
        }
    }

    /// Forgets what only a mount of a tree has; nothing for an image.
    pub(super) fn forget_tree(&self, record: &MountRecord) {
        if record.tree.is_some() {
            crate::tree::forget(&journal(&self.paths.mounts(), record));
        }
    }
}

/// Opens the file system of a tree.
type OpenFs<'a> = &'a dyn Fn() -> std::io::Result<Arc<dyn FileSystem>>;

/// Mounts or resumes.
type Attach = Box<dyn FnOnce(&Fuse, Place, OpenFs<'_>) -> anyhow::Result<Box<dyn Mounted>>>;

/// Where the nodes of a mount are noted: beside its record.
fn journal(mounts: &Path, record: &MountRecord) -> PathBuf {
    mounts.join(format!("{}.nodes", record.id))
}

fn live(record: MountRecord, store: Arc<dyn TreeStore>, mounted: Box<dyn Mounted>) -> Arc<Live> {
    let opening = Cost::new(record.fetched_bytes, record.requests);
    Arc::new(Live {
        record,
        record_file: RecordFile::default(),
        image_bytes: 0,
        opening,
        metadata: None,
        metadata_blob: None,
        metadata_stored_bytes: 0,
        devices: Vec::new(),
        _sources: Vec::new(),
        tree: Some(store),
        mounted,
    })
}

/// What to do about an error of a tree's server.
fn hint(address: &TreeAddress, error: &larder_remote::Error) -> &'static str {
    use larder_remote::Error;
    match (error, address) {
        (Error::Status { status: 401 | 403, .. }, TreeAddress::S3 { .. }) => {
            "the daemon takes credentials from AWS_ACCESS_KEY_ID and the like, as they were when it was started; \
             --anonymous asks without any"
        }
        (Error::Status { status: 401 | 403, .. }, TreeAddress::Http(_)) => {
            "the server does not list this directory to everybody"
        }
        (Error::Status { status: 404, .. }, _) => "check the address: nothing is there",
        (Error::Connection { .. } | Error::Timeout { .. }, _) => "check that the server is up and reachable",
        _ => error.hint().unwrap_or_default(),
    }
}
