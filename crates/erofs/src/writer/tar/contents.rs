//! [`TarFiles`]: the files of an archive one after the other, and [`Contents`], what each of them holds.

use std::io::Read;
use std::ops::Range;

use super::super::node::NodeId;
use super::super::tree::Tree;
use super::claims::Claims;
use super::entries::Entry;
use super::{Adder, Entries, EntryKind};
use crate::Error;

/// Reads an archive, adds its entries to a tree and stops at each file with data.
pub(super) struct TarFiles<'a, R> {
    pub entries: Entries<R>,
    pub adder: Adder<'a>,
    /// The files with data, in the order of the archive.
    pub nodes: Vec<NodeId>,
    claims: Claims,
}

impl<'a, R: Read> TarFiles<'a, R> {
    pub fn new(entries: Entries<R>, adder: Adder<'a>) -> Self {
        Self { entries, adder, nodes: Vec::new(), claims: Claims::default() }
    }

    /// Goes to the next file with data; `None` at the end of the archive.
    ///
    /// `unit` says how many bytes an entry of the table of a file of so many bytes stands for.
    pub fn next(&mut self, unit: impl Fn(u64) -> u64) -> Result<Option<(Entry, Contents)>, Error> {
        while let Some(mut entry) = self.entries.next()? {
            let Some(node) = self.adder.add(&entry)? else { continue };
            let EntryKind::File { size, map, .. } = &mut entry.kind else { continue };
            let (size, map) = (*size, map.take());
            if let Some(map) = &map {
                self.claims.take(&entry, size, map, unit(size), self.entries.position())?;
            }
            let contents = Contents::new(size, map);
            self.nodes.push(node);
            return Ok(Some((entry, contents)));
        }
        Ok(None)
    }

    /// Reads on to the end of the stream; returns the tree, and its files with data in the order of the archive.
    pub fn finish(mut self) -> Result<(Tree, Vec<NodeId>), Error> {
        self.entries.finish()?;
        Ok((self.adder.finish()?, self.nodes))
    }

    /// The number of the file at hand.
    pub fn number(&self) -> Result<u32, Error> {
        u32::try_from(self.nodes.len() - 1).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })
    }
}

/// The contents of a file, read from front to back.
pub(super) struct Contents {
    pub size: u64,
    /// How far they have been read.
    pub at: u64,
    /// Pieces that the archive has behind the one at hand; what lies between them is holes.
    map: std::vec::IntoIter<(u64, u64)>,
    /// First byte and length of the piece at hand.
    piece: Option<(u64, u64)>,
}

impl Contents {
    /// Contents of `size` bytes, of which the archive has those in `map`, or all.
    fn new(size: u64, map: Option<Vec<(u64, u64)>>) -> Self {
        let mut map = map.unwrap_or_else(|| vec![(0, size)]);
        map.retain(|&(_, len)| len > 0);
        let mut map = map.into_iter();
        let piece = map.next();
        Self { size, at: 0, map, piece }
    }

    /// The next bytes that the archive has; `None` when the rest is a hole.
    pub fn data(&self) -> Option<Range<u64>> {
        self.piece.map(|(start, len)| start.max(self.at)..start + len)
    }

    /// Goes on to byte `at`; there is nothing but a hole before it.
    pub fn skip_to(&mut self, at: u64) {
        assert!(self.data().is_none_or(|data| data.start >= at), "only holes are skipped");
        self.at = at;
    }

    /// Fills `buf` with the next bytes.
    pub fn read<R: Read>(&mut self, entries: &mut Entries<R>, buf: &mut [u8]) -> Result<(), Error> {
        let (start, end) = (self.at, self.at + buf.len() as u64);
        let place = |at: u64| usize::try_from(at - start).expect("within the buffer");
        while let Some(data) = self.data().filter(|data| data.start < end) {
            let upto = data.end.min(end);
            buf[place(self.at)..place(data.start)].fill(0);
            entries.read_contents(&mut buf[place(data.start)..place(upto)])?;
            self.at = upto;
            if upto == data.end {
                self.piece = self.map.next();
            }
        }
        buf[place(self.at)..].fill(0);
        self.at = end;
        Ok(())
    }
}
