//! [`version_of`]: which version of a file a piece is of.

use std::ops::RangeInclusive;

use super::super::super::truth;
use super::{number, size};

/// So many bytes tell versions apart.
const FIRST_BYTES: usize = 16;

/// How many newer versions are looked through for what a piece is of, when it is of none that it can be of.
const NEWER: u64 = 64;

/// The one of these versions of `file` that all of `found` is of, which a read of `len` bytes at `at` gave; the newest
/// where several could be.
///
/// # Errors
///
/// What is wrong with the bytes, or with how many they are.
pub fn version_of(
    file: u64,
    versions: RangeInclusive<u64>,
    at: u64,
    len: usize,
    found: &[u8],
) -> Result<u64, String> {
    let is_of = |version: u64, found: &[u8]| truth::check(number(file, version), at, found);
    let first = &found[..found.len().min(FIRST_BYTES)];
    let begins = |version: &u64| is_of(*version, first).is_ok();
    let expected = |version: u64| (len as u64).min(size(file, version).saturating_sub(at));
    let mut why = Vec::new();
    for version in versions.clone().rev().filter(begins) {
        match is_of(version, found) {
            Ok(()) if expected(version) == found.len() as u64 => return Ok(version),
            Ok(()) => why.push(format!(
                "{} bytes of version {version} instead of {}",
                found.len(),
                expected(version)
            )),
            Err(wrong) => why.push(format!("begins as version {version}, of which it has {wrong}")),
        }
    }
    if why.is_empty() {
        let all = 1..=*versions.end() + NEWER;
        let other = all.rev().filter(begins).find(|version| is_of(*version, found).is_ok());
        let zeros = found.iter().filter(|byte| **byte == 0).count();
        why.push(match other {
            Some(other) => format!("{} bytes of version {other}", found.len()),
            None => format!("{} bytes of no version, {zeros} of them zero", found.len()),
        });
    }
    Err(format!("{}; expected one of the versions {versions:?}", why.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(version: u64, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        truth::fill(number(3, version), at, &mut bytes);
        bytes
    }

    #[test]
    fn a_piece_tells_its_version_and_one_of_two_versions_is_refused() {
        assert_eq!(version_of(3, 2..=4, 40, 600, &piece(3, 40, 600)), Ok(3));
        let mixed = [piece(3, 40, 300), piece(4, 340, 300)].concat();
        assert!(
            version_of(3, 2..=4, 40, 600, &mixed).is_err_and(|why| why.contains("300 wrong bytes from 340"))
        );
        let older = version_of(3, 2..=4, 40, 600, &piece(1, 40, 600));
        assert!(older.is_err_and(|why| why.contains("of version 1")));
        let zeros = version_of(3, 2..=4, 40, 600, &[0; 600]);
        assert!(zeros.is_err_and(|why| why.contains("600 of them zero")));
    }

    #[test]
    fn a_piece_ends_with_its_version_and_not_before() {
        let end = size(3, 4);
        assert_eq!(version_of(3, 4..=4, end - 10, 600, &piece(4, end - 10, 10)), Ok(4));
        assert!(version_of(3, 4..=4, end - 10, 600, &piece(4, end - 10, 9)).is_err());
        assert_eq!(version_of(3, 4..=4, end, 600, &[]), Ok(4));
        assert!(version_of(3, 4..=4, 0, 600, &[]).is_err());
    }
}
