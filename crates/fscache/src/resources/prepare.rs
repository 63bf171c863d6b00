//! What to do about a range before it is read or written: the two `prepare_*` calls and their helpers.
//!
//! Both calls are thin wrappers of [`decide`]. `prepare_read` serves network file systems, which download what is
//! missing and write it back; `prepare_ondemand_read` file systems that hold cookies of their own and have it brought.

use super::CacheResources;
use crate::decision::Probe;
use crate::stats::add;
use crate::{CookieKey, Decision, Error, IoSource, ObjectRange, ReadFlags, Run, Why, decide};

/// What readahead is rounded out to, in bytes: a few requests' worth, so that the cache fills without gaps.
const READAHEAD_GRANULE_BYTES: u64 = 256 << 10;

impl CacheResources {
    /// Decides for a client that downloads holes itself: past `i_size`, the file's size in bytes, it gets zeros.
    ///
    /// A `DownloadFromServer` comes with [`ReadFlags::COPY_TO_CACHE`] where the cache wants the bytes. Lock-free, no
    /// allocation, no I/O.
    #[inline]
    pub fn prepare_read(&self, want: ObjectRange, i_size: u64) -> Decision {
        let decision = if self.size() <= want.start() && want.start() < i_size {
            // The file has grown beyond what the cookie stands for: nothing to look up, nothing to keep.
            decide(want, i_size, self.block_size(), Probe::NoFile, ReadFlags::empty())
        } else {
            self.decide(want, i_size, ReadFlags::empty())
        };
        self.tell(&decision);
        decision
    }

    /// Decides for a file system that has holes brought.
    ///
    /// The kernel's EROFS asks with the greatest `i_size` there is, so that the end of a blob is never zeros. A read
    /// that starts past the end of the object then means an image that points outside its own blob, and is an
    /// [`IoSource::InvalidRead`].
    ///
    /// Without [`ReadFlags::ONDEMAND`], or without somebody who brings ([`Cookie::set_bring`]), this only asks:
    /// lock-free, no allocation, no I/O. The caller brings what is missing and asks again; a second miss is an error.
    /// With both it blocks: the hole is brought, the flag is cleared and the decision is taken once more, so that a
    /// second miss comes out as `DownloadFromServer`, never as a third try.
    ///
    /// # Errors
    ///
    /// What [`Bring::bring`](crate::Bring::bring) says.
    ///
    /// [`Cookie::set_bring`]: crate::Cookie::set_bring
    #[inline]
    pub fn prepare_ondemand_read(
        &self,
        want: ObjectRange,
        i_size: u64,
        flags: ReadFlags,
    ) -> Result<Decision, Error> {
        let decision = self.decide_inside(want, i_size, flags);
        self.tell(&decision);
        if decision.source == IoSource::DownloadFromServer && flags.contains(ReadFlags::ONDEMAND) {
            return self.bring(decision, i_size);
        }
        Ok(decision)
    }

    /// Row R of the decision table.
    #[cold]
    fn bring(&self, decision: Decision, i_size: u64) -> Result<Decision, Error> {
        let Some(bring) = self.cookie().bring() else { return Ok(decision) };
        bring.bring(decision.range)?;
        add(&self.cookie().volume().stats().mine().brought, 1);
        let again = self.decide_inside(decision.range, i_size, decision.flags - ReadFlags::ONDEMAND);
        self.tell(&again);
        Ok(again)
    }

    /// The decision, with a read past the end of the object as an invalid one.
    #[inline]
    fn decide_inside(&self, want: ObjectRange, i_size: u64, flags: ReadFlags) -> Decision {
        if self.size() <= want.start() && want.start() < i_size {
            let range = ObjectRange::at(want.start(), 0);
            return Decision { source: IoSource::InvalidRead, range, why: Why::AfterEof, flags };
        }
        self.decide(want, i_size, flags)
    }

    #[inline]
    fn decide(&self, want: ObjectRange, i_size: u64, flags: ReadFlags) -> Decision {
        let found = match self.object.probe_within(want) {
            run @ Run::Present { .. } => Probe::Map(run),
            run @ Run::Hole { .. } => self.look_at_hole(run),
        };
        decide(want, i_size.min(self.size()), self.block_size(), found, flags)
    }

    /// A hole may also mean that there is nothing at all.
    fn look_at_hole(&self, run: Run) -> Probe {
        match () {
            () if self.expired() => Probe::NoFile,
            () if self.object.is_empty() => Probe::NoData,
            () => Probe::Map(run),
        }
    }

    #[inline]
    fn tell(&self, decision: &Decision) {
        let cookie = self.cookie();
        let stats = cookie.volume().stats().mine();
        add(&stats.decisions, 1);
        match decision.source {
            IoSource::ReadFromCache => add(&stats.hits, 1),
            IoSource::DownloadFromServer => add(&stats.holes, 1),
            IoSource::FillWithZeroes | IoSource::InvalidRead => add(&stats.invalid, 1),
        }
        tracing::trace!(
            object = cookie.id(), source = ?decision.source, why = ?decision.why, flags = %decision.flags,
            start = decision.range.start(), len = decision.range.len(),
            volume = %cookie.volume().key(), cookie = %cookie.key(), "cachefiles_prep_read"
        );
    }

