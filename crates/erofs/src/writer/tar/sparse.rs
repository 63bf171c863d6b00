//! Sparse files: where the bytes that an archive holds lie in the file.

use super::header::{BLOCK_BYTES, number};
use super::pax::decimal;

/// Pieces of a sparse file, at most: more is taken for an attack.
pub(super) const PIECES_MAX: usize = 1 << 20;

/// The map in a header of kind `S`: four pairs of offset and length; whether more follow.
pub(super) fn in_header(header: &[u8; BLOCK_BYTES], map: &mut Vec<(u64, u64)>) -> Option<bool> {
    pairs(&header[386..482], map)?;
    Some(header[482] != 0)
}

/// The map in a block behind such a header: 21 pairs; whether more follow.
pub(super) fn in_extension(block: &[u8; BLOCK_BYTES], map: &mut Vec<(u64, u64)>) -> Option<bool> {
    pairs(&block[..504], map)?;
    Some(block[504] != 0)
}

/// The real size in a header of kind `S`.
pub(super) fn real_size(header: &[u8; BLOCK_BYTES]) -> Option<u64> {
    number(&header[483..495])
}

fn pairs(fields: &[u8], map: &mut Vec<(u64, u64)>) -> Option<()> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        map.push((number(&pair[..12])?, number(&pair[12..])?));
    }
    (map.len() <= PIECES_MAX).then_some(())
}

/// Reads the map at the beginning of the contents, PAX version 1.0: decimal lines, padded to a block.
///
/// `next` gives the next block of the contents.
pub(super) fn in_contents<E>(
    mut next: impl FnMut() -> Result<[u8; BLOCK_BYTES], E>,
    fault: impl Fn() -> E,
) -> Result<Vec<(u64, u64)>, E> {
    let (mut block, mut at) = (next()?, 0);
    let mut line = || -> Result<u64, E> {
        let mut digits = Vec::new();
        loop {
            if at == BLOCK_BYTES {
                (block, at) = (next()?, 0);
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or_else(&fault),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(fault()),
            }
        }
    };
    let count = usize::try_from(line()?).ok().filter(|&count| count <= PIECES_MAX).ok_or_else(&fault)?;
    let mut map = Vec::new();
    for _ in 0..count {
        map.push((line()?, line()?));
    }
    Ok(map)
}

/// Checks that pieces are in order, within the file, and together as long as what is stored.
pub(super) fn check(map: &mut Vec<(u64, u64)>, size: u64, stored: u64) -> Option<()> {
    map.retain(|&(_, len)| len > 0);
    let (mut end, mut sum) = (0, 0_u64);
    for &(offset, len) in map.iter() {
        if offset < end {
            return None;
        }
        end = offset.checked_add(len).filter(|&end| end <= size)?;
        sum += len;
    }
    (sum == stored).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_order_and_as_long_as_what_is_stored() {
        let verdict = |map: &[(u64, u64)], size, stored| check(&mut map.to_vec(), size, stored).is_some();
        assert!(verdict(&[(0, 5), (10, 5), (20, 0)], 20, 10));
        assert!(!verdict(&[(10, 5), (0, 5)], 20, 10), "out of order");
        assert!(!verdict(&[(0, 5), (4, 5)], 20, 10), "overlap");
        assert!(!verdict(&[(0, 5), (18, 5)], 20, 10), "past the end");
        assert!(!verdict(&[(0, 5)], 20, 6), "other bytes than stored");
        assert!(!verdict(&[(u64::MAX, 2)], u64::MAX, 2), "overflow");
    }

    #[test]
    fn a_map_in_the_contents_may_span_blocks() {
        let mut text = b"100\n".to_vec();
        for piece in 0..100 {
            text.extend(format!("{}\n1\n", piece * 1000).bytes());
        }
        text.resize(text.len().next_multiple_of(BLOCK_BYTES), 0);
        let mut blocks = text.chunks(BLOCK_BYTES).map(|block| block.try_into().expect("whole"));
        let map = in_contents(|| blocks.next().ok_or(()), || ()).expect("sound");
        assert_eq!((map.len(), map[99]), (100, (99_000, 1)));
        assert!(in_contents(|| Err(()), || ()).is_err());
        let endless = [b'1'; BLOCK_BYTES];
        assert!(in_contents(|| Ok(endless), || ()).is_err(), "a number without end");
    }
}
