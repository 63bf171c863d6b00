//! Small images by mkfs.erofs 1.9.4, one for each way of storing files; the example `golden` of larder-erofs makes them.

/// Name and options of each image.
pub const RECIPES: [(&str, &str); 18] = [
    ("lz4", "-b1024 -zlz4"),
    ("lz4-page", "-b4096 -zlz4 -C16384"),
    ("lz4-full", "-b1024 -zlz4 -C8192 -Elegacy-compress"),
    ("lz4hc-tail", "-b1024 -zlz4hc -Eztailpacking"),
    ("lz4-fragments", "-b512 -zlz4 -Efragments --xattr-prefix=user.larder."),
    ("lz4-dedupe", "-b512 -zlz4 -C4096 -Ededupe,fragments,ztailpacking"),
    ("lzma", "-b1024 -zlzma -C8192"),
    ("lzma-fragments", "-b1024 -zlzma -C16384 -Eall-fragments"),
    ("deflate", "-b1024 -zdeflate -C4096"),
    ("deflate-tail", "-b512 -zdeflate -C4096 -Eztailpacking,dedupe"),
    ("zstd", "-b1024 -zzstd -C8192"),
    ("zstd-dirs", "-b512 -zzstd -C8192 -Efragments --zD=1"),
    ("two-codecs", "-b1024 -zlz4:zstd -C4096"),
    ("wide-records", "-b1024 -E48bit -zzstd -C8192"),
    ("wide-capped", "-b1024 -E48bit -zlz4 -C4096 --max-extent-bytes=4096"),
    ("wide-fragments", "-b512 -E48bit -zdeflate -C4096 -Efragments,dedupe"),
    ("metabox", "-b1024 -m1024 -zlz4"),
    (
        "metabox-zstd",
        "-b512 -m4096:zstd -zzstd -C4096 -Eall-fragments,dot-omitted --xattr-prefix=user.larder.",
    ),
];

/// The bytes of a golden image.
///
/// # Panics
///
/// When there is none of that name: a fault of the test.
pub fn image(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/golden/{name}.img", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