    /// Says what a client that wants to write `range` has to write: whole blocks, up to the end of the object.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] when `range` is not inside the object, [`Error::Withdrawn`].
    pub fn prepare_write(&self, range: ObjectRange) -> Result<ObjectRange, Error> {
        let key = || -> CookieKey { self.cookie().key().clone() };
        if self.expired() {
            return Err(Error::Withdrawn { cookie: key() });
        }
        if range.end() > self.size() {
            return Err(Error::OutOfBounds { cookie: key(), range, size: self.size() });
        }
        let block = self.block_size();
        let end = block.round_up(range.end()).unwrap_or(u64::MAX).min(self.size());
        let start = block.round_down(range.start());
        Ok(ObjectRange::at(start, end.saturating_sub(start)))
    }

    /// Finds the first bytes of `range` that are present: a part of it, or `None`.
    pub fn query_occupancy(&self, range: ObjectRange) -> Option<ObjectRange> {
        let mut at = range.start();
        let end = range.end().min(self.size());
        while at < end {
            match self.object.probe_within(ObjectRange::at(at, end - at)) {
                Run::Present { until } => return ObjectRange::new(at, until.min(end)),
                Run::Hole { until } if until > at => at = until,
                Run::Hole { .. } => return None,
            }
        }
        None
    }

    /// Rounds the range of a readahead out, so that the cache fills in granules; never past `i_size`.
    pub fn expand_readahead(&self, range: ObjectRange, i_size: u64) -> ObjectRange {
        let start = range.start() - range.start() % READAHEAD_GRANULE_BYTES;
        let end = range.end().checked_next_multiple_of(READAHEAD_GRANULE_BYTES).unwrap_or(u64::MAX);
        let end = end.min(i_size).max(range.end());
        ObjectRange::at(start, end - start)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::memory::tests::{open, resources};
    use crate::{Bring, InUse, ObjectSpec};

    const ASK: ReadFlags = ReadFlags::empty();

    fn ask(resources: &CacheResources, want: ObjectRange) -> Decision {
        resources.prepare_ondemand_read(want, u64::MAX, ASK).expect("asking cannot fail")
    }

    #[test]
    fn past_the_end_a_download_client_gets_zeros_and_an_on_demand_one_an_error() {
        let resources = resources(10_000);
        let past = ObjectRange::at(10_000, 10);
        let zeros = resources.prepare_read(past, 10_000);
        assert_eq!((zeros.source, zeros.range, zeros.why), (IoSource::FillWithZeroes, past, Why::AfterEof));
        let invalid = ask(&resources, past);
        assert_eq!(
            (invalid.source, invalid.range.len(), invalid.why),
            (IoSource::InvalidRead, 0, Why::AfterEof)
        );
    }

    #[test]
    fn a_file_that_has_grown_beyond_its_cookie_is_downloaded_and_not_kept() {
        let resources = resources(4096);
        let got = resources.prepare_read(ObjectRange::at(4096, 8192), 12_288);
        assert_eq!((got.source, got.range.len()), (IoSource::DownloadFromServer, 8192));
        assert_eq!(got.flags, ReadFlags::empty());
    }

    #[test]
    fn a_hole_is_asked_for_then_filled_then_present() {
        let resources = resources(10_000);
        let want = ObjectRange::at(4096, 4096);
        let first = resources.prepare_read(want, 10_000);
        assert_eq!((first.source, first.why), (IoSource::DownloadFromServer, Why::NoData));
        assert_eq!(first.flags, ReadFlags::COPY_TO_CACHE);
        resources.write(0, &[1; 4096]).expect("fits");
        assert_eq!(ask(&resources, want).why, Why::FoundHole);
        resources.write(4096, &[7; 4096]).expect("fits");
        assert_eq!(ask(&resources, want).source, IoSource::ReadFromCache);
        let counts = resources.cookie().volume().stats().counts();
        assert_eq!((counts.decisions, counts.hits, counts.holes), (3, 1, 2));
    }

    /// Brings what it is told to.
    struct Daemon {
        resources: std::sync::Mutex<Option<InUse>>,
        calls: AtomicUsize,
        writes: bool,
    }

    impl Bring for Daemon {
        fn bring(&self, want: ObjectRange) -> Result<(), Error> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let in_use = self.resources.lock().expect("no panic");
            let resources = in_use.as_ref().expect("set").begin_write_operation()?;
            let whole = resources.prepare_write(want)?;
            if self.writes {
                let bytes = vec![7; usize::try_from(whole.len()).expect("small")];
                resources.write(whole.start(), &bytes)?;
            }
            Ok(())
        }
    }

