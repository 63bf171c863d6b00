//! [`MetaWriter`]: writes an image from its beginning, with the checksum that covers the first block.

use std::io::{self, Write};

use crate::BlockSize;
use crate::superblock::{SUPERBLOCK_AT, checksum, checksum_bytes};

/// Where the checksum stands.
const CHECKSUM_AT: usize = SUPERBLOCK_AT + 4;

/// A sequential writer that holds back what the superblock's checksum covers until all of it is known.
pub(super) struct MetaWriter<'a> {
    out: &'a mut dyn Write,
    head: Vec<u8>,
    head_len: usize,
    with_checksum: bool,
    at: u64,
}

impl<'a> MetaWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write, block: BlockSize, with_checksum: bool) -> Self {
        let head_len = SUPERBLOCK_AT + checksum_bytes(block);
        Self { out, head: Vec::with_capacity(head_len), head_len, with_checksum, at: 0 }
    }

    /// A writer that is at byte address `at` already, behind what the checksum covers.
    pub(super) fn behind_head(out: &'a mut dyn Write, at: u64) -> Self {
        Self { out, head: Vec::new(), head_len: 0, with_checksum: false, at }
    }

    /// Writes zeros up to byte address `at`, which nothing has passed yet.
    pub(super) fn pad_to(&mut self, at: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < at {
            let len = usize::try_from(at - self.at).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
            self.write(&ZEROS[..len])?;
        }
        debug_assert!(self.at == at, "places overlap: at {}, not {at}", self.at);
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        let missing = self.head_len - self.head.len();
        if missing == 0 {
            return self.out.write_all(bytes);
        }
        let (head, rest) = bytes.split_at(missing.min(bytes.len()));
        self.head.extend_from_slice(head);
        if self.head.len() == self.head_len {
            if self.with_checksum {
                let sum = checksum(&self.head[SUPERBLOCK_AT..]);
                self.head[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
            }
            self.out.write_all(&self.head)?;
            self.out.write_all(rest)?;
        }
        Ok(())
    }
}
