//! Forms of the compression index that no mkfs.erofs at hand writes, and damage to it, one image each.

use larder_erofs::{Error, ExtentKind, Image, Incompat, LogicalAddr, MapFault};

use crate::support::crafted::{BLOCK, Crafted, inode};

const REGULAR: u16 = 0o100_644;
const FULL: u16 = 1 << 1;
const COMPACT: u16 = 3 << 1;
const AT: usize = 2 * BLOCK;
/// The map header of the inode at `AT`, and what follows it.
const HEADER: usize = AT + 64;
/// First data block.
const DATA: usize = 4;

const BIG: u16 = 0x06;
const EXTENTS: u16 = 0x01;
const FRAGMENT: u16 = 0x20;
const PLAIN: u16 = 0;
const HEAD1: u16 = 1;
const NEXT: u16 = 2;
const HEAD2: u16 = 3;
const HOLE: u16 = 1 << 14;

/// An LZ4 block of literals only.
fn lz4(literals: &[u8]) -> Vec<u8> {
    let mut out =
        vec![if literals.len() < 15 { u8::try_from(literals.len()).expect("small") << 4 } else { 0xf0 }];
    let mut rest = literals.len().checked_sub(15);
    while let Some(more) = rest {
        out.push(u8::try_from(more.min(255)).expect("at most 255"));
        rest = more.checked_sub(255);
    }
    out.extend(literals);
    out
}

/// An image with one compressed file `f` of `size` bytes.
fn image(incompat: Incompat, layout: u16, size: usize, header: [u8; 8]) -> Crafted {
    let mut image = Crafted::new(incompat.bits(), 12, &[(b"f", 1, AT)]);
    image.extended(AT, layout, REGULAR, size as u64, 0);
    image.put(HEADER, &header);
    if incompat.contains(Incompat::COMPR_CFGS) {
        image.sb(84, &1_u16.to_le_bytes());
        image.put(1024 + 128, &[14, 0]);
    }
    image
}

fn header(advise: u16) -> [u8; 8] {
    let [low, high] = advise.to_le_bytes();
    [0, 0, 0, 0, low, high, 0, 0]
}

/// A full index entry: type, place in the lcluster, and block or distances.
fn entry(kind: u16, offset: u16, last: u32) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &offset.to_le_bytes(), &last.to_le_bytes()].concat()
}

fn distances(back: u16, ahead: u16) -> u32 {
    u32::from(ahead) << 16 | u32::from(back)
}

fn put_full(image: &mut Crafted, entries: &[Vec<u8>]) {
    image.put(HEADER + 16, &entries.concat());
}

/// Puts an encoded pcluster at the end of its blocks.
fn put_encoded(image: &mut Crafted, block: usize, blocks: usize, stream: &[u8]) {
    image.put((block + blocks) * BLOCK - stream.len(), stream);
}

fn read(image: &Image) -> Result<Vec<u8>, Error> {
    let file = inode(image, AT);
    let mut bytes = vec![0xaa; usize::try_from(file.size).expect("small")];
    image.read_exact_at(&file, LogicalAddr::new(0), &mut bytes, &mut |_, _, _| unreachable!("no devices"))?;
    Ok(bytes)
}

