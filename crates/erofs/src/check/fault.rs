//! [`Fault`]: one thing that is wrong, where, and how bad it is.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::{DeviceId, Error, FileType, LogicalAddr, Nid, PhysicalAddr};

/// How bad a fault is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Nobody who reads the image meets it.
    Warning,
    /// Some read fails, or gives what was not meant.
    Error,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Fault {
    /// The inode it is about; `None` for the image as a whole.
    pub nid: Option<Nid>,
    /// One of its paths, without a leading `/`; `None` when none was found.
    pub path: Option<Vec<u8>>,
    /// What is wrong.
    pub kind: FaultKind,
}

impl Fault {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self.kind {
            FaultKind::InodeCount { .. }
            | FaultKind::Nanoseconds { .. }
            | FaultKind::EntryType { claimed: None, .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nid, &self.path) {
            (Some(_), Some(path)) => write!(f, "/{}: ", path.escape_ascii())?,
            (Some(nid), None) => write!(f, "inode {nid}: ")?,
            (None, _) => f.write_str("image: ")?,
        }
        self.kind.fmt(f)
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum FaultKind {
    /// What a reader would be told.
    #[error(transparent)]
    Library(#[from] Error),
    #[error("superblock: {blocks} blocks need {needed} bytes, but the image ends at {found}")]
    Truncated { blocks: u64, needed: u64, found: u64 },
    #[error("superblock: {stored} inodes are announced, {found} were found")]
    InodeCount { stored: u64, found: u64 },
    #[error("device {device}: {blocks} blocks need {needed} bytes, but it ends at {found}")]
    DeviceTruncated { device: DeviceId, blocks: u64, needed: u64, found: u64 },
    #[error("devices {first} and {second} overlap in the unified address space")]
    DevicesOverlap { first: DeviceId, second: DeviceId },
    #[error("entry {}: names an object of type {found}, but says {}", .name.escape_ascii(), claim(*.claimed))]
    EntryType { name: Vec<u8>, claimed: Option<FileType>, found: FileType },
    #[error("directory has no {name}")]
    NoDot { name: &'static str },
    #[error("{name} leads to inode {found}, not to {expected}")]
    DotElsewhere { name: &'static str, found: Nid, expected: Nid },
    #[error("{found} names lead here, but the link count is {stored}")]
    Links { stored: u32, found: u64 },
    #[error("bytes from {at} on: {len} bytes at {pa} pass the end of device {device}, which has {end}")]
    Outside { at: LogicalAddr, device: DeviceId, pa: PhysicalAddr, len: u64, end: u64 },
    #[error("name filter hides extended attribute {}", .name.escape_ascii())]
    NameFilter { name: Vec<u8> },
    #[error("extended attribute {} is there twice", .name.escape_ascii())]
    XattrTwice { name: Vec<u8> },
    #[error("{found} nanoseconds are more than a second")]
    Nanoseconds { found: u32 },
}

fn claim(claimed: Option<FileType>) -> String {
    claimed.map_or_else(|| "nothing that is known".to_owned(), |kind| kind.to_string())
}

/// Most faults that one inode can have: a table of garbage is one finding, not a million.
const INODE_FAULTS_MAX: usize = 64;

/// Collects faults from all threads.
pub(super) struct Faults {
    named_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    named: Vec<Fault>,
    unnamed: u64,
    by_inode: std::collections::HashMap<Nid, usize>,
}

impl Faults {
    pub fn new(named_max: usize) -> Self {
        Self { named_max, state: Mutex::default() }
    }

    /// A fault of the image as a whole.
    pub fn image(&self, kind: FaultKind) {
        self.add(None, kind);
    }

    /// A fault of an inode. Returns whether more of them are wanted.
    pub fn inode(&self, nid: Nid, kind: impl Into<FaultKind>) -> bool {
        self.add(Some(nid), kind.into())
    }

    fn add(&self, nid: Option<Nid>, kind: FaultKind) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.named.len() >= self.named_max {
            state.unnamed += 1;
            return false;
        }
        let count = nid.map_or(0, |nid| {
            let count = state.by_inode.entry(nid).or_default();
            *count += 1;
            *count
        });
        if count > INODE_FAULTS_MAX {
            state.unnamed += 1;
            return false;
        }
        state.named.push(Fault { nid, path: None, kind });
        true
    }

    /// The faults in an order that does not depend on threads, and how many have no name.
    pub fn into_sorted(self) -> (Vec<Fault>, u64) {
        let State { mut named, unnamed, .. } =
            self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        named.sort_by_cached_key(|fault| (fault.nid, fault.kind.to_string()));
        (named, unnamed)
    }
}
