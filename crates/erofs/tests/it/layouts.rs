//! Layouts and features that the tools at hand do not make, one image each.

use larder_erofs::{
    Compat, DeviceId, DeviceMode, Error, Extent, ExtentKind, FileType, Image, Incompat, Layout, LogicalAddr,
    PhysicalAddr, Xattr,
};

use crate::support::crafted::{BLOCK, Crafted, dir_block, inode, nid};

const REGULAR: u16 = 0o100_644;
const AT: usize = 2 * BLOCK;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2 << 1;
const CHUNK_BASED: u16 = 4 << 1;
const BIT_4: u16 = 1 << 4;

fn at(at: u64) -> LogicalAddr {
    LogicalAddr::new(at)
}

fn meta(start: u64, len: u64, pa: u64) -> Extent {
    Extent { start: at(start), len, kind: ExtentKind::Meta { pa: PhysicalAddr::new(pa) } }
}

fn device(start: u64, len: u64, id: u16, pa: u64) -> Extent {
    let kind = ExtentKind::Device { device: DeviceId::new(id), pa: PhysicalAddr::new(pa) };
    Extent { start: at(start), len, kind }
}

fn hole(start: u64, len: u64) -> Extent {
    Extent { start: at(start), len, kind: ExtentKind::Hole }
}

fn map(image: &Image, place: u64) -> Extent {
    image.map(&inode(image, AT), at(place)).expect("sound")
}

#[test]
fn a_directory_without_a_dot_shows_one_after_all_others() {
    let listing = dir_block(&[(b"!", 1, 64), (b"..", 2, BLOCK), (b"a", 2, AT)]);
    for compact in [true, false] {
        let mut image = Crafted::new(Incompat::BITS_48.bits(), 4, &[(b"dir", 2, AT)]);
        if compact {
            let size = u32::try_from(listing.len()).expect("small");
            image.compact(AT, FLAT_INLINE | BIT_4, 0o040_755, 3, size, 0);
            image.put(AT + 32, &listing);
        } else {
            image.extended(AT, FLAT_INLINE | BIT_4, 0o040_755, listing.len() as u64, 0);
            image.put(AT + 64, &listing);
        }
        let image = image.open();
        let dir = inode(&image, AT);
        assert_eq!(dir.nlink, if compact { 3 } else { 1 });
        let names: Vec<_> = image
            .read_dir(&dir)
            .expect("a directory")
            .map(|entry| entry.expect("sound"))
            .map(|entry| (entry.name, entry.next))
            .collect();
        assert_eq!(
            names.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>(),
            [b"!".as_slice(), b"..", b"a", b"."]
        );
        let after = |cookie| image.read_dir_from(&dir, cookie).expect("a directory").next();
        assert_eq!(after(names[2].1).expect("the dot").expect("sound").name, b".");
        assert!(after(names[3].1).is_none());
        assert_eq!(image.lookup(&dir, b".").expect("sound").expect("present").nid, dir.nid);
        assert_eq!(image.lookup(&dir, b"b").expect("sound"), None);
    }
}

#[test]
fn the_root_number_may_have_sixty_four_bits() {
    let mut image = Crafted::new(Incompat::BITS_48.bits(), 4, &[]);
    image.sb(14, &7_u16.to_le_bytes());
    image.sb(112, &128_u64.to_le_bytes());
    let image = image.open();
    assert_eq!((image.root(), image.superblock().blocks), (nid(BLOCK), 7 << 32 | 4));
}

#[test]
fn an_address_without_device_is_looked_up_in_the_unified_space() {
    let mut image = Crafted::new(Incompat::DEVICE_TABLE.bits(), 4, &[]);
    image.devices(&[(3, 10), (0, 0), (5, 13)]);
    image.extended(AT, FLAT_PLAIN, REGULAR, 9 * 4096, 11);
    let bytes = image.0.clone();
    let image = image.open();
    assert_eq!(map(&image, 0), device(0, 2 * 4096, 1, 4096), "cut where the device ends");
    assert_eq!(map(&image, 2 * 4096 + 5), device(2 * 4096 + 5, 5 * 4096 - 5, 3, 5));
    assert_eq!(map(&image, 7 * 4096), meta(7 * 4096, 2 * 4096, 18 * 4096), "beyond all devices");

    let flat = Image::open_with(bytes, DeviceMode::Flat).expect("sound");
    assert_eq!(map(&flat, 0), meta(0, 9 * 4096, 11 * 4096));
}

