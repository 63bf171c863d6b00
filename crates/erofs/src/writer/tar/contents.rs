//! [`TarFiles`]: the files of an archive one after the other, and [`Contents`], what each of them holds.

use std::io::Read;
use std::ops::Range;

use super::super::node::NodeId;
use super::super::tree::Tree;
use super::claims::{Claimant, Claims, HoleUnits};
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
    /// The file at hand when it is sparse.
    claimant: Option<Claimant>,
}

impl<'a, R: Read> TarFiles<'a, R> {
    pub fn new(entries: Entries<R>, adder: Adder<'a>) -> Self {
        Self { entries, adder, nodes: Vec::new(), claims: Claims::default(), claimant: None }
    }

    /// Goes to the next file with data; `None` at the end of the archive.
    ///
    /// `units` says how many bytes of holes an entry stands for in a file of that path and size.
    pub fn next(
        &mut self,
        units: impl Fn(&Entry, u64) -> Result<HoleUnits, Error>,
    ) -> Result<Option<(Entry, Contents)>, Error> {
        self.end_file()?;
        while let Some(mut entry) = self.entries.next()? {
            let Some(node) = self.adder.add(&entry)? else { continue };
            let EntryKind::File { size, map, .. } = &mut entry.kind else { continue };
            let (size, map) = (*size, map.take());
            if let Some(map) = &map {
                let stored = map.iter().map(|&(_, len)| len).sum();
                let units = units(&entry, size)?;
                let claimant =
                    self.claims.begin(&entry.path, size, stored, units, self.entries.position())?;
                self.claimant = Some(claimant);
            }
            let contents = Contents::new(size, map);
            self.nodes.push(node);
            return Ok(Some((entry, contents)));
        }
        Ok(None)
    }

    /// Reads on to the end of the stream; returns the tree, and its files with data in the order of the archive.
    pub fn finish(mut self) -> Result<(Tree, Vec<NodeId>), Error> {
        self.end_file()?;
        self.entries.finish()?;
        Ok((self.adder.finish()?, self.nodes))
    }

    /// Goes on to byte `at` of the contents at hand; there is nothing but a hole before it.
    pub fn skip_to(&mut self, contents: &mut Contents, at: u64) -> Result<(), Error> {
        assert!(contents.data().is_none_or(|data| data.start >= at), "only holes are skipped");
        let hole = at - contents.at;
        contents.at = at;
        self.pass(hole)
    }

    /// Fills `buf` with the next bytes of the contents at hand.
    pub fn read(&mut self, contents: &mut Contents, buf: &mut [u8]) -> Result<(), Error> {
        let before = self.entries.position();
        contents.read(&mut self.entries, buf)?;
        self.pass(buf.len() as u64 - (self.entries.position() - before))
    }

    /// Counts so many bytes of holes.
    fn pass(&mut self, hole: u64) -> Result<(), Error> {
        match &mut self.claimant {
            Some(claimant) => self.claims.pass(claimant, hole, self.entries.position()),
            None => Ok(()),
        }
    }

    /// Counts the holes of the file that has been read.
    fn end_file(&mut self) -> Result<(), Error> {
        match self.claimant.take() {
            Some(claimant) => self.claims.end(&claimant, self.entries.position()),
            None => Ok(()),
        }
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

    /// Fills `buf` with the next bytes.
    fn read<R: Read>(&mut self, entries: &mut Entries<R>, buf: &mut [u8]) -> Result<(), Error> {
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
