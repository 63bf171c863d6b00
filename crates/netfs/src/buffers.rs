//! [`Buffers`]: memory for parts, used again.
//!
//! A fresh buffer costs a page fault for each of its pages, which is as much as filling it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::issue::PART_BYTES;

/// Buffers that are kept at rest at most, 16 MiB: a window lets all of its own go at once.
const AT_REST_MAX: usize = 64;

/// Memory for parts.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// Memory for one part; comes back to rest when the last slice of it is gone.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffers {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An empty buffer with room for `len` bytes.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let is_whole = len as u64 == PART_BYTES;
        let rested = if is_whole { self.lock().pop() } else { None };
        Buffer { bytes: rested.unwrap_or_else(|| Vec::with_capacity(len)), home: Arc::clone(self) }
    }

    /// Gives what is at rest back to the system.
    pub fn let_go(&self) {
        self.lock().clear();
    }

    /// Nothing panics while it holds the lock, and what it guards is sound at any moment.
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut at_rest = self.home.lock();
        if self.bytes.capacity() as u64 == PART_BYTES && at_rest.len() < AT_REST_MAX {
            self.bytes.clear();
            at_rest.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LEN: usize = 256 << 10;

    #[test]
    fn a_buffer_comes_back_empty_when_the_last_slice_is_gone_and_few_are_kept() {
        let buffers = Buffers::new();
        let mut first = buffers.take(LEN);
        first.bytes.extend_from_slice(b"some bytes");
        let place = first.bytes.as_ptr();
        let bytes = Bytes::from_owner(first);
        let slice = bytes.slice(5..);
        drop(bytes);
        assert_ne!(buffers.take(LEN).bytes.as_ptr(), place, "still in use");
        assert_eq!(slice, b"bytes"[..]);
        drop(slice);
        let many: Vec<_> = (0..3 * AT_REST_MAX).map(|_| buffers.take(LEN)).collect();
        assert!(many.iter().any(|buffer| buffer.bytes.as_ptr() == place));
        assert!(many.iter().all(|buffer| buffer.bytes.is_empty()));
        drop(many);
        assert_eq!(buffers.lock().len(), AT_REST_MAX);
        drop(buffers.take(100));
        assert_eq!(buffers.lock().len(), AT_REST_MAX, "a short one is not kept");
        buffers.let_go();
        assert!(buffers.lock().is_empty());
    }
}