#[test]
fn chunk_indexes_name_their_device_under_a_mask() {
    let incompat = Incompat::DEVICE_TABLE | Incompat::CHUNKED_FILE;
    let mut image = Crafted::new(incompat.bits(), 4, &[]);
    image.devices(&[(100, 1000), (100, 2000)]);
    // Five chunks of two blocks: two in one run, a hole, device 2 with upper bits, an unknown device.
    image.extended(AT, CHUNK_BASED, REGULAR, 4 * 8192 + 1, 0x21);
    let entry =
        |id: u16, block: u32| [[0xaa, 0xaa].as_slice(), &id.to_le_bytes(), &block.to_le_bytes()].concat();
    let table = [entry(1, 6), entry(1, 8), entry(1, u32::MAX), entry(0xfff2, 0), entry(3, 0)].concat();
    image.put(AT + 64, &table);
    let bytes = image.0.clone();
    let image = image.open();
    assert_eq!(map(&image, 0), device(0, 2 * 8192, 1, 6 * 4096));
    assert_eq!(map(&image, 8191), device(8191, 8193, 1, 6 * 4096 + 8191));
    assert_eq!(map(&image, 2 * 8192), hole(2 * 8192, 8192));
    assert_eq!(map(&image, 3 * 8192), device(3 * 8192, 8192, 2, 0));
    let error = image.map(&inode(&image, AT), at(4 * 8192)).expect_err("no such device");
    assert!(matches!(error, Error::UnknownDevice { .. }), "{error}");
    assert_eq!(map(&image, 4 * 8192 + 1), hole(4 * 8192 + 1, 0), "the end");

    let flat = Image::open_with(bytes, DeviceMode::Flat).expect("sound");
    assert_eq!(map(&flat, 3 * 8192), meta(3 * 8192, 8192, 2000 * 4096));
}

#[test]
fn wide_chunk_indexes_have_forty_eight_bits() {
    let incompat = Incompat::DEVICE_TABLE | Incompat::CHUNKED_FILE | Incompat::BITS_48;
    let mut image = Crafted::new(incompat.bits(), 4, &[]);
    image.devices(&[(1 << 40, 1 << 33)]);
    image.extended(AT, CHUNK_BASED, REGULAR, 2 * 4096, 0x60);
    image.put(AT + 64, &[2, 0, 1, 0, 5, 0, 0, 0]);
    image.put(AT + 72, &[0xff; 8]);
    let image = image.open();
    assert_eq!(image.devices()[0].uniaddr, 1 << 33);
    assert_eq!(map(&image, 0), device(0, 4096, 1, (2 << 32 | 5) * 4096));
    assert_eq!(map(&image, 4096), hole(4096, 4096));
}

#[test]
fn block_maps_have_no_device() {
    let incompat = Incompat::DEVICE_TABLE | Incompat::CHUNKED_FILE;
    let mut image = Crafted::new(incompat.bits(), 4, &[]);
    image.devices(&[(4, 100)]);
    image.compact(AT, CHUNK_BASED, REGULAR, 1, 3 * 4096, 0);
    image.put(AT + 32, &[3_u32, 101, u32::MAX].map(u32::to_le_bytes).concat());
    let image = image.open();
    assert_eq!(map(&image, 0), meta(0, 4096, 3 * 4096));
    assert_eq!(map(&image, 4096), device(4096, 4096, 1, 4096));
    assert_eq!(map(&image, 8192), hole(8192, 4096));
}

#[test]
fn a_compact_inode_with_one_link_has_a_high_half() {
    let mut image = Crafted::new(Incompat::BITS_48.bits(), 4, &[]);
    image.compact(AT, FLAT_PLAIN | BIT_4, REGULAR, 3, 4096, 9);
    let wide = image.open();
    assert_eq!(inode(&wide, AT).nlink, 1);
    assert_eq!(map(&wide, 0), meta(0, 4096, (3 << 32 | 9) * 4096));
    image.compact(AT, FLAT_PLAIN, REGULAR, 3, 4096, 9);
    let short = image.open();
    assert_eq!(inode(&short, AT).nlink, 3);
    assert_eq!(map(&short, 0), meta(0, 4096, 9 * 4096));
    image.compact(AT, FLAT_PLAIN, REGULAR, 3, 4096, u32::MAX);
    assert_eq!(map(&image.open(), 1), hole(1, 4095));
}

