//! [`TarFeed`]: reads an archive into the pipeline.

use std::io::Read;

use super::super::image::{
    LOAD_BYTES, LOAD_PIECES, Load, Method, PIECE_BYTES, Piece, hole_bytes, zeros_extent,
};
use super::super::image_options::{Hint, ImageOptions};
use super::super::node::NodeId;
use super::super::pipeline::Feed;
use super::super::tree::Tree;
use super::claims::HoleUnits;
use super::contents::{Contents, TarFiles};
use super::entries::Entry;
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
        let (options, block) = (self.options, self.block);
        let next = self.files.next(|entry, size| {
            let method = method(options, block, entry)?;
            Ok(hole_units(options, block, method, size))
        })?;
        let Some((entry, contents)) = next else { return Ok(false) };
        self.file = Some((contents, method(options, block, &entry)?));
        Ok(true)
    }

    /// Reads the next piece of the file at hand to `offset` of the buffer.
    fn read_piece(&mut self, load: &mut Load, offset: usize, len: u64) -> Result<(), Error> {
        let (contents, method) = self.file.as_mut().expect("a file is at hand");
        let (start, end) = (contents.at, contents.at + len);
        let len = usize::try_from(len).expect("a piece is small");
        let hole = contents.data().is_none_or(|data| data.start >= end);
        let last = end == contents.size;
        let hole_bytes = hole_bytes(contents.size, self.block);
        let piece =
            Piece { file: self.files.number()?, start, len, offset, last, hole, hole_bytes, method: *method };
        if hole {
            self.files.skip_to(contents, end)?;
        } else {
            self.files.read(contents, load.room(offset, len, self.block))?;
        }
        load.pieces.push(piece);
        if last {
            self.file = None;
        }
        Ok(())
    }
}

/// How a file is to be stored.
fn method(options: &ImageOptions<'_>, block: BlockSize, entry: &Entry) -> Result<Method, Error> {
    let hint = match options.hints {
        Some(hints) => hints(&entry.image_path()?),
        None => Hint::default(),
    };
    options.method(hint, block).map_err(|fault| Error::Options { fault })
}

/// How many bytes of holes an entry stands for in a file of `size` bytes that is stored so.
fn hole_units(options: &ImageOptions<'_>, block: BlockSize, method: Method, size: u64) -> HoleUnits {
    let table = match method.compressor {
        // The index has every block.
        Some(_) => block.bytes(),
        None if options.chunk_bits > 0 => 1 << options.chunk_bits,
        None => hole_bytes(size, block) as u64,
    };
    let is_compressed = method.compressor.is_some() && !options.legacy_indexes;
    let read = if is_compressed { zeros_extent(block) as u64 } else { table };
    HoleUnits { read, table }
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
