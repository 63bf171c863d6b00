//! [`Codecs`]: the compressors of an image, and what its superblock says of them.

use super::super::compressor::Compressor;
use super::super::encode::{Encoder, dictionary};
use super::super::image_options::{ImageOptions, OptionsFault};
use super::encoded::StoredTail;
use super::place::{Place, Totals};
use super::segment::zeros_extent;
use crate::{BlockSize, Codec, Error, Incompat};

/// The compressors of an image.
pub(super) struct Codecs {
    compressors: Vec<Compressor>,
    codecs: Vec<Codec>,
    /// The largest pcluster of any file.
    pcluster_bytes: u32,
    zeros: Vec<Vec<u8>>,
    zeros_len: usize,
}

impl Codecs {
    /// Takes the compressors that `options` name.
    pub(super) fn new(options: &ImageOptions<'_>, block: BlockSize) -> Result<Self, OptionsFault> {
        let mut codecs = Self {
            compressors: options.compressors.clone(),
            codecs: options.compressors.iter().map(|compressor| compressor.codec()).collect(),
            pcluster_bytes: options.pcluster_bytes_max(block),
            zeros: Vec::new(),
            zeros_len: zeros_extent(block),
        };
        for compressor in 0..codecs.compressors.len() {
            let cluster = codecs.zero_cluster(compressor, block)?;
            codecs.zeros.push(cluster);
        }
        Ok(codecs)
    }

    /// The codec of each compressor.
    pub(super) fn codecs(&self) -> &[Codec] {
        &self.codecs
    }

    /// By compressor: a pcluster that holds [`zeros_len`](Self::zeros_len) zeros.
    pub(super) fn zeros(&self) -> &[Vec<u8>] {
        &self.zeros
    }

    pub(super) fn zeros_len(&self) -> usize {
        self.zeros_len
    }

    /// Makes an encoder for a thread.
    pub(super) fn encoder(&self, compressor: u8) -> Result<Encoder, Error> {
        self.new_encoder(compressor.into()).map_err(|fault| Error::Options { fault })
    }

    fn new_encoder(&self, compressor: usize) -> Result<Encoder, OptionsFault> {
        Encoder::new(self.compressors[compressor], self.pcluster_bytes)
    }

    fn zero_cluster(&self, compressor: usize, block: BlockSize) -> Result<Vec<u8>, OptionsFault> {
        let mut out = vec![0; block.buffer_len()];
        let filled = self.new_encoder(compressor)?.fill(&vec![0; self.zeros_len], &mut out);
        let filled = filled.filter(|filled| filled.consumed == self.zeros_len);
        let produced = filled.expect("every codec makes zeros short").produced;
        let pad = out.len() - produced;
        out.copy_within(..produced, pad);
        out[..pad].fill(0);
        Ok(out)
    }

    /// The features that the contents need.
    pub(super) fn features(&self, places: &[Place], packed: bool, totals: &Totals) -> Incompat {
        let encoded = || places.iter().filter_map(Place::encoded);
        let mut features = Incompat::empty();
        features.set(Incompat::LZ4_0PADDING, encoded().next().is_some());
        let other = encoded().any(|file| file.codec != Codec::Lz4);
        features.set(Incompat::COMPR_CFGS, other || totals.big);
        let inline = encoded().any(|file| matches!(file.tail, StoredTail::Inline { .. }));
        features.set(Incompat::ZTAILPACKING, inline);
        features.set(Incompat::FRAGMENTS, packed || totals.shares);
        features
    }

    /// The codecs that are used, as bits, and their configuration records.
    pub(super) fn records(&self, features: Incompat, places: &[Place], block: BlockSize) -> (u16, Vec<u8>) {
        if !features.contains(Incompat::COMPR_CFGS) {
            return (0, Vec::new());
        }
        let (mut bits, mut records) = (0, Vec::new());
        for codec in Codec::ALL {
            if !places.iter().filter_map(Place::encoded).any(|file| file.codec == codec) {
                continue;
            }
            bits |= codec.bit();
            let mut record = self.record(codec, block);
            let len = u16::try_from(record.len()).expect("records are short");
            records.extend(len.to_le_bytes());
            records.append(&mut record);
            records.resize(records.len().next_multiple_of(4), 0);
        }
        (bits, records)
    }

    /// The largest of what the compressors with this codec need.
    fn record(&self, codec: Codec, block: BlockSize) -> Vec<u8> {
        let mine = self.compressors.iter().filter(|compressor| compressor.codec() == codec);
        let dictionary = mine.map(|&compressor| dictionary(compressor, self.pcluster_bytes)).max();
        let dictionary = dictionary.unwrap_or(0);
        match codec {
            Codec::Lz4 => {
                let blocks = u16::try_from(self.pcluster_bytes >> block.bits()).expect("at most 256");
                [&[0, 0], &blocks.to_le_bytes()[..], &[0; 10]].concat()
            }
            Codec::Lzma => [&dictionary.to_le_bytes()[..], &[0; 10]].concat(),
            Codec::Deflate => vec![15, 0, 0, 0, 0, 0],
            Codec::Zstd => {
                let log = dictionary.max(1024).ilog2() - 10;
                vec![0, log.to_le_bytes()[0], 0, 0, 0, 0]
            }
        }
    }
}