#[test]
fn times_of_compact_inodes_count_from_the_epoch() {
    let mut image = Crafted::new(0, 4, &[]);
    image.sb(24, &(-5_i64).to_le_bytes());
    image.sb(32, &77_u32.to_le_bytes());
    image.compact(AT, FLAT_PLAIN, REGULAR, 1, 0, 0);
    image.put(AT + 12, &u32::MAX.to_le_bytes());
    let mtime = inode(&image.open(), AT).mtime;
    assert_eq!((mtime.seconds, mtime.nanoseconds), (i64::from(u32::MAX) - 5, 77));
}

#[test]
fn an_inode_may_cross_a_block_but_its_inline_data_may_not() {
    let mut image = Crafted::new(0, 5, &[]);
    let crossing = 3 * BLOCK - 32;
    image.extended(crossing, FLAT_INLINE, REGULAR, 10, 0);
    let opened = image.open();
    let place = opened.map(&inode(&opened, crossing), at(3)).expect("sound");
    assert_eq!(place, meta(3, 7, 3 * BLOCK as u64 + 32 + 3));

    let tail_crosses = 3 * BLOCK - 96;
    image.extended(tail_crosses, FLAT_INLINE, REGULAR, 33, 0);
    let opened = image.open();
    let error = opened.map(&inode(&opened, tail_crosses), at(0)).expect_err("the tail crosses");
    assert!(matches!(error, Error::InlineCrossesBlock { .. }), "{error}");
}

#[test]
fn a_whole_block_may_be_inline_when_it_begins_one() {
    let mut image = Crafted::new(0, 5, &[]);
    let before = 3 * BLOCK - 64;
    image.extended(before, FLAT_INLINE, REGULAR, 2 * 4096, 4);
    let image = image.open();
    let file = inode(&image, before);
    assert_eq!(image.map(&file, at(0)).expect("sound"), meta(0, 4096, 4 * 4096));
    assert_eq!(image.map(&file, at(4096)).expect("sound"), meta(4096, 4096, 3 * 4096));
}

#[test]
fn long_prefixes_are_part_of_the_name() {
    let mut image = Crafted::new(Incompat::XATTR_PREFIXES.bits(), 4, &[]);
    image.sb(8, &(Compat::PLAIN_XATTR_PFX | Compat::XATTR_FILTER).bits().to_le_bytes());
    image.sb(91, &[2]);
    image.sb(92, &(3 * 1024_u32).to_le_bytes());
    // `trusted.overlay.` at byte 3 * 4096, then `user.` with nothing behind it.
    image.put(3 * BLOCK, &[9, 0, 4]);
    image.put(3 * BLOCK + 3, b"overlay.");
    image.put(3 * BLOCK + 12, &[1, 0, 1]);
    image.compact(AT, FLAT_PLAIN, REGULAR, 1, 0, 0);
    let entry = |index: u8, name: &[u8], value: &[u8]| {
        let mut entry = vec![u8::try_from(name.len()).expect("short"), index];
        entry.extend(u16::try_from(value.len()).expect("short").to_le_bytes());
        entry.extend([name, value].concat());
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    };
    let entries = [
        entry(0x80, b"opaque", b"y"),
        entry(0x81, b"a", b""),
        entry(0x82, b"unknown", b""),
        entry(5, b"x", b""),
    ];
    let body = [[0; 12].as_slice(), &entries.concat()].concat();
    image.put(AT + 2, &u16::try_from((body.len() - 8) / 4).expect("small").to_le_bytes());
    image.put(AT + 32, &body);
    let image = image.open();
    let file = inode(&image, AT);
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.to_vec() };
    let expected = [xattr("trusted.overlay.opaque", b"y"), xattr("user.a", b"")];
    assert_eq!(image.xattrs(&file).expect("sound"), expected);
    for Xattr { name, value } in expected {
        assert_eq!(image.xattr(&file, &name).expect("sound"), Some(value));
    }
    for absent in [b"trusted.opaque".as_slice(), b"trusted.overlay.", b"lustre.x", b"user.", b"nothing"] {
        assert_eq!(image.xattr(&file, absent).expect("sound"), None);
    }
}

