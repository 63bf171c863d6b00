//! [`AuxData`] and [`ObjectSpec`]: what an object in the cache must belong to.

use std::fmt;

use crate::Error;

/// Longest coherency data in bytes.
const AUX_BYTES_MAX: usize = 128;

/// Coherency data: bytes that say which version of something a cookie or a volume stands for.
///
/// The cache compares them and knows nothing else about them: what it has under other data is dropped and
/// brought again. A blob that is named by its digest has none. The counterpart of the kernel's `aux_data`
/// (fscache_acquire_cookie(), include/linux/fscache.h, v6.12).
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct AuxData(Box<[u8]>);

impl AuxData {
    /// Takes `bytes` as coherency data.
    ///
    /// # Errors
    ///
    /// [`Error::AuxTooLong`] for more than 128 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.len() {
            0..=AUX_BYTES_MAX => Ok(Self(bytes.into())),
            len => Err(Error::AuxTooLong { len, max: AUX_BYTES_MAX }),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AuxData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuxData({self})")
    }
}

impl fmt::Display for AuxData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What an object must be: its size and the version of its content.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObjectSpec {
    /// Size in bytes.
    pub size: u64,
    /// Coherency data.
    pub aux: AuxData,
}

impl ObjectSpec {
    /// An object of `size` bytes whose name says all about its content.
    pub fn of_size(size: u64) -> Self {
        Self { size, aux: AuxData::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coherency_data_has_a_greatest_length() {
        assert_eq!(AuxData::new(&[7; 128]).expect("fits").as_bytes(), [7; 128]);
        assert!(matches!(AuxData::new(&[7; 129]), Err(Error::AuxTooLong { len: 129, max: 128 })));
        assert_eq!(AuxData::new(&[0x0a, 0xff]).expect("fits").to_string(), "0aff");
    }
}
