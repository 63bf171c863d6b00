//! [`damage`]: what is done to bytes in one place.

/// Numbers at the edges of what fields can hold.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7ff,
    0x800,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 47,
    i64::MAX.unsigned_abs(),
    u64::MAX,
];

/// Damages `bytes` at `at`, leaving their length: a bit, a byte, a number at the edge of its field, a run of bytes from
/// elsewhere. `below` draws a number below its argument.
///
/// # Panics
///
/// When `at` lies beyond `bytes`.
pub fn damage(bytes: &mut [u8], at: usize, mut below: impl FnMut(usize) -> usize) {
    match below(6) {
        0 => bytes[at] ^= 1 << below(8),
        1 => bytes[at] = u8::try_from(below(256)).unwrap_or(0),
        2 => {
            let width = [1, 2, 4, 8][below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&EDGES[below(EDGES.len())].to_le_bytes()[..width]);
        }
        3 => {
            let step = i8::try_from(below(9)).unwrap_or(0) - 4;
            bytes[at] = bytes[at].wrapping_add_signed(step);
        }
        4 => {
            let len = (below(64) + 1).min(bytes.len() - at);
            let from = below(bytes.len() - len + 1);
            bytes.copy_within(from..from + len, at);
        }
        _ => bytes[at] = !bytes[at],
    }
}