fn fault(image: &Image, at: usize) -> MapFault {
    match image.map(&inode(image, AT), LogicalAddr::new(at as u64)) {
        Err(Error::Map { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

fn block(number: usize) -> u32 {
    u32::try_from(number).expect("small")
}

#[test]
fn a_second_codec_has_heads_and_big_pclusters_of_its_own() {
    let size = 5 * BLOCK;
    let mut crafted = image(Incompat::LZ4_0PADDING | Incompat::COMPR_CFGS, FULL, size, header(0x04));
    put_full(
        &mut crafted,
        &[
            entry(HEAD1, 0, block(DATA)),
            entry(HEAD2, 100, block(DATA + 1)),
            entry(NEXT, 0, distances(0x800 | 2, 1)),
            entry(PLAIN, 50, block(DATA + 3)),
            entry(NEXT, 0, distances(0x800 | 2, 1)),
        ],
    );
    let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n * 31 % 251).expect("below")).collect();
    // Literals alone take a little more room than they are long: repeat what the first block cannot hold.
    let first = lz4(&bytes[..BLOCK - 100]);
    let mut crafted_first = first;
    crafted_first.truncate(BLOCK);
    put_encoded(&mut crafted, DATA, 1, &crafted_first);
    let (from, to) = (BLOCK + 100, 3 * BLOCK + 50);
    put_encoded(&mut crafted, DATA + 1, 2, &lz4(&bytes[from..from + 2 * BLOCK - 60]));
    crafted.put((DATA + 3) * BLOCK, &bytes[to..]);
    let opened = crafted.open();
    let map = |at: usize| opened.map(&inode(&opened, AT), LogicalAddr::new(at as u64)).expect("sound");
    let ExtentKind::Encoded(second) = map(from).kind else { panic!("encoded") };
    assert_eq!((second.len, second.skip), (block(2 * BLOCK), 0), "HEAD2 has big pclusters");
    let ExtentKind::Encoded(one) = map(5).kind else { panic!("encoded") };
    assert_eq!((one.len, one.skip), (block(BLOCK), 5), "HEAD1 has not");
    assert!(matches!(map(to).kind, ExtentKind::Meta { .. }));
    let mut piece = vec![0; size - to];
    let at = LogicalAddr::new(to as u64);
    opened.read_exact_at(&inode(&opened, AT), at, &mut piece, &mut |_, _, _| Ok(())).expect("plain");
    assert!(piece == bytes[to..], "plain bytes are the file's");
}

#[test]
fn hole_pclusters_are_zeros_by_their_bit_and_by_a_size_of_nothing() {
    let flags = Incompat::LZ4_0PADDING | Incompat::COMPR_CFGS;
    let size = 4 * BLOCK;
    let mut crafted = image(flags, FULL, size, header(BIG));
    put_full(
        &mut crafted,
        &[
            entry(HEAD1 | HOLE, 0, block(DATA)),
            entry(HEAD1, 10, block(DATA)),
            entry(NEXT, 0, distances(0x800, 1)),
            entry(HEAD1, 0, block(DATA)),
        ],
    );
    put_encoded(&mut crafted, DATA, 1, &lz4(&[7; 2000]));
    let opened = crafted.open();
    let kind = |at: usize| opened.map(&inode(&opened, AT), LogicalAddr::new(at as u64)).expect("sound");
    assert_eq!((kind(0).kind, kind(0).len), (ExtentKind::Hole, 4106));
    assert_eq!((kind(5000).kind, kind(4106).len), (ExtentKind::Hole, 2 * 4096 - 10));
    assert!(matches!(kind(3 * BLOCK).kind, ExtentKind::Encoded(_)));
}

#[test]
fn records_of_every_size_say_where_an_extent_lies() {
    let flags = Incompat::LZ4_0PADDING | Incompat::BITS_48;
    let parts = [vec![b'a'; 4096], vec![b'b'; 4096], vec![0; 4096], vec![b'c'; 1000]];
    let expected = parts.concat();
    let place = DATA * BLOCK + 37;
    let encoded = [lz4(&parts[0][..]), parts[1].clone(), Vec::new(), lz4(&parts[3])];
    let word = |part: usize, format: u32| format << 28 | u32::try_from(encoded[part].len()).expect("small");
    let words = [word(0, 1), word(1, 0), 0, word(3, 1)];
    for bits in 2..=5_u16 {
        let mut head = header(EXTENTS | (bits - 2) << 1);
        if bits > 3 {
            head[0] = 4;
        }
        let mut crafted = image(flags, FULL, expected.len(), head);
        crafted.put(place, &encoded.concat());
        let record_bytes = 1_usize << bits;
        let mut table = (HEADER + 8).next_multiple_of(record_bytes);
        if bits == 2 {
            crafted.put(table, &(place as u64).to_le_bytes());
            table += 8;
        }
        let mut at = place as u64;
        for (number, word) in words.into_iter().enumerate() {
            let position = 4096 * number as u64;
            let record =
                [&word.to_le_bytes()[..], &at.to_le_bytes(), &position.to_le_bytes(), &[0; 12]].concat();
            crafted.put(table + number * record_bytes, &record[..record_bytes]);
            at += encoded[number].len() as u64;
        }
        let opened = crafted.open();
        assert!(read(&opened).expect("sound") == expected, "records of {record_bytes} bytes");
        let tail = opened.map(&inode(&opened, AT), LogicalAddr::new(12_288 + 7)).expect("sound");
        assert_eq!(tail.len, 993);
    }
}

#[test]
fn records_out_of_order_and_addresses_without_end_are_faults() {
    let flags = Incompat::LZ4_0PADDING | Incompat::BITS_48;
    let mut head = header(EXTENTS | 2 << 1);
    head[0] = 3;
    let mut crafted = image(flags, FULL, 3 * BLOCK, head);
    let table = (HEADER + 8).next_multiple_of(16);
    for (number, position) in [0_u64, 9 * BLOCK as u64, BLOCK as u64].into_iter().enumerate() {
        let record =
            [&9000_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes(), &position.to_le_bytes()[..4]].concat();
        crafted.put(table + 16 * number, &record);
    }
    let opened = crafted.open();
    assert!(matches!(fault(&opened, 0), MapFault::RecordOrder { index: 1 }));
    crafted.put(table + 16 + 12, &512_u32.to_le_bytes());
    let error = read(&crafted.open()).expect_err("no such place");
    assert!(matches!(error, Error::AddressOverflow { .. }), "{error}");
}

#[test]
fn lookback_that_goes_nowhere_is_a_fault() {
    let mut crafted = image(Incompat::LZ4_0PADDING, FULL, 3 * BLOCK, header(0));
    for (entries, expected) in [
        ([entry(NEXT, 0, distances(1, 1)), entry(NEXT, 0, distances(1, 1))], MapFault::NoHead { lcn: 0 }),
        ([entry(HEAD1, 0, 4), entry(NEXT, 0, distances(0, 1))], MapFault::NoHead { lcn: 1 }),
        ([entry(HEAD1, 0, 4), entry(NEXT, 0, distances(2, 1))], MapFault::NoHead { lcn: 1 }),
        ([entry(HEAD1, 0, 4), entry(NEXT, 0, distances(0x801, 1))], MapFault::BlockCount { lcn: 1 }),
        ([entry(HEAD1, 0, 4), entry(HEAD1, 4096, 4)], MapFault::ClusterOffset { lcn: 1, offset: 4096 }),
        ([entry(HEAD1, 1, 4), entry(HEAD1, 4095, 4)], MapFault::NoHead { lcn: 0 }),
    ] {
        put_full(&mut crafted, &entries);
        let at = if expected == (MapFault::NoHead { lcn: 0 }) { 0 } else { BLOCK };
        assert_eq!(fault(&crafted.open(), at), expected);
    }
}

#[test]
fn regression_an_extent_that_ends_before_the_place_it_was_found_for() {
    let mut crafted = image(Incompat::LZ4_0PADDING, FULL, 3 * BLOCK, header(0));
    let next = entry(NEXT, 0, distances(2, 1));
    put_full(&mut crafted, &[entry(HEAD1, 0, 4), entry(HEAD1, 0, 5), next]);
    assert_eq!(fault(&crafted.open(), 2 * BLOCK), MapFault::Distances { lcn: 2 });
}

#[test]
fn codecs_that_the_superblock_does_not_list_are_refused() {
    let mut head = header(0);
    head[6] = 3;
    let mut crafted = image(Incompat::LZ4_0PADDING | Incompat::COMPR_CFGS, FULL, BLOCK, head);
    put_full(&mut crafted, &[entry(HEAD1, 0, 4)]);
    assert!(matches!(fault(&crafted.open(), 0), MapFault::UnlistedCodec { .. }));
    crafted.put(HEADER + 6, &[9]);
    assert_eq!(fault(&crafted.open(), 0), MapFault::UnknownCodec { number: 9 });
}

#[test]
fn fragments_need_a_packed_inode_that_is_not_the_file_itself() {
    let mut crafted = image(Incompat::LZ4_0PADDING, COMPACT, 100, [0, 0, 0, 0, 0, 0, 0, 0x80]);
    assert_eq!(fault(&crafted.open(), 0), MapFault::NoPacked);
    crafted.sb(80, &(Incompat::LZ4_0PADDING | Incompat::FRAGMENTS).bits().to_le_bytes());
    crafted.sb(96, &(AT as u64 / 32).to_le_bytes());
    assert_eq!(fault(&crafted.open(), 0), MapFault::NoPacked);
    // Another inode as the packed one: short, then long enough.
    let packed = 3 * BLOCK;
    crafted.sb(96, &(packed as u64 / 32).to_le_bytes());
    crafted.extended(packed, 0, REGULAR, 109, block(DATA));
    crafted.put(HEADER, &[10]);
    assert_eq!(fault(&crafted.open(), 0), MapFault::FragmentOutside { offset: 10 });
    crafted.extended(packed, 0, REGULAR, 110, block(DATA));
    crafted.put(DATA * BLOCK + 10, &[b'x'; 100]);
    assert_eq!(read(&crafted.open()).expect("sound"), [b'x'; 100]);
}

#[test]
fn a_tail_fragment_of_an_index_is_the_whole_file_when_it_begins_in_the_first_lcluster() {
    let flags = Incompat::LZ4_0PADDING | Incompat::FRAGMENTS;
    let mut crafted = image(flags, FULL, 5000, header(FRAGMENT));
    put_full(&mut crafted, &[entry(HEAD1, 0, 0), entry(NEXT, 0, distances(1, 1))]);
    crafted.sb(96, &(3 * BLOCK as u64 / 32).to_le_bytes());
    crafted.extended(3 * BLOCK, 0, REGULAR, 5000, block(DATA));
    crafted.put(DATA * BLOCK, &[b'y'; 5000]);
    assert_eq!(read(&crafted.open()).expect("sound"), [b'y'; 5000]);
}

#[test]
fn a_plain_pcluster_shorter_than_its_extent_and_a_stream_of_zeros_are_errors() {
    let mut crafted = image(Incompat::LZ4_0PADDING, FULL, 2 * BLOCK, header(0));
    put_full(&mut crafted, &[entry(PLAIN, 0, 4), entry(NEXT, 0, distances(1, 1))]);
    let expected = MapFault::PlainTooShort { encoded: 4096, decoded: 8192 };
    assert_eq!(fault(&crafted.open(), 0), expected);
    put_full(&mut crafted, &[entry(HEAD1, 0, 4), entry(NEXT, 0, distances(1, 1))]);
    let error = read(&crafted.open()).expect_err("nothing but zeros");
    assert!(matches!(error, Error::Decode { .. }), "{error}");
    put_full(&mut crafted, &[entry(HEAD1, 0, 4_000_000), entry(NEXT, 0, distances(1, 1))]);
    let error = read(&crafted.open()).expect_err("past the end");
    assert!(matches!(error, Error::Decode { .. }), "{error}");
}
