//! [`Cookie`]: the handle through which one blob's data is asked for, read and written.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::stats::add;
use crate::{
    BlockSize, CacheObject, CookieKey, Counts, Decision, Error, IoSource, Lease, ObjectRange, Run, Stats,
    VolumeKey, decide,
};

/// What the table of cookies is keyed by.
pub(crate) type Name = (VolumeKey, CookieKey);

/// What a read does with holes: `enum netfs_read_from_hole`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnHole {
    /// Returns whatever the backing file has there; for callers that checked before.
    Ignore,
    /// Returns zeros.
    Clear,
    /// Fails with [`Error::Hole`] and returns nothing.
    Fail,
}

/// One blob's data in the cache. Shared: the same key gives the same cookie while it is alive.
pub struct Cookie {
    volume: VolumeKey,
    key: CookieKey,
    object: Arc<dyn CacheObject>,
    stats: Stats,
    total: Arc<Mutex<Counts>>,
    /// Last, so that the key is free only when the rest is gone.
    _lease: Lease<Name, Cookie>,
}

impl Cookie {
    pub(crate) fn new(
        (volume, key): Name,
        object: Arc<dyn CacheObject>,
        total: Arc<Mutex<Counts>>,
        lease: Lease<Name, Self>,
    ) -> Self {
        Self { volume, key, object, stats: Stats::default(), total, _lease: lease }
    }

    /// The volume it belongs to.
    pub fn volume(&self) -> &VolumeKey {
        &self.volume
    }

    /// Its name within the volume.
    pub fn key(&self) -> &CookieKey {
        &self.key
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.object.size()
    }

    /// The granule of presence.
    pub fn block_size(&self) -> BlockSize {
        self.object.block_size()
    }

    /// The object below, for what only a front end needs (its file, its path, commit).
    pub fn object(&self) -> &Arc<dyn CacheObject> {
        &self.object
    }

    /// Whether every byte is present.
    pub fn is_complete(&self) -> bool {
        self.object.is_complete()
    }

    /// What happened to this cookie.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Decides for a client that downloads holes itself: past the end of the object it gets zeros.
    ///
    /// Lock-free, no allocation, no I/O.
    pub fn prepare_read(&self, want: ObjectRange) -> Decision {
        let decision = self.decide(want);
        tracing::trace!(
            volume = %self.volume, cookie = %self.key, start = want.start(), len = decision.range.len(),
            source = ?decision.source, why = ?decision.why, "cachefiles_prep_read"
        );
        decision
    }

    /// Decides for a file system that has holes filled for it.
    ///
    /// The kernel's EROFS asks with the greatest size there is, so that the end of a blob is never zeros.
    /// The same here: a read that starts past the end means an image that points outside its own blob,
    /// and is an [`IoSource::InvalidRead`]. Front ends clamp what the kernel rounded up before they ask.
    ///
    /// Lock-free, no allocation, no I/O. After a fill the caller asks again; a second miss is an error.
    pub fn prepare_ondemand_read(&self, want: ObjectRange) -> Decision {
        let mut decision = self.decide(want);
        if decision.source == IoSource::FillWithZeroes {
            decision = Decision {
                source: IoSource::InvalidRead,
                range: ObjectRange::at(want.start(), 0),
                why: decision.why,
            };
        }
        tracing::trace!(
            volume = %self.volume, cookie = %self.key, start = want.start(), len = decision.range.len(),
            source = ?decision.source, why = ?decision.why, "cachefiles_ondemand_read"
        );
        decision
    }

    fn decide(&self, want: ObjectRange) -> Decision {
        let found = self.object.probe_within(want);
        let decision = decide(want, self.object.size(), self.object.block_size(), found);
        add(&self.stats.lookups, 1);
        match decision.source {
            IoSource::ReadFromCache => add(&self.stats.hits, 1),
            IoSource::DownloadFromServer => add(&self.stats.holes, 1),
            IoSource::FillWithZeroes | IoSource::InvalidRead => add(&self.stats.invalid, 1),
        }
        decision
    }

    /// Reads into `buf` and returns the number of bytes read: fewer than asked only at the object's end.
    ///
    /// # Errors
    ///
    /// [`Error::Hole`] with [`OnHole::Fail`] when any byte of the range is missing; [`Error::Io`], also when
    /// the backing file is shorter than the object.
    pub fn read(&self, at: u64, buf: &mut [u8], on_hole: OnHole) -> Result<usize, Error> {
        let want = ObjectRange::at(at, buf.len() as u64).clamp_to(self.size());
        let result = self.read_range(want, buf, on_hole);
        match &result {
            Ok(len) => {
                add(&self.stats.reads, 1);
                add(&self.stats.read_bytes, *len as u64);
            }
            Err(_) => add(&self.stats.read_errors, 1),
        }
        result
    }

    fn read_range(&self, want: ObjectRange, buf: &mut [u8], on_hole: OnHole) -> Result<usize, Error> {
        let mut done = 0;
        while want.start() + (done as u64) < want.end() {
            let rest = ObjectRange::at(want.start() + done as u64, want.len() - done as u64);
            let (end, is_hole) = match self.object.probe_within(rest) {
                _ if on_hole == OnHole::Ignore => (rest.end(), false),
                Run::Present { until } => (until.min(rest.end()), false),
                Run::Hole { until } => (until.min(rest.end()), true),
            };
            let len = usize::try_from(end - rest.start()).expect("no longer than the buffer");
            let part = &mut buf[done..done + len];
            match (is_hole, on_hole) {
                (true, OnHole::Fail) => {
                    return Err(Error::Hole { cookie: self.key.clone(), at: rest.start() });
                }
                (true, _) => part.fill(0),
                (false, _) => self.read_exact(rest.start(), part)?,
            }
            done += len;
        }
        Ok(done)
    }

