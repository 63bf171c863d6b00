//! [`EngineConfig`]: how much the engine may do at once.

use std::{num::NonZero, time::Duration};

use crate::{
    cause::{PerPriority, Priority},
    plan::Shape,
    readahead::Reach,
    table::Limits,
};

/// How much the engine may do at once. The defaults suit a daemon that should stay small.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Bytes on the wire for waiting readers, over all blobs.
    pub demand_bytes: usize,
    /// Bytes on the wire ahead of readers, over all blobs.
    pub readahead_bytes: usize,
    /// Bytes on the wire for access profiles, over all blobs.
    pub profile_bytes: usize,
    /// Bytes on the wire for prefetch, over all blobs.
    pub prefetch_bytes: usize,
    /// Requests for waiting readers side by side, for each blob.
    pub demand_requests_per_blob: usize,
    /// Readahead requests side by side, for each blob.
    pub readahead_requests_per_blob: usize,
    /// Requests for an access profile side by side, for each blob.
    pub profile_requests_per_blob: usize,
    /// Readahead requests that may wait for their turn, for each blob; what would come on top is not brought ahead.
    pub readahead_queued_per_blob_max: usize,
    /// Bytes after which a waiting reader's request is split, so that its parts travel side by side. To a source on this machine,
    /// whoever waits, none is split before.
    pub demand_request_bytes_max: u64,
    /// The same for readahead and prefetch, on the wire.
    pub ahead_request_bytes_max: u64,
    /// The same for a source on this machine, where so much is wanted that every thread has enough of them: as many chunks of
    /// 64 KiB as are hashed side by side. Less than `demand_request_bytes_max` counts as that.
    pub here_request_bytes_max: u64,
    /// Padding between two neighbouring chunks that is read along and dropped rather than split over.
    pub bridge_bytes_max: u64,
    /// A sequential run shorter than this gets no readahead.
    pub readahead_bytes_min: u64,
    /// How far readahead runs ahead of a reader at most; 0 turns all of it off, that around a read too.
    pub readahead_bytes_max: u64,
    /// Size and alignment of the window that is brought around a read that nothing foretold; 0 for nothing.
    pub around_bytes: u64,
    /// A fill of more than this is done piece by piece.
    pub window_bytes_max: u64,
    /// The same where the source is on this machine.
    pub here_window_bytes_max: u64,
    /// Batches of chunks that are hashed, decoded and written side by side.
    pub decoders: NonZero<usize>,
    /// How long a reader waits, and how long one request may take, before it is an error.
    pub deadline: Duration,
    /// Without a byte for so long, another place is asked, where the bytes lie in several.
    pub stall: Duration,
    /// How many objects, and how many questions of each, may wait.
    pub tables: Limits,
    /// Records kept of each kind.
    pub records_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            demand_bytes: 8 << 20,
            readahead_bytes: 6 << 20,
            profile_bytes: 4 << 20,
            prefetch_bytes: 2 << 20,
            demand_requests_per_blob: 16,
            readahead_requests_per_blob: 8,
            profile_requests_per_blob: 4,
            readahead_queued_per_blob_max: 64,
            demand_request_bytes_max: 512 << 10,
            ahead_request_bytes_max: 512 << 10,
            here_request_bytes_max: 1 << 20,
            bridge_bytes_max: 64 << 10,
            readahead_bytes_min: 256 << 10,
            readahead_bytes_max: 8 << 20,
            around_bytes: 512 << 10,
            window_bytes_max: 8 << 20,
            here_window_bytes_max: 64 << 20,
            // One more than there are processors: while one waits for the file system's lock, another goes on.
            decoders: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN).saturating_add(1),
            deadline: Duration::from_secs(60),
            stall: Duration::from_secs(10),
            tables: Limits::default(),
            records_max: 32_768,
        }
    }
}

impl EngineConfig {
    /// Threads that read sources of one file system of this machine at most, hanging ones included: more would not read any
    /// faster.
    const FILE_SYSTEM_LANES_MAX: usize = 8;

    /// Threads that read sources on this machine at most, but for those that are known to hang.
    pub(crate) const READING_MAX: usize = 4 * Self::FILE_SYSTEM_LANES_MAX;

    /// Threads that are known to hang and have made room for others, at most. A file system has two of them if it never answered,
    /// and else no more than it had when it stopped. What hangs beyond that takes from [`READING_MAX`](Self::READING_MAX).
    pub(crate) const HANGING_MAX: usize = 64;

    /// Threads that read sources on this machine, in all.
    pub const LANES_MAX: usize = Self::READING_MAX + Self::HANGING_MAX;

    pub(crate) fn budgets(&self) -> PerPriority<u64> {
        let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        PerPriority {
            prefetch: bytes(self.prefetch_bytes),
            profile: bytes(self.profile_bytes),
            readahead: bytes(self.readahead_bytes),
            demand: bytes(self.demand_bytes),
        }
    }

    /// Threads that read sources of one file system at once.
    pub(crate) fn lanes(&self) -> usize {
        self.decoders.get().min(Self::FILE_SYSTEM_LANES_MAX)
    }

    /// Requests that one blob may have on the wire.
    pub(crate) fn at_once_max(&self, priority: Priority) -> usize {
        match priority {
            Priority::Demand => self.demand_requests_per_blob,
            Priority::Readahead => self.readahead_requests_per_blob,
            Priority::Profile => self.profile_requests_per_blob,
            Priority::Prefetch => 1,
        }
    }

    /// What a request to a source on this machine looks like where so many stored bytes are `wanted`.
    pub(crate) fn here_shape(&self, wanted: u64) -> Shape {
        let share = wanted / u64::try_from(self.lanes()).unwrap_or(u64::MAX);
        let bytes_max = share.min(self.here_request_bytes_max).max(self.demand_request_bytes_max);
        Shape { bytes_max, bridge_bytes_max: self.bridge_bytes_max }
    }

    pub(crate) fn shapes(&self) -> PerPriority<Shape> {
        let shape = |bytes_max| Shape { bytes_max, bridge_bytes_max: self.bridge_bytes_max };
        let ahead = shape(self.ahead_request_bytes_max);
        PerPriority {
            prefetch: ahead,
            profile: ahead,
            readahead: ahead,
            demand: shape(self.demand_request_bytes_max),
        }
    }

    pub(crate) fn reach(&self) -> Reach {
        Reach {
            bytes_min: self.readahead_bytes_min,
            bytes_max: self.readahead_bytes_max,
            around_bytes: self.around_bytes,
        }
    }
}
