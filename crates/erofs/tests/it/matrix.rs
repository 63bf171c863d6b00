//! What Debian's mkfs.erofs writes, with every option that changes the layout, reads as the tree it was made
//! from, and as the kernel shows it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use larder_erofs::{Codec, DeviceMode, Error, Image, Incompat};
use larder_erofs_fuzz::corpus;

use crate::support::kernel::Mounted;
use crate::support::mkfs::{self, Made, Mkfs};
use crate::support::{Listing, assert_same, list_host, list_image, tempdir};

/// Options of mkfs.erofs, and the features that must show in the image for them to have been heard.
///
/// With a metabox no attribute is shared (`-x1000`): Linux 6.18 and fsck.erofs 1.9.4 do not list shared attributes
/// of inodes in the metabox. We do, see the test below. `$EROFS_MATRIX` picks the rows that contain a word.
const MATRIX: &[(&str, Incompat)] = &[
    ("", Incompat::empty()),
    ("-Enoinline_data", Incompat::empty()),
    ("-Eforce-inode-extended", Incompat::empty()),
    ("-Eforce-inode-compact", Incompat::empty()),
    ("-Enosbcrc", Incompat::empty()),
    ("-b512", Incompat::empty()),
    ("-b1024", Incompat::empty()),
    ("-b2048", Incompat::empty()),
    ("-x1", Incompat::empty()),
    ("-x-1", Incompat::empty()),
    ("-Exattr-name-filter", Incompat::empty()),
    ("--xattr-prefix=user.larder.", Incompat::XATTR_PREFIXES),
    ("-Eplain-xattr-prefixes --xattr-prefix=user.larder.", Incompat::XATTR_PREFIXES),
    ("-Efragments -zlz4 --xattr-prefix=user.larder.test.", Incompat::XATTR_PREFIXES),
    ("--xattr-inode-digest=trusted.digest", Incompat::empty()),
    ("--dsunit=64", Incompat::empty()),
    ("--MZ=i", Incompat::empty()),
    ("--MZ=id", Incompat::empty()),
    ("--chunksize=4096", Incompat::CHUNKED_FILE),
    ("--chunksize=65536", Incompat::CHUNKED_FILE),
    ("--chunksize=1048576", Incompat::CHUNKED_FILE),
    ("--chunksize=4096 -Eforce-inode-blockmap", Incompat::CHUNKED_FILE),
    ("--chunksize=65536 -Eforce-chunk-indexes", Incompat::CHUNKED_FILE),
    ("-b512 --chunksize=4096", Incompat::CHUNKED_FILE),
    ("--chunksize=65536 --blobdev", Incompat::DEVICE_TABLE),
    ("--chunksize=4096 --blobdev -Eforce-chunk-indexes", Incompat::DEVICE_TABLE),
    ("-zlz4", Incompat::LZ4_0PADDING),
    ("-zlz4 -Elegacy-compress", Incompat::empty()),
    ("-zlz4hc", Incompat::LZ4_0PADDING),
    ("-zlz4hc,12", Incompat::LZ4_0PADDING),
    ("-zlz4 -C16384", Incompat::COMPR_CFGS),
    ("-zlz4 -C65536", Incompat::COMPR_CFGS),
    ("-zlz4hc -C1048576", Incompat::COMPR_CFGS),
    ("-zlz4 -C65536 -Elegacy-compress", Incompat::COMPR_CFGS),
    ("-zlz4 -C65536 --max-extent-bytes=65536", Incompat::COMPR_CFGS),
    ("-zlz4 -b512", Incompat::LZ4_0PADDING),
    ("-zlz4 -b1024 -C16384", Incompat::COMPR_CFGS),
    ("-zlzma", Incompat::COMPR_CFGS),
    ("-zlzma,level=9 -C65536", Incompat::COMPR_CFGS),
    ("-zlzma,level=1,dictsize=65536 -C1048576", Incompat::COMPR_CFGS),
    ("-zlzma,lc=2,lp=2,pb=0 -C32768", Incompat::COMPR_CFGS),
    ("-zlzma -b2048 -C16384", Incompat::COMPR_CFGS),
    ("-zdeflate", Incompat::COMPR_CFGS),
    ("-zdeflate,level=9 -C65536", Incompat::COMPR_CFGS),
    ("-zlibdeflate,level=12 -C65536", Incompat::COMPR_CFGS),
    ("-zdeflate -b512 -C4096", Incompat::COMPR_CFGS),
    ("-zzstd", Incompat::COMPR_CFGS),
    ("-zzstd,level=3 -C65536", Incompat::COMPR_CFGS),
    ("-zzstd,level=19 -C1048576", Incompat::COMPR_CFGS),
    ("-zzstd,level=3,dictsize=32768 -C32768", Incompat::COMPR_CFGS),
    ("-zzstd -b1024 -C8192", Incompat::COMPR_CFGS),
    ("-zlz4:zstd -C65536", Incompat::COMPR_CFGS),
    ("-zlz4hc:lzma:deflate:zstd -C16384", Incompat::COMPR_CFGS),
    ("-zlz4 -Eztailpacking", Incompat::ZTAILPACKING),
    ("-zlz4 -Eztailpacking -Elegacy-compress", Incompat::ZTAILPACKING),
    ("-zzstd -C65536 -Eztailpacking", Incompat::ZTAILPACKING),
    ("-zlzma -C32768 -Eztailpacking", Incompat::ZTAILPACKING),
    ("-zlz4 -Efragments", Incompat::FRAGMENTS),
    ("-zlz4hc -C65536 -Efragments=65536", Incompat::FRAGMENTS),
    ("-zzstd -C65536 -Efragments", Incompat::FRAGMENTS),
    ("-zlz4 -Eall-fragments", Incompat::FRAGMENTS),
    ("-zlzma -C1048576 -Eall-fragments", Incompat::FRAGMENTS),
    ("-zdeflate -C65536 -Eall-fragments,fragdedupe=full", Incompat::FRAGMENTS),
    ("-zlz4 -Ededupe", Incompat::FRAGMENTS),
    ("-zzstd -C65536 -Ededupe", Incompat::FRAGMENTS),
    ("-zlzma -C65536 -Ededupe", Incompat::FRAGMENTS),
    ("-zdeflate -C16384 -Ededupe", Incompat::FRAGMENTS),
    ("-zlz4hc -C65536 -Ededupe,fragments,ztailpacking", Incompat::FRAGMENTS),
    ("-zzstd -C65536 -Ededupe,all-fragments", Incompat::FRAGMENTS),
    ("-zlz4 -b512 -Ededupe,fragments", Incompat::FRAGMENTS),
    ("-E48bit", Incompat::BITS_48),
    ("-E48bit --chunksize=65536", Incompat::BITS_48),
    ("-E48bit --chunksize=65536 --blobdev", Incompat::BITS_48),
    ("-E48bit -zlz4", Incompat::BITS_48),
    ("-E48bit -zlz4hc -C65536", Incompat::BITS_48),
    ("-E48bit -zzstd -C65536", Incompat::BITS_48),
    ("-E48bit -zzstd,level=9 -C65536 --max-extent-bytes=131072", Incompat::BITS_48),
    ("-E48bit -zlzma -C32768 -Ededupe", Incompat::BITS_48),
    ("-E48bit -zdeflate -C65536 -Efragments", Incompat::BITS_48),
    ("-E48bit -zlz4 -b512 -C4096", Incompat::BITS_48),
    ("-E48bit,dot-omitted", Incompat::BITS_48),
    ("-zlz4 -Efragments --zD=1", Incompat::FRAGMENTS),
    ("-zzstd -C65536 -Efragments --zD=1", Incompat::FRAGMENTS),
    ("-m4096 -x1000", Incompat::METABOX),
    ("-m4096:zstd -zlz4 -x1000", Incompat::METABOX),
    ("-m65536:zstd -zzstd -C65536 -x1000", Incompat::METABOX),
    ("-m16384:lzma -zlzma -C32768 -Efragments -x1000", Incompat::METABOX),
    ("-m4096 -zlz4 -Eztailpacking -x1000", Incompat::METABOX),
    ("-m16384:zstd -zzstd -C65536 -Eall-fragments --zD=1 -x1000", Incompat::METABOX),
    ("-m4096:deflate -zdeflate -Ededupe --xattr-prefix=user.larder. -x1000", Incompat::METABOX),
    ("-m1024 -zlz4 -b1024 -x1000", Incompat::METABOX),
];

