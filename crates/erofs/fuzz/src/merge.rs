//! Merges an image, whatever it claims.

use std::io::Cursor;

use larder_erofs::writer::{ImageOptions, Layer, LayerDevices, MergeOptions, Tree, write_merged};
use larder_erofs::{DeviceMode, Image};

/// Takes `bytes` as the only layer of an image that points into it; what comes out can be opened.
pub fn merge(bytes: &[u8]) {
    for strip_overlay in [false, true] {
        let options = MergeOptions { strip_overlay, ..MergeOptions::default() };
        let layer = Image::open_with(bytes.to_vec(), DeviceMode::Flat).and_then(Layer::new);
        let Ok(tree) = layer.and_then(|layer| Tree::from_layers(vec![layer], &options)) else { return };
        let mut out = Cursor::new(Vec::new());
        if write_merged(tree, &ImageOptions::default(), LayerDevices::Needed, &mut out).is_ok() {
            Image::open(out.into_inner()).expect("what was written can be opened");
        }
    }
}
