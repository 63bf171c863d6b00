//! [`TreeFeed`]: gives out the files of a tree in pieces, and reads them.

use std::fs::File;

use rustix::io::Errno;

use super::super::image_options::{Hint, ImageOptions, OptionsFault};
use super::super::node::{Content, NodeId};
use super::super::pipeline::Feed;
use super::super::plan::next_data;
use super::super::reader::read_at;
use super::super::text::index;
use super::super::tree::Tree;
use super::piece::{LOAD_BYTES, LOAD_PIECES, Load, Method, PIECE_BYTES, Piece, hole_bytes};
use crate::{BlockSize, Error, FileType};

/// Gives out the files of a tree in the order of their data.
pub(super) struct TreeFeed<'a> {
    tree: &'a Tree,
    files: &'a [NodeId],
    methods: &'a [Method],
    block: BlockSize,
    file: usize,
    at: u64,
    /// The file at hand when it is sparse, with the data that comes next.
    open: Option<(File, Option<(u64, u64)>)>,
}

impl<'a> TreeFeed<'a> {
    pub(super) fn new(tree: &'a Tree, files: &'a [NodeId], methods: &'a [Method], block: BlockSize) -> Self {
        Self { tree, files, methods, block, file: 0, at: 0, open: None }
    }

    /// Whether the file system says that nothing is stored of these bytes.
    fn is_hole(&mut self, node: NodeId, start: u64, end: u64) -> Result<bool, Error> {
        let node = &self.tree.nodes[index(node)];
        if let Content::Layer { layer, nid } = node.content {
            return self.tree.layers[index(layer)].is_hole(nid, start, end);
        }
        let Content::Host(host) = node.content else { return Ok(false) };
        if !host.sparse {
            return Ok(false);
        }
        let name = self.tree.text.get(host.name);
        let failed = |errno: Errno| Error::Scan {
            path: self.tree.host.path(&self.tree.text, host.dir, name),
            source: errno.into(),
        };
        let (file, data) = match &mut self.open {
            Some(open) => open,
            None => {
                let file = self.tree.host.open_file(&self.tree.text, host.dir, name).map_err(failed)?;
                let file = File::from(file);
                let data = next_data(&file, start, node.size).map_err(failed)?;
                self.open.insert((file, data))
            }
        };
        if data.is_some_and(|(_, data_end)| data_end <= start) {
            *data = next_data(file, start, node.size).map_err(failed)?;
        }
        Ok(data.is_none_or(|(data_start, _)| data_start >= end))
    }
}

impl Feed<Load> for TreeFeed<'_> {
    fn next(&mut self, load: &mut Load) -> Result<bool, Error> {
        load.clear();
        let mut offset = 0;
        while load.pieces.len() < LOAD_PIECES && (offset as u64) < LOAD_BYTES {
            let Some(&node) = self.files.get(self.file) else { break };
            let size = self.tree.nodes[index(node)].size;
            let len = (size - self.at).min(PIECE_BYTES);
            if !load.pieces.is_empty() && offset as u64 + len > PIECE_BYTES {
                break;
            }
            let end = self.at + len;
            let hole = self.is_hole(node, self.at, end)?;
            let piece = Piece {
                file: u32::try_from(self.file)
                    .map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?,
                start: self.at,
                len: usize::try_from(len).expect("a piece is small"),
                offset,
                last: end == size,
                hole,
                hole_bytes: hole_bytes(size, self.block),
                method: self.methods[self.file],
            };
            if !hole {
                offset = (offset + piece.len).next_multiple_of(self.block.buffer_len());
            }
            load.pieces.push(piece);
            self.at = end;
            if piece.last {
                self.file += 1;
                self.at = 0;
                self.open = None;
            }
        }
        Ok(!load.pieces.is_empty())
    }
}

/// Reads the pieces of a load into its buffer.
pub(super) fn read(tree: &Tree, files: &[NodeId], block: BlockSize, load: &mut Load) -> Result<(), Error> {
    for index_of_piece in 0..load.pieces.len() {
        let piece = load.pieces[index_of_piece];
        if !piece.hole {
            let node = &tree.nodes[index(files[index(piece.file)])];
            read_at(tree, node, piece.start, load.room(piece.offset, piece.len, block))?;
        }
    }
    load.finish(block);
    Ok(())
}

/// Decides how each file is stored.
pub(super) fn methods(
    tree: &Tree,
    files: &[NodeId],
    options: &ImageOptions<'_>,
    block: BlockSize,
) -> Result<Vec<Method>, OptionsFault> {
    let usual = options.method(Hint::default(), block)?;
    let Some(hints) = options.hints else { return Ok(vec![usual; files.len()]) };
    let mut by_node: Vec<Option<Method>> = vec![None; tree.nodes.len()];
    let mut dirs = vec![(Tree::ROOT, Vec::new())];
    while let Some((dir, path)) = dirs.pop() {
        for entry in &tree.dirs[tree.dir_index(dir)].entries {
            let mut path: Vec<u8> = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(tree.text.get(entry.name));
            match tree.nodes[index(entry.node)].kind {
                FileType::Directory => dirs.push((entry.node, path)),
                FileType::Regular => {
                    let method = &mut by_node[index(entry.node)];
                    // Of several names the first counts.
                    if method.is_none() {
                        *method = Some(options.method(hints(&path), block)?);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(files.iter().map(|&file| by_node[index(file)].unwrap_or(usual)).collect())
}
