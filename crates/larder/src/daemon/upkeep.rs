//! What the worker does by itself: making the cache durable, taking hooks off complete blobs, remembering figures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_fscache::CookieKey;
use larder_mount::keeper;
use larder_ondemand::Blob;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::{Daemon, served_with, stale};

/// How long bytes may be in the cache before they are durable there. Never on a reader's path.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// How long a cookie that nobody uses keeps its object open: `fscache_lru_cookie_timeout` in fs/fscache/cookie.c (v6.12).
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Looks after the cache until the process ends.
pub async fn commit_regularly(daemon: Arc<Daemon>) {
    let mut ticks = interval(COMMIT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = BTreeMap::new();
    loop {
        ticks.tick().await;
        daemon.drop_vanished().await;
        drop(daemon.close_what_is_gone());
        let daemon = Arc::clone(&daemon);
        let past = std::mem::take(&mut before);
        let round = move || {
            let now = daemon.commit_changed(past);
            // What is not committed is closed by nobody but the next worker.
            if !daemon.leaves_commits() {
                daemon.mounts.all().iter().for_each(|live| live.take_hooks_off());
                daemon.close_idle();
            }
            now
        };
        match spawn_blocking(round).await {
            Ok(now) => before = now,
            Err(error) => tracing::error!(%error, "commit"),
        }
    }
}

/// Gives the keeper signs of life for as long as this runtime gives turns; for ever, and only when a watchdog wants them.
pub async fn show_signs_of_life(keeper: keeper::Client) {
    let wanted = keeper::watchdog_interval(std::env::var_os(keeper::WATCHDOG_ENV).as_deref());
    let Some(wanted) = wanted else { return };
    let mut ticks = interval(wanted / 4);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        keeper.alive();
    }
}

/// Writes down what this worker serves with, for whoever takes the place of keeper and worker.
pub async fn note_options(daemon: Arc<Daemon>) {
    let note = move || served_with::note(&daemon.paths, &daemon.options.limits);
    if let Err(error) = spawn_blocking(note).await.map_err(anyhow::Error::from).flatten() {
        tracing::warn!("{error:#}");
    }
}

/// Seals blobs as they become complete, and has the front ends take their hooks off.
pub async fn seal(daemon: Arc<Daemon>, mut complete: mpsc::UnboundedReceiver<Arc<Blob>>) {
    while let Some(blob) = complete.recv().await {
        let daemon = Arc::clone(&daemon);
        if let Err(error) = spawn_blocking(move || daemon.seal(&blob)).await {
            tracing::error!(%error, "seal");
        }
    }
}

impl Daemon {
    /// Forgets mounts that somebody else has unmounted, as umount(8) does.
    async fn drop_vanished(&self) {
        let targets: Vec<_> = self.mounts.all().iter().map(|live| live.record.target.clone()).collect();
        if targets.is_empty() {
            return;
        }
        let vanished = spawn_blocking(move || stale::vanished(targets)).await;
        for target in vanished.map_err(anyhow::Error::from).flatten().unwrap_or_default() {
            tracing::info!(target = %target.display(), "unmounted by somebody else");
            if let Err(error) = self.umount_target(&target, true).await {
                tracing::warn!(target = %target.display(), "umount: {error:#}");
            }
        }
    }

    /// Makes durable what has come since the last time; returns what is present now.
    fn commit_changed(&self, before: BTreeMap<CookieKey, u64>) -> BTreeMap<CookieKey, u64> {
        self.store.relinquish_unused();
        let leaving = self.trees.files().leaving();
        let mut now = BTreeMap::new();
        let mut changed = false;
        self.keep_within_limits();
        for cookie in self.store.cache().cookies() {
            let Some(object) = cookie.object() else { continue };
            let present = object.present_bytes();
            if before.get(cookie.key()) == Some(&present) {
                now.insert(cookie.key().clone(), present);
                continue;
            }
            match object.commit() {
                Err(_) if self.leaves_commits() => return now,
                Ok(()) => {
                    changed = true;
                    now.insert(cookie.key().clone(), present);
                }
                // Not noted as done: the next round tries again.
                Err(error) => tracing::warn!(cookie = %cookie.key(), %error, "cachefiles_commit"),
            }
        }
        self.trees.files().let_go(leaving);
        if changed {
            self.remember_figures();
            crate::sys::trim_malloc();
        }
        now
    }

    /// Whether what is still to be committed is left to the next worker.
    fn leaves_commits(&self) -> bool {
        self.store.cache().backend().has_ended_commits()
    }

    /// Culls when the limits say so, and puts the cache's index on the disk.
    fn keep_within_limits(&self) {
        match self.store.cache().backend().maintain() {
            Ok(culled) if culled.objects > 0 || culled.bytes > 0 => {
                tracing::info!(objects = culled.objects, bytes = culled.bytes, "culled");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "maintain"),
        }
    }

    /// Makes everything durable; blocks for I/O.
    pub(super) fn commit_all(&self) {
        self.commit_changed(BTreeMap::new());
    }

    /// Closes the objects of cookies that nobody uses, so that they can be culled. After a commit: what is closed is not
    /// committed any more.
    fn close_idle(&self) {
        if let Some(before) = Instant::now().checked_sub(IDLE_MAX) {
            self.store.cache().discard_idle(before);
        }
    }

    fn seal(&self, blob: &Arc<Blob>) {
        if let Err(error) = blob.resources().object().commit() {
            if self.leaves_commits() {
                return;
            }
            // The hook stays on until the next round: what is not durable must be looked at again after a crash.
            tracing::warn!(blob = %blob.name(), %error, "cachefiles_commit");
            return;
        }
        tracing::info!(blob = %blob.name(), bytes = blob.size(), "complete");
        for live in self.mounts.all() {
            live.on_complete(blob);
        }
    }

    /// Writes down what was fetched, so that the next worker goes on counting.
    pub(super) fn remember_figures(&self) {
        for live in self.mounts.all() {
            let view = live.view();
            let mut record = live.record.clone();
            if (record.fetched_bytes, record.requests) == (view.fetched_bytes, view.requests) {
                continue;
            }
            (record.fetched_bytes, record.requests) = (view.fetched_bytes, view.requests);
            if let Err(error) = live.record_file.update(&record, &self.paths.mounts()) {
                tracing::warn!("mount_record: {error:#}");
            }
        }
    }
}
