//! The matrix of options, in the words of mkfs.erofs.

use larder_erofs::Incompat;
use larder_erofs::writer::{Compressor, Fragments, Hint, ImageOptions, InodeForm, Times};

use crate::support::Listing;

/// Options, one line each; `hints` leaves some files alone and chooses another codec for others.
pub const RECIPES: &[&str] = &[
    "",
    "-Enoinline_data",
    "-Eforce-inode-extended",
    "-Eforce-inode-compact",
    "-Enosbcrc",
    "-T1600000000",
    "-x1",
    "-x1000",
    "-b512",
    "-b1024",
    "-b2048",
    "--chunksize=4096",
    "--chunksize=65536",
    "--chunksize=1048576 -b1024",
    "-zlz4",
    "-zlz4 -Elegacy-compress",
    "-zlz4hc",
    "-zlz4hc,12",
    "-zlz4 -C16384",
    "-zlz4 -C65536",
    "-zlz4hc -C1048576",
    "-zlz4 -C65536 -Elegacy-compress",
    "-zlz4 -C65536 --max-extent-bytes=65536",
    "-zlz4 -C16384 -Enoinline_data",
    "-zlz4 -b512",
    "-zlz4 -b1024 -C16384",
    "-zlz4 -b512 -C131072 -Elegacy-compress",
    "-zlz4 -Eforce-inode-extended -C8192",
    "-zlzma",
    "-zlzma,level=9 -C65536",
    "-zlzma,level=1,dictsize=65536 -C1048576",
    "-zlzma,lc=2,lp=2,pb=0 -C32768",
    "-zlzma -b2048 -C16384",
    "-zdeflate",
    "-zdeflate,level=9 -C65536",
    "-zdeflate,level=12 -C32768 -Elegacy-compress",
    "-zdeflate,level=6",
    "-zdeflate -b512 -C4096",
    "-zzstd",
    "-zzstd,level=1 -C16384",
    "-zzstd,level=3 -C65536",
    "-zzstd,level=9 -C65536",
    "-zzstd,level=19 -C1048576",
    "-zzstd,level=3,dictsize=32768 -C32768",
    "-zzstd -b1024 -C8192",
    "-zlz4:zstd -C65536 hints",
    "-zlz4hc:lzma:deflate:zstd -C16384 hints",
    "-zzstd:lz4 -Eztailpacking hints",
    "-zlz4 -Eztailpacking",
    "-zlz4 -Eztailpacking -Elegacy-compress",
    "-zlz4 -C16384 -Eztailpacking -b1024",
    "-zzstd -C65536 -Eztailpacking",
    "-zlzma -C32768 -Eztailpacking",
    "-zdeflate -Eztailpacking -b512",
    "-zlz4 -Efragments",
    "-zlz4 -Efragments -Elegacy-compress",
    "-zlz4hc -C65536 -Efragments",
    "-zzstd -C65536 -Efragments",
    "-zzstd -Eall-fragments",
    "-zlzma -C1048576 -Eall-fragments",
    "-zdeflate -C65536 -Eall-fragments",
    "-zlz4 -Ededupe",
    "-zlz4 -C16384 -Ededupe",
    "-zzstd -C65536 -Ededupe",
    "-zlzma -C65536 -Ededupe",
    "-zdeflate -C16384 -Ededupe",
    "-zlz4hc -C65536 -Ededupe,fragments,ztailpacking",
    "-zzstd -C65536 -Ededupe,all-fragments",
    "-zlz4 -b512 -Ededupe,fragments",
    "-E48bit",
    "-E48bit --chunksize=65536",
    "-E48bit -zlz4",
    "-E48bit -zlz4hc -C65536 -b1024",
    "-E48bit -zzstd -C65536",
    "-E48bit -zlzma -C32768 -Eztailpacking",
    "-E48bit -zdeflate -C16384 -Efragments",
    "-E48bit -zzstd -C65536 -Ededupe,all-fragments",
    "-E48bit -zlz4 -b512 -Elegacy-compress",
    "-m4096",
    "-m4096 -zlz4",
    "-m1024 -b1024 -zlz4hc -Eztailpacking",
    "-m65536 -zzstd -C65536 -Eall-fragments",
    "-m16384 -zlzma -C32768 -Ededupe,fragments",
    "-m4096:zstd -zlz4:zstd hints",
    "-m8192:deflate -zlz4:deflate -b512 -C4096 -Enoinline_data",
    "-m4096 --chunksize=65536 -Eforce-inode-extended",
];

