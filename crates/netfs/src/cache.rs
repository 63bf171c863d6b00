//! [`Cached`]: what a file has in the cache, or that it has no place there.

use larder_fscache::{
    BlockSize, CacheResources, Decision, Error, IoSource, ObjectRange, OnHole, ReadFlags, Why,
};

/// What a file has in the cache. A file without a place there is read through: everything is downloaded, nothing is
/// kept.
#[derive(Debug, Default)]
pub struct Cached {
    resources: Option<CacheResources>,
}

impl Cached {
    /// An operation on the cookie of the file's version, for as long as the file is open.
    pub fn new(resources: CacheResources) -> Self {
        Self { resources: Some(resources) }
    }

    /// No place in the cache.
    pub fn none() -> Self {
        Self::default()
    }

    /// The operation, where there is one.
    pub fn resources(&self) -> Option<&CacheResources> {
        self.resources.as_ref()
    }

    /// Whether every byte of `range`, which lies within the file, is here.
    pub fn has(&self, range: ObjectRange) -> bool {
        let mut at = range.start();
        while at < range.end() {
            let decision = self.prepare_read(ObjectRange::at(at, range.end() - at));
            match decision.source {
                IoSource::ReadFromCache if !decision.range.is_empty() => at = decision.range.end(),
                _ => return false,
            }
        }
        true
    }

    /// Where the first bytes of `want`, which lies within the file, come from.
    pub(crate) fn prepare_read(&self, want: ObjectRange) -> Decision {
        match &self.resources {
            Some(resources) => resources.prepare_read(want, resources.size()),
            None => Decision {
                source: IoSource::DownloadFromServer,
                range: want,
                why: Why::NoFile,
                flags: ReadFlags::empty(),
            },
        }
    }

    /// Reads present bytes; fails rather than showing a hole.
    pub(crate) fn read(&self, at: u64, buf: &mut [u8]) -> Option<usize> {
        self.resources.as_ref()?.read(at, buf, OnHole::Fail).ok()
    }

    /// Keeps bytes of the file; whole blocks of them become present.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.resources.as_ref().map_or(Ok(()), |resources| resources.write(at, bytes))
    }

    /// Rounds what is asked for ahead to what the cache fills at once; never past `size`, the file's.
    pub(crate) fn expand_readahead(&self, range: ObjectRange, size: u64) -> ObjectRange {
        self.resources.as_ref().map_or(range, |resources| resources.expand_readahead(range, size))
    }

    /// The granule of presence.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.resources.as_ref().map_or(BlockSize::FOUR_KIB, |resources| resources.block_size()).bytes()
    }
}
