//! Images put together byte by byte, for what mkfs.erofs 1.5 cannot make.

use larder_erofs::{Image, Inode, Nid};

pub const BLOCK: usize = 4096;
const SUPERBLOCK_AT: usize = 1024;

/// An image under construction. The inode space begins at byte 0, so an inode at byte `at` is `at / 32`.
pub struct Crafted(pub Vec<u8>);

impl Crafted {
    /// A superblock that passes, and a root directory in block 1 with these entries: name, kind, byte address.
    pub fn new(incompat: u32, blocks: usize, entries: &[(&[u8], u8, usize)]) -> Self {
        let mut image = Self(vec![0; blocks * BLOCK]);
        image.put(SUPERBLOCK_AT, &0xE0F5_E1E2_u32.to_le_bytes());
        image.sb(12, &[12]);
        image.sb(14, &128_u16.to_le_bytes());
        image.sb(36, &u32::try_from(blocks).expect("small").to_le_bytes());
        image.sb(80, &incompat.to_le_bytes());
        let mut all = vec![(b".".as_slice(), 2, BLOCK), (b"..", 2, BLOCK)];
        all.extend(entries);
        all.sort();
        let listing = dir_block(&all);
        image.extended(BLOCK, 2 << 1, 0o040_755, listing.len() as u64, 0);
        image.put(BLOCK + 64, &listing);
        image
    }

    /// Writes bytes at a byte address.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes bytes at an offset of the superblock.
    pub fn sb(&mut self, offset: usize, bytes: &[u8]) {
        self.put(SUPERBLOCK_AT + offset, bytes);
    }

    /// Writes an extended inode.
    pub fn extended(&mut self, at: usize, format: u16, mode: u16, size: u64, u: u32) {
        self.put(at, &(format | 1).to_le_bytes());
        self.put(at + 4, &mode.to_le_bytes());
        self.put(at + 8, &size.to_le_bytes());
        self.put(at + 16, &u.to_le_bytes());
        self.put(at + 44, &1_u32.to_le_bytes());
    }

    /// Writes a compact inode.
    pub fn compact(&mut self, at: usize, format: u16, mode: u16, nb: u16, size: u32, u: u32) {
        self.put(at, &format.to_le_bytes());
        self.put(at + 4, &mode.to_le_bytes());
        self.put(at + 6, &nb.to_le_bytes());
        self.put(at + 8, &size.to_le_bytes());
        self.put(at + 16, &u.to_le_bytes());
    }

    /// Writes a device table at byte 1152: blocks and unified address of each slot, with their high halves.
    pub fn devices(&mut self, slots: &[(u64, u64)]) {
        self.sb(86, &u16::try_from(slots.len()).expect("few").to_le_bytes());
        self.sb(88, &9_u16.to_le_bytes());
        for (number, (blocks, uniaddr)) in slots.iter().enumerate() {
            let at = 1152 + 128 * number;
            let (blocks, uniaddr) = (blocks.to_le_bytes(), uniaddr.to_le_bytes());
            self.put(at + 64, &blocks[..4]);
            self.put(at + 68, &uniaddr[..4]);
            self.put(at + 72, &blocks[4..6]);
            self.put(at + 74, &uniaddr[4..6]);
        }
    }

    pub fn open(&self) -> Image {
        Image::open(self.0.clone()).expect("the superblock is sound")
    }
}

/// The inode at a byte address.
pub fn inode(image: &Image, at: usize) -> Inode {
    image.inode(nid(at)).expect("sound")
}

pub fn nid(at: usize) -> Nid {
    Nid::new(at as u64 / 32)
}

/// A directory block, not padded.
pub fn dir_block(entries: &[(&[u8], u8, usize)]) -> Vec<u8> {
    let mut nameoff = 12 * entries.len();
    let mut bytes = Vec::new();
    for (name, kind, at) in entries {
        bytes.extend(nid(*at).get().to_le_bytes());
        bytes.extend(u16::try_from(nameoff).expect("small").to_le_bytes());
        bytes.extend([*kind, 0]);
        nameoff += name.len();
    }
    bytes.extend(entries.iter().flat_map(|(name, ..)| name.iter().copied()));
    bytes
}