#[test]
fn the_name_filter_is_believed_unless_it_is_reserved() {
    let mut image = Crafted::new(0, 4, &[]);
    image.sb(8, &Compat::XATTR_FILTER.bits().to_le_bytes());
    image.compact(AT, FLAT_PLAIN, REGULAR, 1, 0, 0);
    image.put(AT + 2, &3_u16.to_le_bytes());
    // The filter says that nothing is here; the entry says otherwise.
    image.put(AT + 32, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, b'a', b'v', 0, 0]);
    let lookup = |image: &Image| image.xattr(&inode(image, AT), b"user.a").expect("sound");
    assert_eq!(lookup(&image.open()), None);
    image.sb(104, &[1]);
    assert_eq!(lookup(&image.open()), Some(b"v".to_vec()));
}

#[test]
fn what_the_kernel_refuses_in_an_inode_is_refused() {
    let verdict = |change: &dyn Fn(&mut Crafted)| {
        let mut image = Crafted::new(0, 4, &[]);
        image.extended(AT, FLAT_PLAIN, REGULAR, 1, 0);
        change(&mut image);
        image.open().inode(nid(AT)).expect_err("refused")
    };
    assert!(matches!(verdict(&|image| image.put(AT, &[0x21])), Error::InodeFormat { .. }));
    assert!(matches!(verdict(&|image| image.put(AT + 1, &[0x80])), Error::InodeFormat { .. }));
    assert!(matches!(verdict(&|image| image.put(AT, &[5 << 1])), Error::DataLayout { found: 5, .. }));
    assert!(matches!(verdict(&|image| image.put(AT + 2, &[1])), Error::XattrCount { .. }));
    assert!(matches!(verdict(&|image| image.put(AT + 4, &[0, 0])), Error::Mode { .. }));
    assert!(matches!(verdict(&|image| image.put(AT + 15, &[0x80])), Error::FileSize { .. }));
    let chunks = |image: &mut Crafted| image.extended(AT, CHUNK_BASED, REGULAR, 1, 0x80);
    assert!(matches!(verdict(&chunks), Error::ChunkFormat { found: 0x80, .. }));
}

#[test]
fn a_file_where_a_directory_is_needed_is_an_error_or_absent() {
    let mut image = Crafted::new(0, 4, &[(b"file", 1, AT)]);
    image.extended(AT, FLAT_PLAIN, REGULAR, 0, 0);
    let opened = image.open();
    let file = inode(&opened, AT);
    assert_eq!((file.kind, file.layout), (FileType::Regular, Layout::FlatPlain));
    assert!(matches!(opened.lookup(&file, b"x"), Err(Error::NotDirectory { .. })));
    assert!(matches!(opened.read_dir(&file), Err(Error::NotDirectory { .. })));
    assert!(matches!(opened.read_link(&file), Err(Error::NotSymlink { .. })));
    assert_eq!(opened.resolve(b"/file").expect("sound"), Some(file.nid));
    assert_eq!(opened.resolve(b"file/x").expect("sound"), None);
    assert_eq!(opened.resolve(b"/./../").expect("sound"), Some(opened.root()));

    image.sb(14, &(u16::try_from(AT / 32).expect("small")).to_le_bytes());
    assert!(matches!(Image::open(image.0), Err(Error::RootNotDirectory { .. })));
}

#[test]
fn a_device_table_past_the_end_is_refused_before_it_is_read() {
    let mut image = Crafted::new(Incompat::DEVICE_TABLE.bits(), 4, &[]);
    image.sb(86, &u16::MAX.to_le_bytes());
    image.sb(88, &u16::MAX.to_le_bytes());
    assert!(matches!(Image::open(image.0), Err(Error::DeviceTable { count: u16::MAX, .. })));
}

#[test]
fn a_directory_on_a_device_is_refused_by_name() {
    let mut image = Crafted::new(Incompat::DEVICE_TABLE.bits(), 4, &[]);
    image.devices(&[(10, 100)]);
    image.extended(AT, FLAT_PLAIN, 0o040_755, 4096, 100);
    let image = image.open();
    let error = image.lookup(&inode(&image, AT), b"x").expect_err("elsewhere");
    assert!(matches!(error, Error::MetadataOnDevice { .. }), "{error}");
}
