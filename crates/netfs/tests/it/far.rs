//! A source that misbehaves by a plan.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use larder_fscache::ObjectRange;
use larder_netfs::{Source, SourceError, Version};

/// How one download goes.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// All of it, in pieces of so many bytes.
    All(usize),
    /// So many bytes, then an end without an error.
    Short(u64),
    /// So many bytes, then an error.
    Fail(u64),
    /// So many bytes, then the file changes: no later download gives this version.
    Change(u64),
    /// So many milliseconds later all of it.
    Slow(u64),
    /// More than was asked for.
    TooMuch,
}

/// A file on the far side.
pub struct Far {
    pub bytes: Vec<u8>,
    pub turns: Mutex<VecDeque<Turn>>,
    pub changed: AtomicBool,
    pub served: AtomicU64,
    pub calls: AtomicU64,
}

impl Far {
    pub fn new(bytes: Vec<u8>, turns: impl IntoIterator<Item = Turn>) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            turns: Mutex::new(turns.into_iter().collect()),
            changed: AtomicBool::new(false),
            served: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        })
    }

    pub fn version(&self) -> Version {
        Version { size: self.bytes.len() as u64, etag: Some("\"1\"".into()), modified: None }
    }
}

#[async_trait]
impl Source for Far {
    async fn read(
        &self,
        range: ObjectRange,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), SourceError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let turn = self.turns.lock().unwrap().pop_front().unwrap_or(Turn::All(70_000));
        if self.changed.load(Ordering::Relaxed) {
            return Err(SourceError::Changed);
        }
        let start = usize::try_from(range.start()).unwrap();
        let whole = &self.bytes[start..start + usize::try_from(range.len()).unwrap()];
        let upto = |bytes: u64| &whole[..usize::try_from(bytes.min(range.len())).unwrap()];
        let mut give = |bytes: &[u8], piece: usize| {
            self.served.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            bytes.chunks(piece.max(1)).for_each(|piece| sink(Bytes::copy_from_slice(piece)));
        };
        match turn {
            Turn::All(piece) => give(whole, piece),
            Turn::Short(bytes) => give(upto(bytes), 1000),
            Turn::Fail(bytes) => {
                give(upto(bytes), 1000);
                return Err(SourceError::failed(io::Error::other("the line is cut")));
            }
            Turn::Change(bytes) => {
                give(upto(bytes), 1000);
                self.changed.store(true, Ordering::Relaxed);
                return Err(SourceError::Changed);
            }
            Turn::Slow(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                give(whole, 9999);
            }
            Turn::TooMuch => {
                give(whole, 5000);
                give(&[0xee; 5000], 5000);
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "far/file".into()
    }
}
