//! The metabox: inodes, and what stands behind them, become the contents of one more inode.
//!
//! Their numbers and places count from the beginning of these contents. Blocks of directories and long links stay
//! outside, before the pclusters of the metabox; behind these follow the packed inode and that of the metabox.

use std::io::Write;

use sha2::{Digest, Sha256};

use super::super::data::WrittenData;
use super::super::emit::MetaWriter;
use super::super::image_options::{Fragments, Hint, ImageOptions};
use super::super::layout::Plan;
use super::super::metadata::{HashWriter, build_time_of, emit_blocks, emit_inodes};
use super::super::node::NodeId;
use super::super::tree::Tree;
use super::codecs::Codecs;
use super::place::{Placer, Placing};
use super::{Both, Rules, add_unnamed, run_tree};
use crate::{Error, Nid, Timestamp};

/// A metabox that has been written, as far as the head of the image tells of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::writer) struct Metabox {
    /// Its inode.
    pub node: NodeId,
    /// The root directory, which is in it.
    pub root: Nid,
    /// How many inodes are in it.
    pub inodes: u64,
    /// Time of compact inodes, in it and outside.
    pub epoch: Timestamp,
    /// Whether any inode in it has attributes.
    pub xattrs: bool,
    /// The first byte of metadata outside.
    pub metadata_at: u64,
}

/// Writes all metadata of `data` but the last: what is left to do is the inode space with the packed inode and that of
/// the metabox. `hint` says how the metabox is compressed; memory for it is as long as its contents.
pub(super) fn fill(
    data: &mut WrittenData,
    hint: Hint,
    options: &ImageOptions<'_>,
    codecs: &Codecs,
    placing: Placing<'_>,
    rules: &Rules,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let block = data.geometry.block;
    // Attributes that inodes in a metabox share are not listed by Linux 6.18 and erofs-utils 1.9.4.
    data.recipe.shared_xattr_uses = u32::MAX;
    data.order.retain(|&node| Some(node) != data.packed);
    let mut content = HashWriter(Sha256::new_with_prefix(data.content));
    let (inodes, metabox, build_time, next_block) = {
        let plan = Plan::in_metabox(data)?;
        let mut both = Both(out, &mut content);
        let mut blocks = MetaWriter::behind_head(&mut both, plan.blocks_at);
        emit_blocks(&plan, &mut blocks)?;
        let mut inodes = Vec::new();
        emit_inodes(&plan, &mut MetaWriter::behind_head(&mut inodes, 0))?;
        let metabox = Metabox {
            node: 0,
            root: plan.nid(Tree::ROOT),
            inodes: plan.inodes.len() as u64,
            epoch: plan.epoch,
            xattrs: plan.xattrs.any(),
            metadata_at: plan.blocks_at,
        };
        (inodes, metabox, build_time_of(&plan), plan.bytes >> block.bits())
    };
    data.recipe.build_time = Some(build_time);

    let node = add_unnamed(&mut data.tree, inodes)?;
    data.file_of.push(
        u32::try_from(data.places.len()).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?,
    );
    let method = options.method(hint, block).map_err(|fault| Error::Options { fault })?;
    let rules = Rules { fragments: Fragments::None, inline_bytes_max: 0, chunk_bytes: 0, ..*rules };
    let mut placer = Placer::new(out, placing, next_block);
    placer.places = std::mem::take(&mut data.places);
    placer.runs = std::mem::take(&mut data.runs);
    run_tree(&data.tree, &[node], &[method], codecs, &rules, options.jobs, &mut placer)?;
    let Placer { places, runs, content: own, totals, .. } = placer;
    content.0.update(own.finalize());
    (data.places, data.runs, data.content) = (places, runs, content.0.finalize().into());
    data.tree.literals.clear();
    data.recipe.features |= codecs.features(&data.places, data.packed.is_some(), &totals);
    (data.recipe.codec_bits, data.recipe.codec_records) =
        codecs.records(data.recipe.features, &data.places, block);
    data.recipe.meta_block = totals.next_block;
    data.order = data.packed.into_iter().chain([node]).collect();
    data.metabox = Some(Metabox { node, ..metabox });
    Ok(())
}
