//! Stopping: unmount everything, wait for who still reads, make the cache durable, tell the keeper, end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_mount::FrontEnd;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::gate::End;
use super::{Daemon, listener};
use crate::errors::{Kind, told};

/// Between two looks at whether a detached mount is still read.
const PAUSE: Duration = Duration::from_millis(20);

/// After this long one is in use for certain.
const MOMENT: Duration = Duration::from_millis(500);

/// How long the last fills may take to end: they are told to at once, and only one that hangs does not.
const SHUT_DOWN_MAX: Duration = Duration::from_secs(10);

impl Daemon {
    /// Unmounts everything and lets the process end; mounts in use are detached when `lazy`.
    ///
    /// Returns once nothing is mounted any more. The process ends when nobody reads from what was detached: before,
    /// its readers would take holes for zeros (P1). Until then the daemon answers, but mounts nothing.
    ///
    /// # Errors
    ///
    /// When a mount is in use and `lazy` is false, or cannot be detached: the daemon goes on, with what is still mounted. When
    /// another worker takes over meanwhile.
    pub async fn stop(self: &Arc<Self>, lazy: bool) -> anyhow::Result<()> {
        // Until this one is done nobody mounts, whatever other stops come to.
        let closed = self.gate.close().await;
        self.unmount_all(lazy).await?;
        match closed.for_good() {
            End::First => {
                let daemon = Arc::clone(self);
                tokio::spawn(async move { daemon.end().await });
                Ok(())
            }
            End::Another => Ok(()),
            End::HandedOver => {
                Err(told(Kind::Conflict, "another worker has just taken over, and goes on", "stop it again"))
            }
        }
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
        self.end_cache().await;
        let daemon = Arc::clone(&self);
        let last_words = spawn_blocking(move || {
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

    /// Makes the cache durable when nobody writes to it any more. Nobody reads either, so that what hangs need not be waited for:
    /// what was not committed is a hole for the next daemon, and a late write brings the right bytes to it.
    async fn end_cache(self: &Arc<Self>) {
        // Whoever still waits gets an error.
        let fills = timeout(SHUT_DOWN_MAX, self.store.engine().shut_down()).await;
        let daemon = Arc::clone(self);
        let commit = spawn_blocking(move || {
            daemon.trees.flush();
            daemon.commit_all();
        });
        let committed = match fills {
            Ok(()) => Ok(commit.await),
            Err(_) => {
                tracing::warn!("a fill hangs in a file system: the daemon ends without it");
                timeout(SHUT_DOWN_MAX, commit).await
            }
        };
        match committed {
            Ok(done) => drop(done.inspect_err(|error| tracing::error!(%error, "commit"))),
            Err(_) => {
                tracing::error!(
                    "the file system of the cache hangs: what was not durable will be fetched again"
                );
                self.cache_hangs.store(true, Ordering::Release);
            }
        }
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
        let waiting =
            self.umount_all_waiting(lazy).await.inspect_err(|error| self.complain("waiting", error));
        let left = match waiting {
            // Nothing else is unmounted either.
            Err(error) if !lazy => return Err(error),
            waiting => waiting.err(),
        };
        loop {
            let mut failed = None;
            for live in self.mounts.all() {
                // Somebody else works on it, or was faster.
                let Ok((live, reservation)) = self.mounts.take(&live.record.target) else { continue };
                let id = live.record.id.clone();
                if let Err(error) = self.umount_taken(live, reservation, lazy).await {
                    self.complain(&id, &error);
                    failed = failed.or(Some(error));
                }
            }
            drop(self.close_what_is_gone());
            match failed {
                Some(error) => return Err(error),
                // What somebody else could not unmount is there again.
                None if self.mounts.is_empty_at_last().await => return left.map_or(Ok(()), Err),
                None => {}
            }
        }
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
    use tokio::task::JoinHandle;

    use super::super::testing::{Doorkeeper, FakeMount, daemon};
    use super::*;
    use crate::api::types::MountRequest;

    type Stopped = JoinHandle<anyhow::Result<()>>;

    /// Longer than anything takes that goes on at all.
    const LONG: Duration = Duration::from_secs(60);

    fn stop(daemon: &Arc<Daemon>, lazy: bool) -> Stopped {
        let daemon = Arc::clone(daemon);
        tokio::spawn(async move { daemon.stop(lazy).await })
    }

    async fn result(stopped: Stopped) -> anyhow::Result<()> {
        timeout(LONG, stopped).await.expect("it waits for nobody any more").expect("no panic")
    }

    /// What a mount that begins now is told.
    async fn told_who_mounts(daemon: &Daemon) -> String {
        let request = MountRequest {
            image: "no image at all".into(),
            target: "/".into(),
            frontend: None,
            insecure: false,
            tree: None,
        };
        format!("{:#}", daemon.mount(request).await.expect_err("there is no such image"))
    }

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

    #[tokio::test(flavor = "multi_thread")]
    async fn p1_nothing_is_mounted_while_one_of_two_stops_unmounts() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = daemon(dir.path());
        let keepers = [Doorkeeper::default(), Doorkeeper::default()];
        for (target, keeper) in ["/m1", "/m2"].into_iter().zip(&keepers) {
            daemon.add_mount(FakeMount { door: Some(keeper.door()), ..FakeMount::at(target) }, Vec::new());
        }
        let mut first = stop(&daemon, true);
        keepers[0].somebody_comes().await;
        let second = stop(&daemon, true);
        keepers[1].somebody_comes().await;
        // The first one finds the second one at work on what is left.
        keepers[0].open();
        timeout(MOMENT, &mut first).await.expect_err("it is still mounted");
        assert!(told_who_mounts(&daemon).await.contains("is stopping"));
        keepers[1].open();
        result(first).await.expect("the other one has unmounted it");
        result(second).await.expect("it can be unmounted");
        assert!(told_who_mounts(&daemon).await.contains("is stopping"));
        timeout(LONG, daemon.stopped.notified()).await.expect("it ends");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn p4_two_stops_that_fail_at_the_same_time_leave_a_daemon_that_mounts() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = daemon(dir.path());
        let keepers = [Doorkeeper::default(), Doorkeeper::default()];
        for (target, keeper) in ["/m1", "/m2"].into_iter().zip(&keepers) {
            let mount =
                FakeMount { door: Some(keeper.door()), is_busy: [false].into(), ..FakeMount::at(target) };
            daemon.add_mount(mount, Vec::new());
        }
        // The first one works on the one, and the second one on the other.
        let first = stop(&daemon, false);
        keepers[0].somebody_comes().await;
        let second = stop(&daemon, false);
        keepers[1].somebody_comes().await;
        keepers[0].open();
        result(first).await.expect_err("both are in use");
        keepers[1].open();
        result(second).await.expect_err("both are in use");
        let told = told_who_mounts(&daemon).await;
        assert!(!told.contains("is stopping"), "{told}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn p4_a_stop_waits_for_what_somebody_else_unmounts_and_detaches_it_when_they_cannot() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = daemon(dir.path());
        let keeper = Doorkeeper::default();
        let busy = FakeMount { door: Some(keeper.door()), is_busy: [false].into(), ..FakeMount::at("/m") };
        daemon.add_mount(busy, Vec::new());
        let other = Arc::clone(&daemon);
        let umount = tokio::spawn(async move { other.umount("/m".as_ref(), false).await });
        keeper.somebody_comes().await;
        let mut stopped = stop(&daemon, true);
        timeout(MOMENT, &mut stopped).await.expect_err("somebody unmounts it");
        keeper.open();
        umount.await.expect("no panic").expect_err("it is in use");
        result(stopped).await.expect("it can be detached");
        assert!(daemon.mounts.all().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn p4_a_stop_waits_for_nothing_that_is_still_to_be_mounted() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = daemon(dir.path());
        let _coming = daemon.mounts.reserve("/m".as_ref()).expect("it is free");
        result(stop(&daemon, false)).await.expect("it will be refused");
    }

    #[test]
    fn p4_front_ends_wait_for_what_they_have_in_hand_at_the_same_time() {
        let under_way = Arc::new(AtomicUsize::new(0));
        let one = || Arc::new(Draining { under_way: Arc::clone(&under_way), all: 3 }) as Arc<dyn FrontEnd>;
        hand_over_all(&[one(), one(), one()]);
        assert_eq!(under_way.load(Ordering::SeqCst), 3);
    }
}
