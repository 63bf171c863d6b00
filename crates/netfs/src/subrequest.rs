//! [`Subrequest`]: one slice of a request, from one place. The counterpart of `struct netfs_io_subrequest`.
//!
//! Source of truth for the transitions: `netfs_subreq_terminated()` and `netfs_rreq_perform_resubmissions()`
//! (fs/netfs/io.c, v6.1). One is stricter: a cache that gives nothing is passed by at once, since the far side can
//! give what the cache only claims to have.

use larder_fscache::{IoSource, ObjectRange};

/// One slice of a request. Plain data: it says what to do, others do it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subrequest {
    range: ObjectRange,
    source: IoSource,
    transferred: u64,
    copy_to_cache: bool,
    no_progress: bool,
    state: State,
}

/// How far a slice is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Cut, not yet asked for.
    Prepared,
    /// Asked for.
    Issued,
    /// Every byte is here.
    Done,
    /// It will not come.
    Failed,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Terminated {
    /// Without an error, after so many bytes.
    Bytes(u64),
    /// With an error, after so many bytes, which are good.
    Error(u64),
}

/// What is to be done after an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Nothing: every byte is here.
    Done,
    /// Ask for the rest, wherever it now comes from.
    Again,
    /// Give up: the error of the attempt is the slice's.
    Failed,
    /// Give up: nothing came twice in a row.
    NoProgress,
}

impl Subrequest {
    /// A slice as the cache decided it.
    pub fn new(range: ObjectRange, source: IoSource, copy_to_cache: bool) -> Self {
        let state = State::Prepared;
        Self { range, source, transferred: 0, copy_to_cache, no_progress: false, state }
    }

    /// The bytes it is about.
    pub fn range(&self) -> ObjectRange {
        self.range
    }

    /// What has not come yet.
    pub fn rest(&self) -> ObjectRange {
        ObjectRange::at(self.range.start() + self.transferred, self.range.len() - self.transferred)
    }

    /// Where it comes from now.
    pub fn source(&self) -> IoSource {
        self.source
    }

    /// How far it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether what is downloaded for it is to be copied to the cache.
    pub fn copies_to_cache(&self) -> bool {
        self.copy_to_cache
    }

    /// Says that the rest has been asked for.
    ///
    /// # Panics
    ///
    /// When it already is, or nothing is left to ask for.
    pub fn issue(&mut self) {
        assert_eq!(self.state, State::Prepared, "a slice is asked for once at a time");
        self.state = State::Issued;
    }

    /// Takes note of how an attempt ended, and says what comes next.
    ///
    /// # Panics
    ///
    /// When no attempt was under way, or it claims more bytes than were asked for.
    pub fn terminated(&mut self, how: Terminated) -> Next {
        assert_eq!(self.state, State::Issued, "only what was asked for can end");
        let (bytes, failed) = match how {
            Terminated::Bytes(bytes) => (bytes, false),
            Terminated::Error(bytes) => (bytes, true),
        };
        assert!(bytes <= self.rest().len(), "no more comes than was asked for");
        self.transferred += bytes;
        if self.rest().is_empty() {
            return self.end(State::Done, Next::Done);
        }
        match (self.source, failed, bytes) {
            (IoSource::ReadFromCache, true, _) | (IoSource::ReadFromCache, false, 0) => {
                self.source = IoSource::DownloadFromServer;
                self.end(State::Prepared, Next::Again)
            }
            (_, true, _) => self.end(State::Failed, Next::Failed),
            (_, false, 0) if self.no_progress => self.end(State::Failed, Next::NoProgress),
            (_, false, _) => {
                self.no_progress = bytes == 0;
                self.end(State::Prepared, Next::Again)
            }
        }
    }

    fn end(&mut self, state: State, next: Next) -> Next {
        self.state = state;
        next
    }
}

#[cfg(test)]
mod tests {
    use IoSource::{DownloadFromServer as Download, ReadFromCache as Cache};

    use super::*;

    fn slice(source: IoSource) -> Subrequest {
        Subrequest::new(ObjectRange::at(4096, 100), source, true)
    }

    #[test]
    fn every_end_of_a_first_attempt_has_its_consequence() {
        use Terminated::{Bytes, Error};
        for (source, how, next, then, state) in [
            (Download, Bytes(100), Next::Done, Download, State::Done),
            (Download, Error(100), Next::Done, Download, State::Done),
            (Download, Bytes(40), Next::Again, Download, State::Prepared),
            (Download, Bytes(0), Next::Again, Download, State::Prepared),
            (Download, Error(40), Next::Failed, Download, State::Failed),
            (Download, Error(0), Next::Failed, Download, State::Failed),
            (Cache, Bytes(100), Next::Done, Cache, State::Done),
            (Cache, Bytes(40), Next::Again, Cache, State::Prepared),
            (Cache, Bytes(0), Next::Again, Download, State::Prepared),
            (Cache, Error(40), Next::Again, Download, State::Prepared),
            (Cache, Error(0), Next::Again, Download, State::Prepared),
        ] {
            let mut slice = slice(source);
            slice.issue();
            assert_eq!(slice.terminated(how), next, "{source:?} {how:?}");
            assert_eq!((slice.source(), slice.state()), (then, state), "{source:?} {how:?}");
        }
    }

    #[test]
    fn a_short_read_is_continued_where_it_stopped() {
        let mut slice = slice(Download);
        for (bytes, rest) in [(10, 90), (50, 40), (39, 1)] {
            slice.issue();
            assert_eq!(slice.terminated(Terminated::Bytes(bytes)), Next::Again);
            assert_eq!(slice.rest(), ObjectRange::at(4196 - rest, rest));
        }
        slice.issue();
        assert_eq!(slice.terminated(Terminated::Bytes(1)), Next::Done);
    }

    #[test]
    fn nothing_twice_in_a_row_is_an_error_and_nothing_in_between_is_not() {
        let mut slice = slice(Download);
        for (bytes, next) in [(0, Next::Again), (1, Next::Again), (0, Next::Again), (0, Next::NoProgress)] {
            slice.issue();
            assert_eq!(slice.terminated(Terminated::Bytes(bytes)), next);
        }
    }

    #[test]
    #[should_panic(expected = "no more comes than was asked for")]
    fn more_bytes_than_asked_for_are_our_own_mistake() {
        let mut slice = slice(Download);
        slice.issue();
        slice.terminated(Terminated::Bytes(101));
    }
}
