//! Reads any bytes as a tar archive, compressed or not: into an image, into an index over it, into a blob.
//!
//! Invariants: no panic, no loop, no memory by what the bytes say; what comes out can be opened. Checksums are mended
//! first, so that the fuzzer need not guess them.

#![cfg_attr(fuzzing, no_main)]

use std::io::{self, Cursor, Read};

use larder_erofs::writer::{
    ImageOptions, Options, TarOptions, decode_archive, index_tar, write_data_from_tar, write_image_from_tar,
};
use larder_erofs::{DeviceTag, Image};
use larder_erofs_fuzz::archive;

/// Bytes of a decoded archive that are looked at.
const DECODED_BYTES_MAX: u64 = 8 << 20;

fn seeds() -> Vec<Vec<u8>> {
    let compressed: [&[u8]; 3] = [
        include_bytes!("../seeds/archive/gzip"),
        include_bytes!("../seeds/archive/xz"),
        include_bytes!("../seeds/archive/zstd"),
    ];
    compressed
        .map(<[u8]>::to_vec)
        .into_iter()
        .chain([archive::every_kind(), archive::claims("sparse", 1 << 24)])
        .collect()
}

larder_fuzz::fuzz_target!(seeds, |bytes| {
    let mut bytes = bytes.to_vec();
    if let Ok(decoded) = decode_archive(Cursor::new(&bytes)) {
        let _ = io::copy(&mut decoded.take(DECODED_BYTES_MAX), &mut io::sink());
    }
    archive::mend(&mut bytes);
    let tar = TarOptions {
        aufs: bytes.len().is_multiple_of(2),
        strip_overlay: bytes.len().is_multiple_of(3),
        ..TarOptions::default()
    };
    let mut out = Cursor::new(Vec::new());
    if write_image_from_tar(&bytes[..], &tar, &ImageOptions::default(), &mut out).is_ok() {
        Image::open(out.into_inner()).expect("what was written can be opened");
    }
    let index = index_tar(&bytes[..], &tar, &ImageOptions::default());
    let data = write_data_from_tar(&bytes[..], &tar, &Options::default(), &mut Vec::new());
    for parts in [index, data].into_iter().flatten() {
        let (mut out, tags) = (Vec::new(), vec![DeviceTag::EMPTY; parts.devices().len()]);
        if parts.write_metadata(&tags, &mut out).is_ok() {
            Image::open(out).expect("what was written can be opened");
        }
    }
});
