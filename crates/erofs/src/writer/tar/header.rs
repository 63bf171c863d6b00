//! The header of an entry: 512 bytes of text fields.

/// Size of a header, and the unit in which contents are padded.
pub(super) const BLOCK_BYTES: usize = 512;

/// One header, whose checksum was right.
pub(super) struct Header<'a>(pub &'a [u8; BLOCK_BYTES]);

impl<'a> Header<'a> {
    /// Whether all bytes are zero: two of those end an archive.
    pub(super) fn is_end(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// Whether the checksum is right; it was taken with signed bytes by some old writers.
    pub(super) fn is_sound(&self) -> bool {
        let Some(stored) = number(&self.0[148..156]).and_then(|sum| i64::try_from(sum).ok()) else {
            return false;
        };
        let bytes = || {
            self.0.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(i8::from_ne_bytes([byte]))).sum();
        stored == unsigned || stored == signed
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix that ustar has for long ones.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    pub(super) fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Option<u64> {
        number(&self.0[100..108])
    }

    pub(super) fn uid(&self) -> Option<u64> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Option<u64> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(&self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        signed(&self.0[136..148])
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Option<(u64, u64)> {
        Some((number(&self.0[329..337])?, number(&self.0[337..345])?))
    }
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&byte| byte == 0).unwrap_or(field.len())]
}

/// A number that is not negative.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    signed(field).and_then(|number| u64::try_from(number).ok())
}

/// A number: octal digits between blanks, or base 256 when the first bit is set. An empty field is zero.
fn signed(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Bit 6 of the first byte is the sign.
        let start =
            i128::from(if first & 0x40 != 0 { i64::from(first) - 256 } else { i64::from(first & 0x7f) });
        let number = rest.iter().try_fold(start, |number, &byte| {
            number.checked_mul(256).map(|number| number + i128::from(byte))
        })?;
        return i64::try_from(number).ok();
    }
    let digits = text(field);
    let digits = digits.trim_ascii();
    digits.iter().try_fold(0_i64, |number, &byte| match byte {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_octal_and_in_base_256() {
        for (field, expected) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"12x4\0", None),
            (&[0x80, 0, 0, 0, 0, 0, 1, 0], Some(256)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2)),
            (&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
            (b"", None),
        ] {
            assert_eq!(signed(field), expected, "{field:?}");
        }
        assert_eq!(number(&[0xff; 8]), None, "a size is not negative");
    }
}