/// Lists an image file with our reader, its blob as a device of its own.
fn list(made: &Made) -> Result<Listing, larder_erofs::Error> {
    let image = Image::open(File::open(&made.image).expect("mkfs made it"))?;
    let blob = made.blob.as_ref().map(|blob| fs::read(blob).expect("mkfs made it"));
    list_image(&image, &blob.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Lists the blob behind the image, at its place in the unified address space: as one long device. `None` when it has
/// no place there, as with mkfs.erofs 1.5.
fn list_flat(made: &Made) -> Result<Option<Listing>, larder_erofs::Error> {
    let open = || File::options().read(true).write(true).open(&made.image).expect("mkfs made it");
    let image = Image::open_with(open(), DeviceMode::Flat)?;
    if let (Some(blob), Some(slot)) = (&made.blob, image.devices().first()) {
        let place = slot.uniaddr * image.superblock().block_size.bytes();
        if place == 0 {
            return Ok(None);
        }
        open().write_all_at(&fs::read(blob).expect("mkfs made it"), place).expect("can append");
    }
    list_image(&Image::open_with(open(), DeviceMode::Flat)?, &[]).map(Some)
}

/// Drops what an image made with these options does not keep.
fn as_kept(host: &Listing, options: &str) -> Listing {
    let mut kept = host.clone();
    for object in kept.values_mut() {
        if options.contains("-x-1") {
            object.xattrs.clear();
        }
    }
    kept
}

#[test]
fn every_layout_that_mkfs_writes_reads_as_its_source_and_as_the_kernel_shows_it() {
    let Some(mkfs) = Mkfs::find() else { return };
    let (tree, out, at) = (tempdir(), tempdir(), tempdir());
    corpus::make(tree.path());
    let host = list_host(tree.path());
    let mounts = Mounted::is_possible();
    let (mut read, mut skipped) = (0, Vec::new());
    let only = std::env::var("EROFS_MATRIX").unwrap_or_default();
    for &(options, features) in MATRIX.iter().filter(|(options, _)| options.contains(&only)) {
        match check(&mkfs, options, features, &host, tree.path(), out.path(), at.path(), mounts) {
            Ok(()) => read += 1,
            Err(reason) => skipped.push(format!("{options}: {reason}")),
        }
    }
    println!("mkfs.erofs {}: {read} of {} combinations read", mkfs.version, MATRIX.len());
    for reason in &skipped {
        eprintln!("SKIPPED with mkfs.erofs {}: {reason}", mkfs.version);
    }
    assert!(read > 0, "even the oldest mkfs.erofs writes some");
}

#[test]
fn shared_attributes_of_inodes_in_the_metabox_are_those_of_the_source() {
    let Some(mkfs) = Mkfs::find() else { return };
    let (tree, out) = (tempdir(), tempdir());
    corpus::make(tree.path());
    match mkfs.make(out.path(), tree.path(), "-m4096 -x1") {
        Ok(made) => assert_same(&list(&made).expect("readable"), &list_host(tree.path())),
        Err(reason) => eprintln!("SKIPPED with mkfs.erofs {}: {reason}", mkfs.version),
    }
}

/// Makes one image and compares it; the reason when mkfs.erofs cannot make it.
#[expect(clippy::too_many_arguments, reason = "one line of the matrix, with what all lines share")]
fn check(
    mkfs: &Mkfs,
    options: &str,
    features: Incompat,
    host: &Listing,
    tree: &Path,
    out: &Path,
    at: &Path,
    mount: bool,
) -> Result<(), String> {
    let made = mkfs.make(out, tree, options)?;
    let found = Incompat::from_bits_retain(mkfs::incompat(&fs::read(&made.image).expect("mkfs made it")));
    if !found.contains(features) {
        return Err(format!("ignored: the image has {found:?}, not {features:?}"));
    }
    eprintln!("{options}");
    if let Some(codec) =
        Codec::ALL.into_iter().find(|codec| !codec.is_built() && options.contains(codec.name()))
    {
        let error = list(&made).expect_err("the codec is switched off");
        assert!(matches!(error, Error::CodecNotBuilt { .. }) && error.hint().is_some(), "{codec}: {error}");
        return Err(format!("this build lacks codec {codec}"));
    }
    let listing = list(&made).unwrap_or_else(|error| panic!("{options}: {}", chain(&error)));
    let kernel = mount.then(|| {
        let blobs: Vec<&Path> = made.blob.iter().map(|blob| blob.as_path()).collect();
        let mounted =
            Mounted::new(&made.image, &blobs, at).unwrap_or_else(|error| panic!("{options}: {error}"));
        list_host(mounted.path())
    });
    if let Some(kernel) = kernel {
        assert_same(&listing, &kernel);
    }
    let mut listing = listing;
    if options.contains("digest") {
        listing.values_mut().for_each(|object| object.xattrs.retain(|xattr| xattr.name != b"trusted.digest"));
    }
    assert_same(&listing, &as_kept(host, options));
    if made.blob.is_some() {
        match list_flat(&made).unwrap_or_else(|error| panic!("{options}, flat: {}", chain(&error))) {
            Some(flat) => assert_same(&flat, &listing),
            None => {
                eprintln!("SKIPPED: {options}, flat: this mkfs.erofs gives blobs no place behind the image")
            }
        }
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause))).unwrap_or_default();
    format!("{error}{cause}")
}
