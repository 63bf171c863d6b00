//! [`Job`]: runs one request: asks for its slices side by side, hands out parts as they come, assesses at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use larder_faults::{Site, length, point};
use larder_fscache::{IoSource, ObjectRange};

use crate::buffers::Buffer;
use crate::stats::add;
use crate::window::Window;
use crate::{Cached, Error, Netfs, Next, Part, Request, Source, SourceError, Terminated};

/// Bytes that are handed out and copied to the cache at once; parts end on multiples of it.
pub(crate) const PART_BYTES: u64 = 256 << 10;

/// One request and what it needs.
pub(crate) struct Job {
    pub name: String,
    pub source: Arc<dyn Source>,
    pub cached: Arc<Cached>,
    pub shared: Arc<Netfs>,
    pub window: Arc<Window>,
    /// Number of the request within its file.
    pub request: u64,
}

/// How an attempt at a slice ended.
struct Ended {
    slice: usize,
    from: IoSource,
    how: Terminated,
    why: Option<SourceError>,
}

type Flight<'a> = BoxFuture<'a, Ended>;

impl Job {
    /// Runs the request to its end.
    pub(crate) async fn drive(self) {
        // Whoever drops this future half-way leaves no reader waiting.
        let _finish = Finish(&self.window);
        add(&self.shared.stats.requests, 1);
        let mut request = Request::new(self.window.range(), self.shared.limits.download_bytes_max);
        let mut flights: FuturesUnordered<Flight<'_>> = FuturesUnordered::new();
        let mut errors = BTreeMap::new();
        loop {
            while flights.len() < self.shared.limits.downloads_max {
                let Some(slice) = request.prepare(|want| self.cached.prepare_read(want)) else { break };
                point(Site::NetfsIssue);
                add(&self.shared.stats.subrequests, 1);
                flights.push(self.issue(&mut request, slice));
            }
            let Some(ended) = flights.next().await else { break };
            let next = request.terminated(ended.slice, ended.how);
            self.note(&request, &ended, next);
            match next {
                Next::Done => {}
                Next::Again => flights.push(self.issue(&mut request, ended.slice)),
                Next::Failed | Next::NoProgress => {
                    let rest = request.slices()[ended.slice].rest();
                    let error = self.error(rest, next, ended.why);
                    self.window.fail(rest, error.clone());
                    errors.insert(rest.start(), error);
                }
            }
        }
        self.assess(&request, &errors);
    }

    /// Fails what is left without an answer; the rest has been handed out by now.
    fn assess(&self, request: &Request, errors: &BTreeMap<u64, Error>) {
        point(Site::NetfsAssess);
        let (mut ready, mut failed) = (0, 0);
        for part in request.assess() {
            match part {
                Part::Ready(range) => ready += range.len(),
                Part::Failed(range) => {
                    failed += range.len();
                    if !errors.contains_key(&range.start()) {
                        let file = self.name.clone();
                        self.window.fail(range, Error::Invalid { file, range });
                    }
                }
            }
        }
        tracing::debug!(
            file = self.name,
            rreq = self.request,
            what = "ASSESS",
            start = request.range().start(),
            len = request.range().len(),
            slices = request.slices().len(),
            ready,
            failed,
            "netfs_rreq"
        );
    }

    fn error(&self, range: ObjectRange, next: Next, why: Option<SourceError>) -> Error {
        match (next, why) {
            (Next::NoProgress, _) => Error::NoProgress { file: self.name.clone(), range },
            (_, Some(source)) => Error::download(&self.name, range, source),
            (_, None) => Error::Abandoned { file: self.name.clone(), range },
        }
    }