/// Reads a line of the matrix.
pub fn parse(recipe: &str) -> ImageOptions<'static> {
    let (mut options, mut metabox_of) = (ImageOptions::default(), None);
    for word in recipe.split_whitespace() {
        let number =
            |prefix: &str| word.strip_prefix(prefix).map(|number| number.parse::<u64>().expect(word));
        if let Some(names) = word.strip_prefix("-z") {
            options.compressors = names.split(':').map(|name| name.parse().expect(word)).collect();
        } else if let Some(words) = word.strip_prefix("-E") {
            words.split(',').for_each(|word| extended(&mut options, word));
        } else if let Some(bytes) = number("-C") {
            options.pcluster_bytes = u32::try_from(bytes).expect(word);
        } else if let Some(bytes) = number("--max-extent-bytes=") {
            options.extent_bytes_max = u32::try_from(bytes).expect(word);
        } else if let Some(bytes) = number("-b") {
            options.block_bits = u8::try_from(bytes.ilog2()).expect(word);
        } else if let Some(uses) = number("-x") {
            options.shared_xattr_uses = u32::try_from(uses).expect(word);
        } else if let Some(bytes) = number("--chunksize=") {
            options.chunk_bits = u8::try_from(bytes.ilog2()).expect(word);
        } else if let Some(seconds) = number("-T") {
            options.times = Times::All(i64::try_from(seconds).expect(word));
        } else if let Some(metabox) = word.strip_prefix("-m") {
            let (bytes, codec) =
                metabox.split_once(':').map_or((metabox, None), |(b, codec)| (b, Some(codec)));
            metabox_of = Some((bytes.parse().expect(word), codec));
        } else if word == "hints" {
            options.hints = Some(&hints);
            options.pcluster_bytes_max = 1 << 20;
        } else {
            panic!("{word} is no option of the matrix");
        }
    }
    options.metabox = metabox_of.map(|(pcluster_bytes, codec)| {
        let named = |name| options.compressors.iter().position(|one: &Compressor| one.name() == name);
        Hint { compressor: Some(codec.map_or(0, |name| named(name).expect("among -z"))), pcluster_bytes }
    });
    options
}

fn extended(options: &mut ImageOptions<'_>, word: &str) {
    match word {
        "noinline_data" => options.inline_data = false,
        "force-inode-extended" => options.inode_form = InodeForm::Extended,
        "force-inode-compact" => options.inode_form = InodeForm::Compact,
        "nosbcrc" => options.checksum = false,
        "legacy-compress" => options.legacy_indexes = true,
        "ztailpacking" => options.tail_packing = true,
        "fragments" => options.fragments = Fragments::Tails,
        "all-fragments" => options.fragments = Fragments::All,
        "dedupe" => options.dedupe = true,
        "48bit" => options.wide = true,
        _ => panic!("{word} is no option of the matrix"),
    }
}

/// Leaves noise alone; the other files take the compressors in turn, by the length of their name.
fn hints(path: &[u8]) -> Hint {
    if path.starts_with(b"noise") {
        return Hint { compressor: None, pcluster_bytes: 0 };
    }
    let pcluster_bytes = if path.starts_with(b"text") { 32768 } else { 0 };
    Hint { compressor: Some(path.len() % 2), pcluster_bytes }
}

/// The features that a line asks for.
pub fn features(recipe: &str) -> Incompat {
    let mut features = Incompat::empty();
    features.set(Incompat::LZ4_0PADDING, recipe.contains("-z"));
    // With fragments the tails go there.
    let inline = recipe.contains("ztailpacking") && !recipe.contains("fragments");
    features.set(Incompat::ZTAILPACKING, inline);
    features.set(Incompat::FRAGMENTS, recipe.contains("fragments") || recipe.contains("dedupe"));
    features.set(Incompat::CHUNKED_FILE, recipe.contains("chunksize"));
    features.set(Incompat::METABOX, recipe.starts_with("-m"));
    features.set(Incompat::BITS_48, recipe.contains("48bit") || recipe.starts_with("-m"));
    features
}

/// The tree as an image with these options keeps it.
pub fn as_kept(host: &Listing, options: &ImageOptions<'_>) -> Listing {
    let mut kept = host.clone();
    for object in kept.values_mut() {
        match options.times {
            Times::All(seconds) => object.mtime = larder_erofs::Timestamp::new(seconds, 0),
            Times::Keep | Times::Latest(_) => {}
        }
    }
    kept
}
