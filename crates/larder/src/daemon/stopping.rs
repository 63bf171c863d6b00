//! Stopping: unmount everything, make the cache durable, tell the keeper, end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::spawn_blocking;

use super::{Daemon, listener};

impl Daemon {
    /// Unmounts everything and lets the process end; mounts in use are detached when `lazy`.
    ///
    /// # Errors
    ///
    /// When a mount is in use and `lazy` is false: the daemon goes on, with what is still mounted.
    pub async fn stop(self: &Arc<Self>, lazy: bool) -> anyhow::Result<()> {
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = self.unmount_all(lazy).await {
            self.stopping.store(false, Ordering::Release);
            return Err(error);
        }
        let daemon = Arc::clone(self);
        spawn_blocking(move || {
            daemon.commit_all();
            listener::remove(&daemon.paths.socket(), daemon.holder());
            if let Some(keeper) = &daemon.keeper {
                keeper.stop();
            }
        })
        .await?;
        self.stopped.notify_one();
        Ok(())
    }

    /// Leaves everything to the next worker: no more questions are taken, and what is here is durable. Blocks.
    pub(super) fn hand_over(&self) {
        for front_end in self.front_ends.made() {
            front_end.hand_over();
        }
        self.commit_all();
    }

    async fn unmount_all(&self, lazy: bool) -> anyhow::Result<()> {
        let mut failed = None;
        for live in self.mounts.all() {
            if let Err(error) = self.umount(&live.record.target, lazy).await {
                tracing::warn!("umount: {error:#}");
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
