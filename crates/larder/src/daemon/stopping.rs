//! Stopping: unmount everything, wait for who still reads, make the cache durable, tell the keeper, end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_mount::FrontEnd;
use tokio::task::spawn_blocking;

use super::{Daemon, listener};

/// Between two looks at whether a detached mount is still read.
const PAUSE: Duration = Duration::from_millis(20);

/// After this long one is in use for certain.
const MOMENT: Duration = Duration::from_millis(500);

impl Daemon {
    /// Unmounts everything and lets the process end; mounts in use are detached when `lazy`.
    ///
    /// Returns once nothing is mounted any more. The process ends when nobody reads from what was detached: before,
    /// its readers would take holes for zeros (P1). Until then the daemon answers, but mounts nothing.
    ///
    /// # Errors
    ///
    /// When a mount is in use and `lazy` is false: the daemon goes on, with what is still mounted.
    pub async fn stop(self: &Arc<Self>, lazy: bool) -> anyhow::Result<()> {
        let was_stopping = self.stopping.swap(true, Ordering::AcqRel);
        // Who is mounting something has looked at that before, and puts it into the table first.
        drop(self.coming.write().await);
        if let Err(error) = self.unmount_all(lazy).await {
            // Another call may have succeeded meanwhile.
            if !self.ending.load(Ordering::Acquire) {
                self.stopping.store(was_stopping, Ordering::Release);
            }
            return Err(error);
        }
        if !self.ending.swap(true, Ordering::AcqRel) {
            self.stopping.store(true, Ordering::Release);
            let daemon = Arc::clone(self);
            tokio::spawn(async move { daemon.end().await });
        }
        Ok(())
    }

    async fn end(self: Arc<Self>) {
        let daemon = Arc::clone(&self);
        let idle = spawn_blocking(move || {
            let are_idle = || daemon.front_ends.are_idle() && daemon.trees.front_end().is_idle();
            // The kernel takes a moment to let go of what nobody uses.
            let begun = Instant::now();
            while !are_idle() && begun.elapsed() < MOMENT {
                std::thread::sleep(PAUSE);
            }
            if are_idle() {
                return;
            }
            tracing::warn!("detached mounts are still in use: the daemon ends when they are not");
            while !are_idle() {
                std::thread::sleep(PAUSE);
            }
        });
        if let Err(error) = idle.await {
            // It would have closed what is read: the next worker tries again.
            tracing::error!(%error, "not known whether anybody still reads");
            std::process::abort();
        }
        // Whoever still waits gets an error, and nobody writes to the cache any more.
        self.store.engine().shut_down().await;
        let daemon = Arc::clone(&self);
        let last_words = spawn_blocking(move || {
            daemon.trees.flush();
            daemon.commit_all();
            listener::remove(&daemon.paths.socket(), daemon.holder());
            if let Some(keeper) = &daemon.keeper {
                keeper.stop();
            }
        });
        if let Err(error) = last_words.await {
            tracing::error!(%error, "stop");
        }
        self.stopped.notify_one();
    }

    /// Leaves everything to the next worker: no more questions are taken. Blocks, and readers wait meanwhile: so that nothing is
    /// done that can be done before, or by the next worker, which has the live maps from the keeper.
    pub(super) fn hand_over(&self) {
        self.remember_figures();
        // While readers are still answered: the next worker keeps of a map whose sync was broken off only what is durable.
        self.store.cache().backend().end_commits();
        let trees = self.trees.front_end();
        hand_over_all(&self.front_ends.made().into_iter().chain([trees]).collect::<Vec<_>>());
        self.trees.flush();
    }

    async fn unmount_all(&self, lazy: bool) -> anyhow::Result<()> {
        // They are detached or nothing is, before anything else is unmounted.
        self.umount_all_waiting(lazy).await.inspect_err(|error| self.complain("waiting", error))?;
        let mut failed = None;
        for live in self.mounts.all() {
            if let Err(error) = self.umount(&live.record.target, lazy).await {
                self.complain(&live.record.id, &error);
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn complain(&self, about: &str, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        if self.complaints.are_due(&format!("umount {about}"), &reason) {
            tracing::warn!("umount: {reason}");
        }
    }
}

/// Has all of them hand over at once: where one waits for what it has in hand, readers of the others would wait for it, too.
fn hand_over_all(front_ends: &[Arc<dyn FrontEnd>]) {
    std::thread::scope(|scope| {
        for front_end in front_ends {
            let thread = std::thread::Builder::new().name("hand-over".into());
            if thread.spawn_scoped(scope, || front_end.hand_over()).is_err() {
                // Later than the others, but before this process ends.
                front_end.hand_over();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use larder_mount::{Error, FrontEndKind, MountSpec, Mounted};

    use super::*;

    /// One that has something in hand until as many hand over as there are.
    struct Draining {
        under_way: Arc<AtomicUsize>,
        all: usize,
    }

    impl FrontEnd for Draining {
        fn kind(&self) -> FrontEndKind {
            FrontEndKind::Fuse
        }

        fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
            Err(Error::Gone { target: spec.target })
        }

        fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
            Err(Error::Gone { target: spec.target })
        }

        fn abandon(&self, _: &str) -> Result<(), Error> {
            Ok(())
        }

        fn kept_ids(&self) -> Vec<String> {
            Vec::new()
        }

        fn hand_over(&self) {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            let begun = Instant::now();
            while self.under_way.load(Ordering::SeqCst) < self.all {
                assert!(begun.elapsed() < Duration::from_secs(10), "the others wait for this one");
                std::thread::sleep(PAUSE);
            }
        }
    }

    #[test]
    fn p4_front_ends_wait_for_what_they_have_in_hand_at_the_same_time() {
        let under_way = Arc::new(AtomicUsize::new(0));
        let one = || Arc::new(Draining { under_way: Arc::clone(&under_way), all: 3 }) as Arc<dyn FrontEnd>;
        hand_over_all(&[one(), one(), one()]);
        assert_eq!(under_way.load(Ordering::SeqCst), 3);
    }
}