    fn read_exact(&self, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < buf.len() {
            let read = self.object.read_at(at + done as u64, &mut buf[done..]);
            match read {
                Ok(0) => {
                    let short =
                        io::Error::new(io::ErrorKind::UnexpectedEof, "the backing file ends too early");
                    return Err(Error::io(&self.key, "reading", short));
                }
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&self.key, "reading", error)),
            }
        }
        Ok(())
    }

    /// Writes `data` at `at`, then marks the blocks it covers whole. The bytes must have been verified.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::NoSpace`], [`Error::Io`]; nothing was marked then.
    pub fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let result = self.object.write(at, data);
        match &result {
            Ok(()) => {
                add(&self.stats.writes, 1);
                add(&self.stats.write_bytes, data.len() as u64);
            }
            Err(Error::NoSpace { .. }) => add(&self.stats.no_space, 1),
            Err(_) => add(&self.stats.write_errors, 1),
        }
        result
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner) += self.stats.counts();
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookie")
            .field("volume", &self.volume)
            .field("key", &self.key)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::memory::Memory;
    use crate::{Cache, CookieKey, Error, IoSource, ObjectRange, OnHole, VolumeKey, Why};
    use std::sync::Arc;

    fn cookie(size: u64) -> Arc<super::Cookie> {
        let cache = Cache::new(Memory::new());
        let volume = VolumeKey::new("v").expect("valid");
        cache.acquire_cookie(&volume, &CookieKey::new("c").expect("valid"), size).expect("memory never fails")
    }

    #[test]
    fn a_hole_is_asked_for_then_filled_then_read() {
        let cookie = cookie(10_000);
        let want = ObjectRange::at(4096, 4096);
        assert_eq!(cookie.prepare_ondemand_read(want).source, IoSource::DownloadFromServer);
        cookie.write(4096, &[7; 4096]).expect("fits");
        assert_eq!(cookie.prepare_ondemand_read(want).source, IoSource::ReadFromCache);
        let mut buf = [0; 4096];
        assert_eq!(cookie.read(4096, &mut buf, OnHole::Fail).expect("present"), 4096);
        assert_eq!(buf, [7; 4096]);
        let counts = cookie.stats().counts();
        assert_eq!((counts.lookups, counts.hits, counts.holes, counts.writes, counts.reads), (2, 1, 1, 1, 1));
    }

    #[test]
    fn past_the_end_a_download_client_gets_zeros_and_an_on_demand_one_an_error() {
        let cookie = cookie(10_000);
        let past = ObjectRange::at(10_000, 10);
        let zeros = cookie.prepare_read(past);
        assert_eq!((zeros.source, zeros.range, zeros.why), (IoSource::FillWithZeroes, past, Why::AfterEof));
        let invalid = cookie.prepare_ondemand_read(past);
        assert_eq!(
            (invalid.source, invalid.range.len(), invalid.why),
            (IoSource::InvalidRead, 0, Why::AfterEof)
        );
    }

    #[test]
    fn a_read_over_a_hole_fails_or_clears_or_looks_away() {
        let cookie = cookie(3 * 4096);
        cookie.write(0, &[1; 4096]).expect("fits");
        cookie.write(2 * 4096, &[3; 4096]).expect("fits");
        cookie.write(4096, &[9; 100]).expect("a partial block is written but not marked");
        let mut buf = vec![0xee; 3 * 4096];
        let failed = cookie.read(100, &mut buf, OnHole::Fail);
        assert!(matches!(failed, Err(Error::Hole { at: 4096, .. })), "{failed:?}");
        assert_eq!(cookie.read(0, &mut buf, OnHole::Clear).expect("readable"), 3 * 4096);
        assert_eq!((buf[0], buf[4096], buf[8191], buf[8192]), (1, 0, 0, 3));
        assert_eq!(cookie.read(0, &mut buf, OnHole::Ignore).expect("readable"), 3 * 4096);
        assert_eq!((buf[0], buf[4096], buf[8191], buf[8192]), (1, 9, 0, 3));
    }

    #[test]
    fn a_read_ends_at_the_end_of_the_object() {
        let cookie = cookie(5000);
        cookie.write(0, &[1; 5000]).expect("fits");
        let mut buf = vec![0; 4096];
        assert_eq!(cookie.read(4096, &mut buf, OnHole::Fail).expect("present"), 904);
        assert_eq!(cookie.read(5000, &mut buf, OnHole::Fail).expect("nothing there"), 0);
        assert_eq!(cookie.read(u64::MAX, &mut buf, OnHole::Fail).expect("nothing there"), 0);
    }

    #[test]
    fn a_write_past_the_end_is_refused_and_marks_nothing() {
        let cookie = cookie(5000);
        for at in [1, 5000, u64::MAX] {
            let result = cookie.write(at, &[1; 5000]);
            assert!(matches!(result, Err(Error::OutOfBounds { .. })), "{result:?}");
        }
        assert_eq!(cookie.object().present_bytes(), 0);
        assert_eq!(cookie.stats().counts().write_errors, 3);
    }
}
