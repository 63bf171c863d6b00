//! Reading and writing through an operation.

use std::io;
use std::sync::atomic::{Ordering, fence};

use super::CacheResources;
use crate::stats::add;
use crate::{Error, ObjectRange, Run};

/// Times that a read begins again because bytes were taken away under it.
const READS_MAX: usize = 8;

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

impl CacheResources {
    /// Reads into `buf` and returns the number of bytes read: fewer than asked only at the object's end.
    ///
    /// With [`OnHole::Fail`] and [`OnHole::Clear`] no byte comes from a range that was punched while it was read.
    ///
    /// # Errors
    ///
    /// [`Error::Hole`] with [`OnHole::Fail`] when any byte of the range is missing; [`Error::Io`], also when
    /// the backing file is shorter than the object.
    pub fn read(&self, at: u64, buf: &mut [u8], on_hole: OnHole) -> Result<usize, Error> {
        let want = ObjectRange::at(at, buf.len() as u64).clamp_to(self.size());
        let result = self.read_undisturbed(want, buf, on_hole);
        let stats = self.cookie().volume().stats().mine();
        match &result {
            Ok(len) => {
                add(&stats.reads, 1);
                add(&stats.read_bytes, *len as u64);
            }
            Err(_) => add(&stats.read_errors, 1),
        }
        tracing::trace!(
            object = self.cookie().id(), start = want.start(), len = want.len(), ok = result.is_ok(),
            volume = %self.cookie().volume().key(), cookie = %self.cookie().key(), "cachefiles_read"
        );
        result
    }

    /// Copies until nothing was taken away meanwhile. What takes bytes away raises the generation first.
    fn read_undisturbed(&self, want: ObjectRange, buf: &mut [u8], on_hole: OnHole) -> Result<usize, Error> {
        for _ in 0..READS_MAX {
            let before = self.object.generation();
            let len = self.copy(want, buf, on_hole)?;
            // The bytes were copied before the generation is looked at again.
            fence(Ordering::SeqCst);
            if on_hole == OnHole::Ignore || self.object.generation() == before {
                return Ok(len);
            }
        }
        Err(Error::Hole { cookie: self.cookie().key().clone(), at: want.start() })
    }

    fn copy(&self, want: ObjectRange, buf: &mut [u8], on_hole: OnHole) -> Result<usize, Error> {
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
                    return Err(Error::Hole { cookie: self.cookie().key().clone(), at: rest.start() });
                }
                (true, _) => part.fill(0),
                (false, _) => self.read_exact(rest.start(), part)?,
            }
            done += len;
        }
        Ok(done)
    }

    fn read_exact(&self, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        let failed = |source| Error::io(self.cookie().key(), "reading", source);
        let mut done = 0;
        while done < buf.len() {
            match self.object.read_at(at + done as u64, &mut buf[done..]) {
                Ok(0) => {
                    let short = "the backing file ends too early";
                    return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, short)));
                }
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Writes `data` at `at`, then marks the blocks it covers whole. The bytes must have been verified.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::NoSpace`], [`Error::Withdrawn`], [`Error::Io`]; nothing was marked then.
    pub fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let result = if self.expired() {
            Err(Error::Withdrawn { cookie: self.cookie().key().clone() })
        } else {
            self.object.write(at, data)
        };
        let stats = self.cookie().volume().stats().mine();
        match &result {
            Ok(()) => {
                add(&stats.writes, 1);
                add(&stats.write_bytes, data.len() as u64);
            }
            Err(Error::NoSpace { .. }) => add(&stats.no_space, 1),
            Err(_) => add(&stats.write_errors, 1),
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::resources;

    #[test]
    fn a_read_over_a_hole_fails_or_clears_or_looks_away() {
        let resources = resources(3 * 4096);
        resources.write(0, &[1; 4096]).expect("fits");
        resources.write(2 * 4096, &[3; 4096]).expect("fits");
        resources.write(4096, &[9; 100]).expect("a partial block is written but not marked");
        let mut buf = vec![0xee; 3 * 4096];
        let failed = resources.read(100, &mut buf, OnHole::Fail);
        assert!(matches!(failed, Err(Error::Hole { at: 4096, .. })), "{failed:?}");
        assert_eq!(resources.read(0, &mut buf, OnHole::Clear).expect("readable"), 3 * 4096);
        assert_eq!((buf[0], buf[4096], buf[8191], buf[8192]), (1, 0, 0, 3));
        assert_eq!(resources.read(0, &mut buf, OnHole::Ignore).expect("readable"), 3 * 4096);
        assert_eq!((buf[0], buf[4096], buf[8191], buf[8192]), (1, 9, 0, 3));
    }

    #[test]
    fn a_read_ends_at_the_end_of_the_object() {
        let resources = resources(5000);
        resources.write(0, &[1; 5000]).expect("fits");
        let mut buf = vec![0; 4096];
        assert_eq!(resources.read(4096, &mut buf, OnHole::Fail).expect("present"), 904);
        assert_eq!(resources.read(5000, &mut buf, OnHole::Fail).expect("nothing there"), 0);
        assert_eq!(resources.read(u64::MAX, &mut buf, OnHole::Fail).expect("nothing there"), 0);
    }

    #[test]
    fn a_write_past_the_end_is_refused_and_marks_nothing() {
        let resources = resources(5000);
        for at in [1, 5000, u64::MAX] {
            let result = resources.write(at, &[1; 5000]);
            assert!(matches!(result, Err(Error::OutOfBounds { .. })), "{result:?}");
        }
        assert_eq!(resources.present_bytes(), 0);
        assert_eq!(resources.cookie().volume().stats().counts().write_errors, 3);
    }
}
