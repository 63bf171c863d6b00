//! [`Select`] and [`Subscription`]: what one listener wants, and how it gets it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::hub::Hub;
use super::record::Record;

/// Records that wait for one listener at most: some 300 bytes each.
const WAITING_MAX: usize = 8192;

/// Records handed over at once at most.
const BATCH_MAX: usize = 256;

/// What a listener wants; an empty set wants everything.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// Names of trace points.
    pub events: BTreeSet<&'static str>,
    /// Keys of cookies, or the beginnings of some.
    pub cookies: Vec<String>,
    /// Processes whose reads are wanted.
    pub pids: BTreeSet<u32>,
    /// Images whose cookies are wanted.
    pub images: Vec<ImageName>,
    /// The cookies of those images that are known so far.
    pub of_images: BTreeSet<String>,
}

/// An image as a user calls it: by its reference, or by the directory it is mounted on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageName {
    /// A reference, or the digest of a manifest.
    pub reference: String,
    /// A directory, absolute.
    pub path: PathBuf,
}

impl ImageName {
    /// Whether it names the image that is called `reference`, has this manifest, and is mounted on `target`.
    pub fn names(&self, reference: &str, manifest: &str, target: &Path) -> bool {
        self.reference == reference || self.reference == manifest || self.path == target
    }
}

impl Select {
    fn wants(&self, record: &Record) -> bool {
        let pid = || record.pid.is_some_and(|pid| self.pids.contains(&pid));
        let cookie = record.cookie();
        let begins = || cookie.is_some_and(|key| self.cookies.iter().any(|begin| key.starts_with(&**begin)));
        (self.pids.is_empty() || pid())
            && (self.cookies.is_empty() || begins())
            && (self.images.is_empty() || cookie.is_some_and(|key| self.of_images.contains(key)))
    }
}

/// The hub's half of a listener.
#[derive(Debug)]
pub(super) struct Subscriber {
    events: BTreeSet<&'static str>,
    select: Mutex<Select>,
    records: mpsc::Sender<Arc<Record>>,
    lost: Arc<AtomicU64>,
}

impl Subscriber {
    /// Both halves of a listener.
    pub fn pair(select: Select, hub: &Arc<Hub>) -> (Arc<Self>, Subscription) {
        let (records, waiting) = mpsc::channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let events = select.events.clone();
        let subscriber =
            Arc::new(Self { events, select: Mutex::new(select), records, lost: Arc::clone(&lost) });
        let half =
            Subscription { hub: Arc::clone(hub), subscriber: Arc::downgrade(&subscriber), waiting, lost };
        (subscriber, half)
    }

    /// Whether a trace point of this name is wanted at all.
    pub fn wants_event(&self, name: &str) -> bool {
        self.events.is_empty() || self.events.contains(name)
    }

    /// Hands a record over, or counts it as lost; never waits for the listener.
    pub fn offer(&self, record: &Arc<Record>) {
        let wants = self.wants_event(record.event)
            && self.select.lock().unwrap_or_else(PoisonError::into_inner).wants(record);
        if wants && self.records.try_send(Arc::clone(record)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes note of the cookies of an image, if it is one that the listener has asked for.
    pub fn note_image(&self, is_named: impl Fn(&ImageName) -> bool, keys: &[String]) {
        let mut select = self.select.lock().unwrap_or_else(PoisonError::into_inner);
        if select.images.iter().any(is_named) {
            select.of_images.extend(keys.iter().cloned());
        }
    }
}

/// A listener: dropped, it is gone, and with the last one tracing is off.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    subscriber: std::sync::Weak<Subscriber>,
    waiting: mpsc::Receiver<Arc<Record>>,
    lost: Arc<AtomicU64>,
}

/// What has come since the last time.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records, oldest first.
    pub records: Vec<Arc<Record>>,
    /// How many were lost since the last batch, because this listener was too slow.
    pub lost: u64,
}

impl Subscription {
    /// Waits for records; `None` when the hub has closed and everything was handed over.
    pub async fn next(&mut self) -> Option<Batch> {
        let mut records = Vec::new();
        let count = self.waiting.recv_many(&mut records, BATCH_MAX).await;
        (count > 0).then(|| Batch { records, lost: self.lost.swap(0, Ordering::Relaxed) })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.remove(&self.subscriber);
    }
}
