//! From the extents of a file to what is written: gathered to large writes, without holes and zeros.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use anyhow::Context as _;
use larder_erofs::{Extent, ExtentKind, Inode, LogicalAddr};

use super::Shared;

/// Decoded bytes gathered before they are written. A single extent may be larger: 12 MiB at most.
const GATHER_BYTES: usize = 1 << 20;
/// Plain bytes read before they are written: they are still in a core's own caches then, which counts as nothing else
/// is done with them.
const PLAIN_BYTES: usize = 128 << 10;
/// Zeros are left out in pieces of this size, on its multiples.
const ZERO_BYTES: usize = 64 << 10;
static ZEROS: [u8; ZERO_BYTES] = [0; ZERO_BYTES];

/// A thread's buffer; it grows to what the largest extent needs.
#[derive(Default)]
pub(super) struct Buffer(Vec<u8>);

/// Copies bytes `range` of `inode` to the same place of `fd`. The file is as long as it has to be afterwards.
pub(super) fn copy(
    shared: &Shared<'_>,
    fd: BorrowedFd<'_>,
    inode: &Inode,
    range: Range<u64>,
    buffer: &mut Buffer,
) -> anyhow::Result<()> {
    let mut gather = Gather { fd, at: range.start, len: 0, end: 0, buffer: &mut buffer.0 };
    let mut at = range.start;
    for extent in shared.image.image().extents(inode, LogicalAddr::new(range.start)) {
        let extent = extent?;
        if at >= range.end {
            break;
        }
        let len = extent.len.min(range.end - at);
        if extent.kind == ExtentKind::Hole {
            gather.flush()?;
            gather.at = at + len;
        } else {
            copy_extent(shared, inode, &extent, len, &mut gather)?;
        }
        at += len;
    }
    gather.flush()?;
    anyhow::ensure!(at >= range.end, "ends at byte {at} of {}", range.end);
    // A hole at the end, or zeros that were left out, make no length.
    if range.end == inode.size && gather.end < inode.size {
        rustix::fs::ftruncate(fd, inode.size).context("its length cannot be set")?;
    }
    Ok(())
}

fn copy_extent(
    shared: &Shared<'_>,
    inode: &Inode,
    extent: &Extent,
    len: u64,
    gather: &mut Gather<'_>,
) -> anyhow::Result<()> {
    // Encoded bytes are decoded whole; plain ones can be read in pieces.
    let (step, gathered_max) = match extent.kind {
        ExtentKind::Encoded(_) => (len, GATHER_BYTES),
        _ => (len.min(PLAIN_BYTES as u64), PLAIN_BYTES),
    };
    let mut done = 0;
    while done < len {
        let piece = usize::try_from(step.min(len - done))?;
        let kind = advance(extent.kind, done).context("its address is out of range")?;
        let extent = Extent { start: extent.start, len: extent.len - done, kind };
        shared.image.read_extent(inode, &extent, gather.room(piece, gathered_max)?)?;
        gather.len += piece;
        done += piece as u64;
    }
    Ok(())
}

/// The same place, `by` bytes further on.
fn advance(kind: ExtentKind, by: u64) -> Option<ExtentKind> {
    Some(match kind {
        ExtentKind::Meta { pa } => ExtentKind::Meta { pa: pa.checked_add(by)? },
        ExtentKind::Device { device, pa } => ExtentKind::Device { device, pa: pa.checked_add(by)? },
        kind => kind,
    })
}

/// Bytes that follow each other in the file.
struct Gather<'a> {
    fd: BorrowedFd<'a>,
    /// Where in the file the first of them goes.
    at: u64,
    len: usize,
    /// Where the last write ended.
    end: u64,
    buffer: &'a mut Vec<u8>,
}

impl Gather<'_> {
    /// Room for `len` bytes behind those that are gathered, which are written when it would be more than `most` in all.
    fn room(&mut self, len: usize, most: usize) -> anyhow::Result<&mut [u8]> {
        if self.len > 0 && self.len + len > most {
            self.flush()?;
        }
        if self.buffer.len() < self.len + len {
            self.buffer.resize((self.len + len).max(GATHER_BYTES), 0);
        }
        Ok(&mut self.buffer[self.len..self.len + len])
    }

    /// Writes what was gathered, but for large runs of zeros.
    fn flush(&mut self) -> anyhow::Result<()> {
        let mut done = 0;
        while done < self.len {
            let at = self.at + done as u64;
            let (run, is_zero) = run(&self.buffer[done..self.len], at);
            if !is_zero {
                self.write(at, done..done + run)?;
            }
            done += run;
        }
        self.at += self.len as u64;
        self.len = 0;
        Ok(())
    }

    fn write(&mut self, at: u64, piece: Range<usize>) -> anyhow::Result<()> {
        let mut at = at;
        let mut rest = &self.buffer[piece];
        while !rest.is_empty() {
            match rustix::io::pwrite(self.fd, rest, at) {
                Ok(0) => anyhow::bail!("nothing more can be written at byte {at}"),
                Ok(len) => {
                    rest = &rest[len..];
                    at += len as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).with_context(|| format!("writing at byte {at}")),
            }
        }
        self.end = at;
        Ok(())
    }
}

/// How many of the bytes, the first of which goes to `at`, are written or left out together, and whether left out.
fn run(bytes: &[u8], at: u64) -> (usize, bool) {
    let mut len = 0;
    let mut first = None;
    while len < bytes.len() {
        let offset = usize::try_from((at + len as u64) % ZERO_BYTES as u64).unwrap_or(0);
        let piece = &bytes[len..bytes.len().min(len + ZERO_BYTES - offset)];
        let is_zero = piece.len() == ZERO_BYTES && *piece == ZEROS;
        if *first.get_or_insert(is_zero) != is_zero {
            break;
        }
        len += piece.len();
    }
    (len, first.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_aligned_pieces_of_zeros_are_left_out() {
        let mut bytes = vec![0; 3 * ZERO_BYTES];
        assert_eq!(run(&bytes, 0), (3 * ZERO_BYTES, true));
        // Shifted by one: the ends are too short to count.
        assert_eq!(run(&bytes, 1), (ZERO_BYTES - 1, false));
        assert_eq!(run(&bytes[ZERO_BYTES - 1..], ZERO_BYTES as u64), (2 * ZERO_BYTES, true));
        bytes[ZERO_BYTES] = 1;
        assert_eq!(run(&bytes, 0), (ZERO_BYTES, true));
        assert_eq!(run(&bytes[ZERO_BYTES..], ZERO_BYTES as u64), (ZERO_BYTES, false));
        assert_eq!(run(&bytes[..100], 0), (100, false));
        assert_eq!(run(&[], 0), (0, false));
    }
}