    fn with_daemon(writes: bool) -> (CacheResources, Arc<Daemon>) {
        let in_use = open(&ObjectSpec::of_size(10_000));
        let daemon = Arc::new(Daemon {
            resources: std::sync::Mutex::new(Some(in_use.clone())),
            calls: AtomicUsize::new(0),
            writes,
        });
        in_use.set_bring(Some(Arc::clone(&daemon) as Arc<dyn Bring>));
        (in_use.begin_read_operation().expect("memory"), daemon)
    }

    #[test]
    fn row_r_a_hole_is_brought_and_the_decision_taken_again() {
        let (resources, daemon) = with_daemon(true);
        let want = ObjectRange::at(100, 5000);
        let got = resources.prepare_ondemand_read(want, u64::MAX, ReadFlags::ONDEMAND).expect("brought");
        assert_eq!((got.source, got.range, got.flags), (IoSource::ReadFromCache, want, ReadFlags::empty()));
        let again = resources.prepare_ondemand_read(want, u64::MAX, ReadFlags::ONDEMAND).expect("present");
        assert_eq!(again.source, IoSource::ReadFromCache);
        assert_eq!(daemon.calls.load(Ordering::Relaxed), 1, "present bytes are not brought");
        assert_eq!(resources.cookie().volume().stats().counts().brought, 1);
    }

    #[test]
    fn p1_row_r_a_second_miss_is_no_third_try_and_no_zeros() {
        let (resources, daemon) = with_daemon(false);
        let want = ObjectRange::at(0, 4096);
        let got = resources.prepare_ondemand_read(want, u64::MAX, ReadFlags::ONDEMAND).expect("brought");
        assert_eq!((got.source, got.flags & ReadFlags::ONDEMAND), (IoSource::DownloadFromServer, ASK));
        assert_eq!(daemon.calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn row_r_the_error_of_who_brings_reaches_the_reader() {
        struct Broken;
        impl Bring for Broken {
            fn bring(&self, _want: ObjectRange) -> Result<(), Error> {
                Err(Error::Hole { cookie: CookieKey::new("c").expect("valid"), at: 0 })
            }
        }
        let in_use = open(&ObjectSpec::of_size(10_000));
        let broken: Arc<dyn Bring> = Arc::new(Broken);
        let gone: Weak<dyn Bring> = Arc::downgrade(&broken);
        in_use.set_bring(Some(broken));
        let resources = in_use.begin_read_operation().expect("memory");
        let got = resources.prepare_ondemand_read(ObjectRange::at(0, 1), u64::MAX, ReadFlags::ONDEMAND);
        assert!(got.is_err(), "{got:?}");
        in_use.set_bring(None);
        assert!(gone.upgrade().is_none());
        let only_asked =
            resources.prepare_ondemand_read(ObjectRange::at(0, 1), u64::MAX, ReadFlags::ONDEMAND);
        assert_eq!(only_asked.expect("nobody brings").source, IoSource::DownloadFromServer);
    }

    #[test]
    fn writes_are_widened_to_blocks_inside_the_object() {
        let resources = resources(10_000);
        for (range, whole) in [((0, 1), (0, 4096)), ((5000, 100), (4096, 4096)), ((9000, 1000), (8192, 1808))]
        {
            let got = resources.prepare_write(ObjectRange::at(range.0, range.1)).expect("inside");
            assert_eq!(got, ObjectRange::at(whole.0, whole.1));
        }
        assert!(matches!(
            resources.prepare_write(ObjectRange::at(9000, 1001)),
            Err(Error::OutOfBounds { .. })
        ));
    }

    #[test]
    fn occupancy_is_the_first_run_of_data() {
        let resources = resources(10 * 4096);
        assert_eq!(resources.query_occupancy(ObjectRange::at(0, u64::MAX)), None);
        resources.write(2 * 4096, &[1; 2 * 4096]).expect("fits");
        resources.write(6 * 4096, &[1; 4096]).expect("fits");
        let at = |start: u64, len: u64| resources.query_occupancy(ObjectRange::at(start, len));
        assert_eq!(at(0, u64::MAX), Some(ObjectRange::at(8192, 8192)));
        assert_eq!(at(9000, 1000), Some(ObjectRange::at(9000, 1000)));
        assert_eq!(at(4 * 4096, 2 * 4096), None);
        assert_eq!(at(4 * 4096, 3 * 4096), Some(ObjectRange::at(6 * 4096, 4096)));
    }

    #[test]
    fn readahead_grows_to_granules_and_stops_at_the_end_of_the_file() {
        let resources = resources(1 << 20);
        let got = resources.expand_readahead(ObjectRange::at(300 << 10, 4096), 1 << 20);
        assert_eq!(got, ObjectRange::at(256 << 10, 256 << 10));
        let got = resources.expand_readahead(ObjectRange::at(300 << 10, 4096), 310 << 10);
        assert_eq!(got, ObjectRange::new(256 << 10, 310 << 10).expect("forwards"));
        let got = resources.expand_readahead(ObjectRange::at(u64::MAX - 10, 10), u64::MAX);
        assert_eq!(got.end(), u64::MAX);
    }
}
