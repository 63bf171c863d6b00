//! Damage to an image: what a fuzzer would try, from a seed.

const SUPERBLOCK_AT: usize = 1024;

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
        if below(48) == 0 {
            image.truncate(at.max(SUPERBLOCK_AT + 128));
        } else {
            larder_fuzz::damage(image, at, &mut below);
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
