//! [`TarFeed`]: reads an archive into the pipeline.

use std::io::Read;

use super::super::image::{LOAD_BYTES, LOAD_PIECES, Load, Method, PIECE_BYTES, Piece};
use super::super::image_options::{Hint, ImageOptions};
use super::super::node::NodeId;
use super::super::pipeline::Feed;
use super::{Adder, Entries, EntryKind};
use crate::{BlockSize, Error};

/// Reads an archive, adds its entries to a tree and gives out the contents of its files.
pub(in crate::writer) struct TarFeed<'a, R> {
    pub entries: Entries<R>,
    pub adder: Adder,
    /// The files with data, in the order of the archive.
    pub files: Vec<NodeId>,
    options: &'a ImageOptions<'a>,
    block: BlockSize,
    /// The file at hand.
    file: Option<Pending>,
}

/// A file whose contents are being read.
struct Pending {
    size: u64,
    at: u64,
    method: Method,
    /// Pieces that the archive has, the first of them at hand; `None` when it has all.
    map: Option<std::vec::IntoIter<(u64, u64)>>,
    piece: Option<(u64, u64)>,
}

impl<'a, R: Read> TarFeed<'a, R> {
    pub(in crate::writer) fn new(
        entries: Entries<R>,
        adder: Adder,
        options: &'a ImageOptions<'a>,
        block: BlockSize,
    ) -> Self {
        Self { entries, adder, files: Vec::new(), options, block, file: None }
    }

    /// Goes to the next file with contents; `false` at the end of the archive.
    fn next_file(&mut self) -> Result<bool, Error> {
        while let Some(entry) = self.entries.next()? {
            let Some(node) = self.adder.add(&entry)? else { continue };
            let EntryKind::File { size, .. } = entry.kind else { continue };
            let hint = match self.options.hints {
                Some(hints) => hints(&entry.image_path()?),
                None => Hint::default(),
            };
            let method = self.options.method(hint, self.block).map_err(|fault| Error::Options { fault })?;
            self.files.push(node);
            let EntryKind::File { map, .. } = entry.kind else { continue };
            let mut map = map.map(Vec::into_iter);
            let piece = match &mut map {
                Some(map) => map.next(),
                None => Some((0, size)),
            };
            self.file = Some(Pending { size, at: 0, method, map, piece });
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads the next piece of the file at hand to `offset` of the buffer.
    fn read_piece(&mut self, load: &mut Load, offset: usize, len: u64) -> Result<(), Error> {
        let pending = self.file.as_mut().expect("a file is at hand");
        let (start, end) = (pending.at, pending.at + len);
        let len = usize::try_from(len).expect("a piece is small");
        let hole = pending.piece.is_none_or(|(data, _)| data >= end);
        let file = u32::try_from(self.files.len() - 1);
        let piece = Piece {
            file: file.map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?,
            start,
            len,
            offset,
            last: end == pending.size,
            hole,
            method: pending.method,
        };
        if !hole {
            let buffer = load.room(offset, len, self.block);
            if pending.map.is_some() {
                buffer.fill(0);
            }
            let mut at = start;
            while let Some((data, bytes)) = pending.piece.filter(|&(data, _)| data < end) {
                let from = data.max(at);
                let upto = (data + bytes).min(end);
                let place = |at: u64| usize::try_from(at - start).expect("within the piece");
                self.entries.read_contents(&mut buffer[place(from)..place(upto)])?;
                at = upto;
                if upto < data + bytes {
                    break;
                }
                pending.piece = pending.map.as_mut().and_then(Iterator::next);
            }
        }
        load.pieces.push(piece);
        pending.at = end;
        if piece.last {
            self.file = None;
        }
        Ok(())
    }
}

impl<R: Read + Send> Feed<Load> for TarFeed<'_, R> {
    fn next(&mut self, load: &mut Load) -> Result<bool, Error> {
        load.clear();
        let mut offset = 0;
        while load.pieces.len() < LOAD_PIECES && (offset as u64) < LOAD_BYTES {
            if self.file.is_none() && !self.next_file()? {
                break;
            }
            let Some(pending) = &self.file else { break };
            let len = (pending.size - pending.at).min(PIECE_BYTES);
            if !load.pieces.is_empty() && offset as u64 + len > PIECE_BYTES {
                break;
            }
            self.read_piece(load, offset, len)?;
            let piece = load.pieces[load.pieces.len() - 1];
            if !piece.hole {
                offset = (offset + piece.len).next_multiple_of(self.block.buffer_len());
            }
        }
        load.finish(self.block);
        Ok(!load.pieces.is_empty())
    }
}
