//! [`Waiting`]: mounts of an earlier worker that could not be taken up yet.
//!
//! They stay mounted: what keeps a worker from taking them up may pass, as a full disk or a lack of descriptors does. Their
//! readers get errors meanwhile, which do not outlive the cause by more than [`PAUSE_MAX`] (P3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Daemon;
use super::record::MountRecord;
use super::resume::{Left, is_for_good};
use crate::api::types::{Mount, MountKind, MountState};
use crate::errors::{Kind, told};

/// Between two tries to take a mount up: the first pause, which doubles, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Mounts of an earlier worker that could not be taken up yet, by their targets.
#[derive(Default)]
pub struct Waiting {
    mounts: Mutex<BTreeMap<PathBuf, Untaken>>,
    /// Whose turn it is to work on one of them.
    turn: tokio::sync::Mutex<()>,
}

/// One of them.
#[derive(Clone)]
struct Untaken {
    record: MountRecord,
    error: String,
    at: SystemTime,
}

impl Waiting {
    /// The mounts as the API shows them.
    pub fn view(&self) -> Vec<Mount> {
        self.lock().values().map(Untaken::view).collect()
    }

    fn targets(&self) -> Vec<PathBuf> {
        self.lock().keys().cloned().collect()
    }

    /// Whether the mount on `target` is one of them.
    pub fn contains(&self, target: &Path) -> bool {
        self.lock().contains_key(target)
    }

    /// Notes that `record` could not be taken up because of `error`.
    fn note(&self, record: &MountRecord, error: &anyhow::Error) {
        let untaken = Untaken { record: record.clone(), error: format!("{error:#}"), at: SystemTime::now() };
        self.lock().insert(record.target.clone(), untaken);
    }

    fn remove(&self, target: &Path) -> Option<MountRecord> {
        self.lock().remove(target).map(|untaken| untaken.record)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Untaken>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Untaken {
    fn view(&self) -> Mount {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Mount {
            last_error: Some(self.error.clone()),
            last_error_at_ms: u64::try_from(at.as_millis()).ok(),
            ..failing(self.record.clone())
        }
    }
}

/// A mount that nobody serves, as the API shows it.
pub(super) fn failing(record: MountRecord) -> Mount {
    let kind = if record.tree.is_some() { MountKind::Tree } else { MountKind::Image };
    Mount {
        id: record.id,
        path: record.target,
        kind,
        image: record.image,
        manifest: record.manifest,
        frontend: record.frontend,
        state: MountState::Failing,
        image_bytes: 0,
        fetched_bytes: record.fetched_bytes,
        requests: record.requests,
        last_error: None,
        last_error_at_ms: None,
        blobs: Vec::new(),
    }
}

impl Daemon {
    /// Leaves `record`, which could not be taken up because of `error`, for later: its readers get errors until then.
    pub(super) async fn take_up_later(self: &Arc<Self>, mut record: MountRecord, error: &anyhow::Error) {
        self.waiting.note(&record, error);
        self.refuse_readers(&mut record).await;
        let daemon = Arc::clone(self);
        tokio::spawn(async move { daemon.take_up_in_time(record).await });
    }

    async fn take_up_in_time(self: Arc<Self>, mut record: MountRecord) {
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let _turn = self.waiting.turn.lock().await;
            if !self.waiting.contains(&record.target) {
                return;
            }
            // A stop that succeeds takes it away; after one that does not it is still to be taken up.
            let Ok(_pass) = self.gate.pass() else { continue };
            match self.try_to_resume(&mut record).await {
                Ok(()) => {
                    self.waiting.remove(&record.target);
                    tracing::info!(target = %record.target.display(), image = record.image, "resumed after all");
                    return;
                }
                Err(error) => {
                    tracing::warn!(target = %record.target.display(), "still not resumed: {error:#}");
                    self.waiting.note(&record, &error);
                    if is_for_good(&error) && self.give_up(&record, Left::Nothing).await {
                        self.waiting.remove(&record.target);
                        return;
                    }
                    // What kept them from being refused, or from being taken up half way, may have passed.
                    self.refuse_readers(&mut record).await;
                }
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Detaches the mount on `target` when it is one that could not be taken up; tells whether it was.
    ///
    /// # Errors
    ///
    /// When `lazy` is false: nobody knows who uses it. When it cannot be detached.
    pub(super) async fn umount_waiting(&self, target: &Path, lazy: bool) -> anyhow::Result<bool> {
        if !self.waiting.contains(target) {
            return Ok(false);
        }
        check_lazy(target, lazy)?;
        let _turn = self.waiting.turn.lock().await;
        self.detach_waiting(target).await
    }

    /// The same for all of them, those that can be detached although others cannot. On success none is left, and none that
    /// somebody else was about to detach.
    pub(super) async fn umount_all_waiting(&self, lazy: bool) -> anyhow::Result<()> {
        // Whoever has the turn has taken one out, and may put it back.
        let _turn = self.waiting.turn.lock().await;
        let targets = self.waiting.targets();
        targets.iter().try_for_each(|target| check_lazy(target, lazy))?;
        let mut failed = None;
        for target in targets {
            failed = failed.or(self.detach_waiting(&target).await.err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Detaches one of them, if it is one; to be called by whoever has the turn.
    async fn detach_waiting(&self, target: &Path) -> anyhow::Result<bool> {
        let Some(record) = self.waiting.remove(target) else { return Ok(false) };
        if self.give_up(&record, Left::Mount).await {
            return Ok(true);
        }
        self.waiting.note(&record, &anyhow::anyhow!("it cannot be detached: the daemon's log tells why"));
        Err(told(
            Kind::Failed,
            format!("{}: cannot be detached", target.display()),
            "the daemon's log tells why",
        ))
    }
}

fn check_lazy(target: &Path, lazy: bool) -> anyhow::Result<()> {
    if lazy {
        return Ok(());
    }
    Err(told(
        Kind::Conflict,
        format!("{}: could not be taken up yet, and can only be detached", target.display()),
        "detach it with --lazy; or mend what keeps it from being taken up, as `larder status` tells it, and wait",
    ))
}