    /// Asks for what is left of a slice.
    fn issue<'a>(&'a self, request: &mut Request, slice: usize) -> Flight<'a> {
        let (from, rest) = request.issue(slice);
        let copies = request.slices()[slice].copies_to_cache();
        tracing::trace!(
            file = self.name, rreq = self.request, index = slice, source = ?from, start = rest.start(),
            len = rest.len(), what = "SUBMT", "netfs_sreq"
        );
        Box::pin(async move {
            let (how, why) = match from {
                IoSource::ReadFromCache => (self.read_cache(rest).await, None),
                IoSource::DownloadFromServer => self.download(rest, copies).await,
                IoSource::FillWithZeroes => (self.zeroes(rest), None),
                IoSource::InvalidRead => (Terminated::Error(0), None),
            };
            Ended { slice, from, how, why }
        })
    }

    async fn read_cache(&self, rest: ObjectRange) -> Terminated {
        add(&self.shared.stats.cache_reads, 1);
        let (cached, window) = (Arc::clone(&self.cached), Arc::clone(&self.window));
        let read = tokio::task::spawn_blocking(move || {
            let Ok(rest) = cut(Site::NetfsReadCache, rest) else { return Terminated::Error(0) };
            let mut at = rest.start();
            while at < rest.end() {
                let end = part_end(at).min(rest.end());
                let mut bytes = vec![0; usize::try_from(end - at).unwrap_or(0)];
                match cached.read(at, &mut bytes) {
                    Some(read) if read == bytes.len() => window.deliver(at, bytes.into()),
                    _ => return Terminated::Error(at - rest.start()),
                }
                at = end;
            }
            Terminated::Bytes(rest.len())
        });
        read.await.unwrap_or(Terminated::Error(0))
    }

    fn zeroes(&self, rest: ObjectRange) -> Terminated {
        add(&self.shared.stats.zero_filled, 1);
        let mut at = rest.start();
        while at < rest.end() {
            let end = part_end(at).min(rest.end());
            self.window.deliver(at, Bytes::from(vec![0; usize::try_from(end - at).unwrap_or(0)]));
            at = end;
        }
        Terminated::Bytes(rest.len())
    }

    async fn download(&self, rest: ObjectRange, copies: bool) -> (Terminated, Option<SourceError>) {
        add(&self.shared.stats.downloads, 1);
        let rest = match cut(Site::NetfsDownload, rest) {
            Ok(rest) => rest,
            Err(fault) => return (Terminated::Error(0), Some(SourceError::failed(fault))),
        };
        let mut parts = Parts { job: self, copies, start: rest.start(), end: rest.end(), part: None };
        let result = self.source.read(rest, &mut |bytes| parts.take(&bytes)).await;
        parts.hand_out();
        let bytes = parts.start - rest.start();
        add(&self.shared.stats.download_bytes, bytes);
        match result {
            Ok(()) => (Terminated::Bytes(bytes), None),
            Err(error) => (Terminated::Error(bytes), Some(error)),
        }
    }

    /// Counts and traces the end of an attempt.
    fn note(&self, request: &Request, ended: &Ended, next: Next) {
        let stats = &self.shared.stats;
        match (ended.from, next) {
            (IoSource::DownloadFromServer, Next::Done) => add(&stats.download_successes, 1),
            (IoSource::DownloadFromServer, Next::Again) => add(&stats.short_reads, 1),
            (IoSource::DownloadFromServer, _) => add(&stats.download_failures, 1),
            (IoSource::ReadFromCache, Next::Done) => add(&stats.cache_read_successes, 1),
            (IoSource::ReadFromCache, _) => {
                add(&stats.cache_read_failures, 1);
                let instead = request.slices()[ended.slice].source() == IoSource::DownloadFromServer;
                add(&stats.download_instead, u64::from(instead));
            }
            _ => {}
        }
        let slice = &request.slices()[ended.slice];
        let what = match next {
            Next::Done => "TERM",
            Next::Again if slice.source() != ended.from => "RDOWN",
            Next::Again => "SHORT",
            Next::Failed | Next::NoProgress => "FAIL",
        };
        tracing::trace!(
            file = self.name, rreq = self.request, index = ended.slice, source = ?ended.from,
            start = slice.range().start(), len = slice.range().len(),
            transferred = slice.range().len() - slice.rest().len(), what, "netfs_sreq"
        );
        if let Some(error) = &ended.why {
            tracing::debug!(
                file = self.name, rreq = self.request, index = ended.slice, start = slice.rest().start(),
                len = slice.rest().len(), %error, what = "read", "netfs_failure"
            );
        }
    }
}

/// A download cut into parts as it comes.
struct Parts<'a> {
    job: &'a Job,
    copies: bool,
    /// First byte that has not been handed out.
    start: u64,
    end: u64,
    part: Option<Buffer>,
}

impl Parts<'_> {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = part_end(self.start).min(self.end);
            let len = usize::try_from(end - self.start).unwrap_or(0);
            let part = self.part.get_or_insert_with(|| self.job.shared.buffers.take(len));
            let room = len - part.bytes.len();
            if room == 0 {
                // More than was asked for: the source is wrong, and what came before is not.
                return;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            part.bytes.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.hand_out();
            }
        }
    }

    fn hand_out(&mut self) {
        let Some(part) = self.part.take().filter(|part| !part.bytes.is_empty()) else { return };
        let (at, bytes) = (self.start, Bytes::from_owner(part));
        self.start += bytes.len() as u64;
        if self.copies {
            self.job.shared.copier.offer(&self.job.cached, &self.job.window, at, &bytes);
        }
        self.job.window.deliver(at, bytes);
    }
}

/// What an injected fault leaves of a transfer.
fn cut(site: Site, rest: ObjectRange) -> std::io::Result<ObjectRange> {
    let len = length(site, usize::try_from(rest.len()).unwrap_or(usize::MAX))?;
    Ok(ObjectRange::at(rest.start(), rest.len().min(len as u64)))
}

/// Where the part that `at` lies in ends.
fn part_end(at: u64) -> u64 {
    (at - at % PART_BYTES).saturating_add(PART_BYTES)
}

/// Finishes the window whatever happens.
struct Finish<'a>(&'a Window);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}
