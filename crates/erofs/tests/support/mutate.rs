//! Damage to an image: what a fuzzer would try, from a seed.

#![allow(dead_code, reason = "each test file uses its part")]

const SUPERBLOCK_AT: usize = 1024;
/// Numbers at the edges of what fields can hold.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0x7ff,
    0x800,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 47,
    i64::MAX.unsigned_abs(),
    u64::MAX,
];

/// Damages one to eight places of `image` and switches its checksum off, so that more than the sum is tested.
///
/// Half of the damage hits the superblock and what is not zero near an inode; the rest falls anywhere.
pub fn mutate(image: &mut Vec<u8>, mut numbers: impl FnMut() -> u64) {
    let mut below = |limit: usize| {
        let number = usize::try_from(numbers() >> 11).unwrap_or(usize::MAX);
        if limit == 0 { 0 } else { number % limit }
    };
    for _ in 0..=below(8) {
        let at = match below(8) {
            0 => SUPERBLOCK_AT + 8 + below(136),
            1..4 => written_place(image, below(image.len())),
            _ => below(image.len()),
        };
        let width = [1, 2, 4, 8][below(4)].min(image.len() - at);
        match below(6) {
            0 => image[at] ^= 1 << below(8),
            1 => image[at] = u8::try_from(below(256)).unwrap_or(0),
            2 => image[at..at + width].copy_from_slice(&EDGES[below(EDGES.len())].to_le_bytes()[..width]),
            3 => {
                let step = i8::try_from(below(9)).unwrap_or(0) - 4;
                image[at] = image[at].wrapping_add_signed(step);
            }
            4 => {
                let len = (below(64) + 1).min(image.len() - at);
                let from = below(image.len() - len);
                image.copy_within(from..from + len, at);
            }
            _ if below(8) == 0 => image.truncate(at.max(SUPERBLOCK_AT + 128)),
            _ => image[at] = !image[at],
        }
        if image.len() <= SUPERBLOCK_AT + 144 {
            image.resize(SUPERBLOCK_AT + 145, 0);
        }
    }
    image[SUPERBLOCK_AT..SUPERBLOCK_AT + 4].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    image[SUPERBLOCK_AT + 8] &= !1;
}

/// The next byte from `at` on that is not zero.
fn written_place(image: &[u8], at: usize) -> usize {
    image[at..].iter().position(|&byte| byte != 0).map_or(at, |offset| at + offset)
}
