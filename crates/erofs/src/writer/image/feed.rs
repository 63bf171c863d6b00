//! [`FileFeed`]: gives out files in pieces, and how they are read.

use std::fs::File;

use rustix::io::Errno;

use super::super::image_options::{Hint, ImageOptions, OptionsFault};
use super::super::node::{Content, NodeId};
use super::super::pipeline::Feed;
use super::super::plan::next_data;
use super::super::reader::HostNode;
use super::super::text::index;
use super::super::tree::Tree;
use super::piece::{LOAD_BYTES, LOAD_PIECES, Load, Method, PIECE_BYTES, Piece, hole_bytes};
use crate::{BlockSize, Error, FileType};

/// The files with data, one after the other.
pub(super) trait Files: Send {
    /// The tree that those are in which have been given out.
    fn tree(&self) -> &Tree;

    /// The next one, and how it is stored.
    fn next(&mut self) -> Result<Option<(NodeId, Method)>, Error>;

    /// What a thread needs to read a file that has been given out, where it cannot look at the tree.
    fn apart(&mut self, node: NodeId) -> Option<HostNode>;
}

/// The files of a tree that is complete.
pub(super) struct Listed<'a> {
    tree: &'a Tree,
    files: std::iter::Zip<std::slice::Iter<'a, NodeId>, std::slice::Iter<'a, Method>>,
}

impl<'a> Listed<'a> {
    pub(super) fn new(tree: &'a Tree, files: &'a [NodeId], methods: &'a [Method]) -> Self {
        Self { tree, files: files.iter().zip(methods) }
    }
}

impl Files for Listed<'_> {
    fn tree(&self) -> &Tree {
        self.tree
    }

    fn next(&mut self) -> Result<Option<(NodeId, Method)>, Error> {
        Ok(self.files.next().map(|(node, method)| (*node, *method)))
    }

    fn apart(&mut self, _: NodeId) -> Option<HostNode> {
        None
    }
}

/// Gives out files in pieces.
pub(super) struct FileFeed<F> {
    files: F,
    block: BlockSize,
    /// The file at hand, and how far it has been given out.
    file: Option<AtHand>,
    /// Its number, or that of the next.
    number: u32,
}

struct AtHand {
    node: NodeId,
    method: Method,
    size: u64,
    at: u64,
    /// When it is sparse: the file, and the data that comes next.
    open: Option<(File, Option<(u64, u64)>)>,
}

impl<F: Files> FileFeed<F> {
    pub(super) fn new(files: F, block: BlockSize) -> Self {
        Self { files, block, file: None, number: 0 }
    }

    /// What the files came from.
    pub(super) fn into_files(self) -> F {
        self.files
    }

    /// Goes to the next file, if none is at hand; `false` at the end.
    fn find(&mut self) -> Result<bool, Error> {
        if self.file.is_none() {
            let Some((node, method)) = self.files.next()? else { return Ok(false) };
            let size = self.files.tree().nodes[index(node)].size;
            self.file = Some(AtHand { node, method, size, at: 0, open: None });
        }
        Ok(true)
    }

    /// Goes on to the next file.
    fn end_file(&mut self) -> Result<(), Error> {
        self.file = None;
        self.number = self.number.checked_add(1).ok_or(Error::TooLarge { what: "more than 2^32 files" })?;
        Ok(())
    }
}

impl AtHand {
    /// Whether the file system says that nothing is stored of these bytes.
    fn is_hole(&mut self, tree: &Tree, start: u64, end: u64) -> Result<bool, Error> {
        let node = &tree.nodes[index(self.node)];
        if let Content::Layer { layer, nid } = node.content {
            return tree.layers[index(layer)].is_hole(nid, start, end);
        }
        let Content::Host(host) = node.content else { return Ok(false) };
        if !host.sparse {
            return Ok(false);
        }
        let failed = |errno: Errno| tree.host_file(host).failed(errno.into());
        let (file, data) = match &mut self.open {
            Some(open) => open,
            None => {
                let file = tree.host_file(host).open()?;
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

impl<F: Files> Feed<Load> for FileFeed<F> {
    fn next(&mut self, load: &mut Load) -> Result<bool, Error> {
        load.clear();
        let mut offset = 0;
        while load.pieces.len() < LOAD_PIECES && (offset as u64) < LOAD_BYTES && self.find()? {
            let Some(file) = &mut self.file else { break };
            let AtHand { node, method, size, at, .. } = *file;
            let len = (size - at).min(PIECE_BYTES);
            if !load.pieces.is_empty() && offset as u64 + len > PIECE_BYTES {
                break;
            }
            let end = at + len;
            let hole = file.is_hole(self.files.tree(), at, end)?;
            let piece = Piece {
                file: self.number,
                start: at,
                len: usize::try_from(len).expect("a piece is small"),
                offset,
                last: end == size,
                hole,
                hole_bytes: hole_bytes(size, self.block),
                method,
            };
            if !hole {
                offset = (offset + piece.len).next_multiple_of(self.block.buffer_len());
            }
            load.pieces.push(piece);
            load.apart.extend(self.files.apart(node));
            file.at = end;
            if piece.last {
                self.end_file()?;
            }
        }
        Ok(!load.pieces.is_empty())
    }
}

/// Reads the pieces of a load into its buffer, by their numbers in the load.
pub(super) fn read(
    load: &mut Load,
    block: BlockSize,
    read_at: impl Fn(usize, &Piece, &mut [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    for number in 0..load.pieces.len() {
        let piece = load.pieces[number];
        if !piece.hole {
            read_at(number, &piece, load.room(piece.offset, piece.len, block))?;
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
        let first_below = dirs.len();
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
        // In the order of the files' data.
        dirs[first_below..].reverse();
    }
    Ok(files.iter().map(|&file| by_node[index(file)].unwrap_or(usual)).collect())
}
