//! [`TarFeed`]: reads an archive into the pipeline.

use std::io::Read;

use super::super::image::{LOAD_BYTES, LOAD_PIECES, Load, Method, PIECE_BYTES, Piece};
use super::super::image_options::{Hint, ImageOptions};
use super::super::node::NodeId;
use super::super::pipeline::Feed;
use super::super::tree::Tree;
use super::contents::{Contents, TarFiles};
use super::{Adder, Entries};
use crate::{BlockSize, Error};

/// Reads an archive and gives out the contents of its files.
pub(in crate::writer) struct TarFeed<'a, R> {
    files: TarFiles<'a, R>,
    options: &'a ImageOptions<'a>,
    block: BlockSize,
    /// The file at hand, and how it is to be stored.
    file: Option<(Contents, Method)>,
}

impl<'a, R: Read> TarFeed<'a, R> {
    pub(in crate::writer) fn new(
        entries: Entries<R>,
        adder: Adder<'a>,
        options: &'a ImageOptions<'a>,
        block: BlockSize,
    ) -> Self {
        Self { files: TarFiles::new(entries, adder), options, block, file: None }
    }

    /// Reads on to the end of the stream; returns the tree, and its files with data in the order of the archive.
    pub(in crate::writer) fn finish(self) -> Result<(Tree, Vec<NodeId>), Error> {
        self.files.finish()
    }

    /// Goes to the next file with contents; `false` at the end of the archive.
    fn next_file(&mut self) -> Result<bool, Error> {
        let Some((entry, contents)) = self.files.next(|_| self.block.bytes())? else { return Ok(false) };
        let hint = match self.options.hints {
            Some(hints) => hints(&entry.image_path()?),
            None => Hint::default(),
        };
        let method = self.options.method(hint, self.block).map_err(|fault| Error::Options { fault })?;
        self.file = Some((contents, method));
        Ok(true)
    }

    /// Reads the next piece of the file at hand to `offset` of the buffer.
    fn read_piece(&mut self, load: &mut Load, offset: usize, len: u64) -> Result<(), Error> {
        let (contents, method) = self.file.as_mut().expect("a file is at hand");
        let (start, end) = (contents.at, contents.at + len);
        let len = usize::try_from(len).expect("a piece is small");
        let hole = contents.data().is_none_or(|data| data.start >= end);
        let last = end == contents.size;
        let piece = Piece { file: self.files.number()?, start, len, offset, last, hole, method: *method };
        if hole {
            contents.skip_to(end);
        } else {
            contents.read(&mut self.files.entries, load.room(offset, len, self.block))?;
        }
        load.pieces.push(piece);
        if last {
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
            let Some((contents, _)) = &self.file else { break };
            let len = (contents.size - contents.at).min(PIECE_BYTES);
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
