//! PAX records, which say what a header has no room for.

use crate::{Timestamp, Xattr};

/// What the records before an entry say of it, or of all that follow.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Timestamp>,
    pub xattrs: Vec<Xattr>,
    /// Sparse files: version, real size, real name, and the map of the oldest version.
    pub sparse_major: Option<u64>,
    pub sparse_size: Option<u64>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_map: Vec<(u64, u64)>,
    sparse_offset: Option<u64>,
}

impl Records {
    /// Takes the records of a body; `None` when it is none.
    pub(super) fn parse(&mut self, mut body: &[u8]) -> Option<()> {
        // Trailing NULs are padding of careless writers.
        while body.first().is_some_and(|&byte| byte != 0) {
            let blank = body.iter().take(21).position(|&byte| byte == b' ')?;
            let len = decimal(&body[..blank])?;
            let len = usize::try_from(len).ok().filter(|&len| len > blank + 1 && len <= body.len())?;
            let (record, rest) = body.split_at(len);
            let record = record[blank + 1..].strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            self.set(&record[..equals], &record[equals + 1..])?;
            body = rest;
        }
        Some(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        const SCHILY: &[u8] = b"SCHILY.xattr.";
        // An empty value takes back what was said before.
        let number = || if value.is_empty() { Some(None) } else { decimal(value).map(Some) };
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse_major = number()?,
            b"GNU.sparse.name" => self.sparse_name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = number()?,
            b"GNU.sparse.offset" => self.sparse_offset = number()?,
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse_offset.take()?;
                self.sparse_map.push((offset, decimal(value)?));
            }
            b"GNU.sparse.map" => self.sparse_map = map(value)?,
            _ if key.starts_with(SCHILY) => {
                let name = key[SCHILY.len()..].to_vec();
                self.xattrs.retain(|xattr| xattr.name != name);
                self.xattrs.push(Xattr { name, value: value.to_vec() });
            }
            _ => {}
        }
        Some(())
    }
}

/// Pairs of offset and length, with commas.
fn map(value: &[u8]) -> Option<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = value.split(|&byte| byte == b',').map(decimal).collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|&[offset, len]| (offset, len)).collect())
}

/// Decimal digits, and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with a fraction, which may be before 1970.
fn time(value: &[u8]) -> Option<Timestamp> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let dot = digits.iter().position(|&byte| byte == b'.').unwrap_or(digits.len());
    let seconds = i64::try_from(decimal(&digits[..dot])?).ok()?;
    let fraction = digits.get(dot + 1..).unwrap_or_default();
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit.checked_sub(b'0').filter(|&digit| digit < 10)?);
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp::new(seconds, nanoseconds),
        (true, 0) => Timestamp::new(-seconds, 0),
        // Fractions count forward from the second before.
        (true, _) => Timestamp::new(-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &[u8]) -> Option<Records> {
        let mut records = Records::default();
        records.parse(body).map(|()| records)
    }

    #[test]
    fn records_are_as_long_as_they_say() {
        let records = parse(b"13 path=a\nb/c\n19 SCHILY.xattr.a=\n20 mtime=-1.25\0\0\0\0\n");
        assert!(records.is_none(), "NULs inside are no number");
        let records = parse(b"14 path=a\nb/c\n12 uid=1234\n16 mtime=-12.25\n\0\0").expect("sound");
        assert_eq!(records.path.as_deref(), Some(b"a\nb/c".as_slice()));
        assert_eq!((records.uid, records.mtime), (Some(1234), Some(Timestamp::new(-13, 750_000_000))));
        for wrong in [b"5 a=b\n".as_slice(), b"99 a=b\n", b"x a=b\n", b"4 a\n", b"6 a=bc", b"9 uid=-1\n"] {
            assert!(parse(wrong).is_none(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn sparse_maps_come_as_a_list_or_as_pairs() {
        let list = parse(b"26 GNU.sparse.map=0,5,10,2\n").map(|records| records.sparse_map);
        assert_eq!(list, None, "a length that is wrong");
        let list = parse(b"27 GNU.sparse.map=0,5,10,2\n").map(|records| records.sparse_map);
        assert_eq!(list, Some(vec![(0, 5), (10, 2)]));
        let pairs = parse(b"23 GNU.sparse.offset=7\n25 GNU.sparse.numbytes=9\n");
        assert_eq!(pairs.map(|records| records.sparse_map), Some(vec![(7, 9)]));
        assert!(parse(b"25 GNU.sparse.numbytes=9\n").is_none(), "a length without an offset");
    }
}
