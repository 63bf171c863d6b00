//! Images that mkfs.erofs 1.9.4 wrote, kept with the code, read as the tree they were made from.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use larder_erofs::{
    ByteRange, Codec, DeviceId, DeviceMode, DeviceRange, Error, ExtentKind, FileType, Image, LogicalAddr,
    MetaSource, PhysicalAddr, SourceError,
};
use larder_erofs_fuzz::{corpus, golden};

use crate::support::list_image;

/// The images whose codecs this build has.
fn readable() -> impl Iterator<Item = &'static str> {
    let built = |options: &str| {
        Codec::ALL.into_iter().all(|codec| codec.is_built() || !options.contains(codec.name()))
    };
    golden::RECIPES.into_iter().filter(move |(_, options)| built(options)).map(|(name, _)| name)
}

#[test]
fn every_golden_image_holds_the_small_tree() {
    for name in readable() {
        let image = Image::open(golden::image(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let listing = list_image(&image, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (path, bytes) in corpus::small_files() {
            let object = &listing[path.as_bytes()];
            assert_eq!((object.kind, object.size), (FileType::Regular, bytes.len() as u64), "{name}: {path}");
            assert!(object.data == bytes, "{name}: {path}: contents differ");
        }
        assert_eq!(listing[b"link".as_slice()].data, b"a/text", "{name}");
        let names: Vec<_> =
            listing[b"a".as_slice()].xattrs.iter().map(|xattr| xattr.name.as_slice()).collect();
        assert_eq!(names, [b"user.larder.one".as_slice(), b"user.own"], "{name}");
        assert_eq!(listing.len(), corpus::small_files().len() + 4, "{name}: and no others");
    }
}

#[test]
fn another_reader_finds_the_same() {
    use erofs_rs::backend::SliceImage;
    for name in readable() {
        let bytes = golden::image(name);
        let other =
            erofs_rs::EroFS::new(SliceImage::new(&bytes)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let image = Image::open(bytes.clone()).expect("sound");
        let mut files = 0;
        for entry in image.walk() {
            let entry = entry.expect("sound");
            let at = format!("{name}: {}", String::from_utf8_lossy(&entry.path));
            let theirs =
                other.get_inode(entry.inode.nid.get()).unwrap_or_else(|error| panic!("{at}: {error}"));
            let xattrs = image.xattrs(&entry.inode).expect("sound");
            let found = other.xattrs_inode(theirs).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert!(found.into_iter().eq(sorted(xattrs)), "{at}: attributes differ");
            assert_eq!(theirs.data_size(), entry.inode.size, "{at}");
            if entry.inode.kind != FileType::Regular {
                continue;
            }
            let mut ours = vec![0; usize::try_from(entry.inode.size).expect("small")];
            image
                .read_exact_at(&entry.inode, LogicalAddr::new(0), &mut ours, &mut |_, _, _| Ok(()))
                .expect("sound");
            let file = other.open_inode_file(theirs).unwrap_or_else(|error| panic!("{at}: {error}"));
            let mut found = vec![0; ours.len()];
            let mut done = 0;
            while done < found.len() {
                let len = file.read_at(&mut found[done..], done as u64);
                done += len.unwrap_or_else(|error| panic!("{at}: {error}")).max(1);
            }
            assert!(found == ours, "{at}: contents differ");
            files += 1;
        }
        assert_eq!(files, corpus::small_files().len(), "{name}");
    }
}

/// Attributes by name, as the other reader has them.
fn sorted(xattrs: Vec<larder_erofs::Xattr>) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect()
}

#[test]
fn any_piece_of_a_file_is_that_piece_of_the_whole() {
    for name in readable() {
        let image = Image::open(golden::image(name)).expect("sound").with_cluster_cache(16_384);
        for (path, bytes) in corpus::small_files() {
            let nid = image.resolve(path.as_bytes()).expect("sound").expect("present");
            let inode = image.inode(nid).expect("sound");
            let mut places = corpus::numbers(bytes.len() as u64 + 1);
            for _ in 0..40.min(bytes.len()) {
                let mut place = |limit: usize| {
                    usize::try_from(places.next().expect("endless") >> 8).expect("64 bits") % limit
                };
                let start = place(bytes.len());
                let len = place(bytes.len() - start) + 1;
                let mut piece = vec![0xaa; len];
                let at = LogicalAddr::new(start as u64);
                image
                    .read_exact_at(&inode, at, &mut piece, &mut |_, _, _| unreachable!("no devices"))
                    .unwrap_or_else(|error| panic!("{name}: {path} at {start}: {error}"));
                assert!(piece == bytes[start..start + len], "{name}: {path}: {len} bytes at {start}");
            }
        }
    }
}

#[test]
fn no_byte_of_a_buffer_stays_as_it_was_whatever_is_damaged() {
    let (mut sound, mut damaged) = (0, 0);
    for name in readable() {
        let whole = golden::image(name);
        let mut numbers = corpus::numbers(whole.len() as u64);
        let mut place =
            |limit: usize| usize::try_from(numbers.next().expect("endless") >> 8).expect("64 bits") % limit;
        for _ in 0..12 {
            let mut bytes = whole.clone();
            let at = place(bytes.len());
            bytes[at] ^= 1 << place(8);
            // Twice: what one reader has decoded the other does not know.
            let open =
                || Image::open_unverified(bytes.clone(), DeviceMode::Flat).ok().map(|(image, _)| image);
            let (Some(first), Some(second)) = (open(), open()) else { continue };
            for (path, contents) in corpus::small_files() {
                let read = |image: &Image, before: u8| {
                    let inode = image.inode(image.resolve(path.as_bytes()).ok()??).ok()?;
                    let mut buf = vec![before; contents.len().min(usize::try_from(inode.size).ok()?)];
                    let at = LogicalAddr::new(0);
                    let read =
                        image.read_exact_at(&inode, at, &mut buf, &mut |_, _, _| unreachable!("no devices"));
                    read.ok().map(|()| buf)
                };
                let (ours, theirs) = (read(&first, 0), read(&second, 0xa5));
                assert!(ours == theirs, "{name}: {path} with bit {at} changed");
                sound += usize::from(ours.is_some());
                damaged += usize::from(ours.is_none());
            }
        }
    }
    assert!(sound > 500 && damaged > 20, "{sound} {damaged}");
}

#[test]
fn the_extents_of_a_file_tile_it() {
    let mut kinds = [0; 3];
    for name in readable() {
        let image = Image::open(golden::image(name)).expect("sound");
        for (path, bytes) in corpus::small_files() {
            let nid = image.resolve(path.as_bytes()).expect("sound").expect("present");
            let inode = image.inode(nid).expect("sound");
            let mut at = 0;
            while at < bytes.len() as u64 {
                let extent = image.map(&inode, LogicalAddr::new(at)).expect("sound");
                assert!(extent.start.get() == at && extent.len > 0, "{name}: {path}: {extent:?}");
                match extent.kind {
                    ExtentKind::Meta { .. } => kinds[0] += 1,
                    ExtentKind::Encoded(encoded) => {
                        kinds[1] += 1;
                        assert!(u64::from(encoded.skip) + extent.len <= encoded.decoded.into(), "{extent:?}");
                    }
                    ExtentKind::Hole => kinds[2] += 1,
                    ExtentKind::Device { .. } => panic!("{name}: {path}: no such device"),
                }
                at += extent.len;
            }
            assert_eq!(at, bytes.len() as u64, "{name}: {path}");
        }
    }
    assert!(kinds[0] > 50 && kinds[1] > 100, "plain and encoded extents both occur: {kinds:?}");
}

/// A source that has nothing at first, and brings blocks of 512 bytes when it is told to.
struct Patchy {
    bytes: Vec<u8>,
    present: Mutex<Vec<bool>>,
    refused: AtomicUsize,
}

impl Patchy {
    const BLOCK: usize = 512;

    fn new(bytes: Vec<u8>) -> Self {
        let blocks = bytes.len().div_ceil(Self::BLOCK);
        Self { bytes, present: Mutex::new(vec![false; blocks]), refused: AtomicUsize::new(0) }
    }

    fn bring(&self, ranges: &[DeviceRange]) {
        let mut present = self.present.lock().expect("whole");
        for range in ranges {
            assert_eq!(range.device, DeviceId::PRIMARY);
            let start = usize::try_from(range.bytes.start.get()).expect("small") / Self::BLOCK;
            let len = usize::try_from(range.bytes.len).expect("small").div_ceil(Self::BLOCK);
            let fresh = present[start..start + len].iter().filter(|&&present| !present).count();
            assert_eq!(fresh, len, "only what was missing is asked for");
            present[start..start + len].fill(true);
        }
    }
}

impl MetaSource for Patchy {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        let present = self.present.lock().expect("whole");
        let start = usize::try_from(at.get()).expect("small");
        let end = start + buf.len();
        if end > self.bytes.len() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let missing: Vec<ByteRange> = (start / Self::BLOCK..end.div_ceil(Self::BLOCK))
            .filter(|&block| !present[block])
            .map(|block| ByteRange {
                start: PhysicalAddr::new((block * Self::BLOCK) as u64),
                len: (Self::BLOCK.min(self.bytes.len() - block * Self::BLOCK)) as u64,
            })
            .collect();
        if !missing.is_empty() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(SourceError::NotHere(missing));
        }
        buf.copy_from_slice(&self.bytes[start..end]);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Tries until the source has brought everything that was missing.
fn bring_until<T>(source: &Patchy, mut attempt: impl FnMut() -> Result<T, Error>) -> (T, usize) {
    for round in 0..1000 {
        match attempt() {
            Err(Error::NotHere { ranges }) => source.bring(&ranges),
            result => return (result.unwrap_or_else(|error| panic!("{error}")), round),
        }
    }
    panic!("a thousand rounds are not enough");
}

#[test]
fn what_is_not_here_yet_is_named_and_the_same_call_goes_on_when_it_was_brought() {
    for name in readable() {
        let source = Arc::new(Patchy::new(golden::image(name)));
        let (image, _) = bring_until(&source, || Image::open(Arc::clone(&source)));
        let mut rounds_most = 0;
        for (path, bytes) in corpus::small_files() {
            let (nid, _) = bring_until(&source, || image.resolve(path.as_bytes()));
            let (inode, _) = bring_until(&source, || image.inode(nid.expect("present")));
            let mut data = vec![0; bytes.len()];
            let at = LogicalAddr::new(0);
            let (_, rounds) = bring_until(&source, || {
                image.read_exact_at(&inode, at, &mut data, &mut |_, _, _| unreachable!("no devices"))
            });
            assert!(data == bytes, "{name}: {path}: contents differ");
            rounds_most = rounds_most.max(rounds);
        }
        let pieces = source.bytes.len() / Patchy::BLOCK;
        assert!(
            source.refused.load(Ordering::Relaxed) > 0 && rounds_most < pieces / 4,
            "{name}: {rounds_most}"
        );
    }
}
