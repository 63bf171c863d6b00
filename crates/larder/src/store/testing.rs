//! What tests need of a store: a layer over a source of theirs.

use std::sync::Arc;

use larder_image::chunk::{Encoding, IndexBuilder, LayerFacts};
use larder_image::{ChunkTable, Layer};
use larder_remote::RangeSource;

use super::{Opened, Store};

/// Bytes of [`layer`].
pub const LAYER_BYTES: u64 = 1 << 20;

/// A layer of one chunk, told from others by the digest's byte `name`.
pub fn layer(name: u8, source: Arc<dyn RangeSource>) -> Layer {
    let mut index = IndexBuilder::new(Encoding::Raw);
    index.push(0, 0, &[name; 32]);
    let digest = format!("sha256:{}", format!("{name:02x}").repeat(32));
    let blob = digest.parse().expect("a digest");
    let facts = LayerFacts { blob: &blob, encoding: Encoding::Raw, data_end: LAYER_BYTES };
    let table = ChunkTable::bind(index.finish(LAYER_BYTES).expect("one chunk"), facts).expect("it fits");
    let descriptor = serde_json::json!({
        "mediaType": "application/octet-stream", "digest": digest, "size": LAYER_BYTES
    });
    Layer {
        descriptor: serde_json::from_value(descriptor).expect("a descriptor"),
        table: Arc::new(table),
        source,
    }
}

impl Store {
    /// Opens a blob as an image does that has `layer`.
    pub fn open_blob(&self, layer: &Layer) -> Opened {
        self.blobs.open(layer).expect("room")
    }
}
