//! [`BootId`]: which run of the machine a live map belongs to.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

/// The kernel's random number for this boot: /proc/sys/kernel/random/boot_id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BootId([u8; 16]);

impl BootId {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// When /proc is not there, or the file holds no UUID.
    pub fn of_this_machine() -> io::Result<Self> {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().parse()
    }

    /// The boot with this number; for tests and for callers that know better.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The number.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for BootId {
    /// Writes what [`from_str`](Self::from_str) reads, without hyphens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for BootId {
    type Err = io::Error;

    /// Reads 32 hexadecimal digits, with hyphens anywhere between.
    fn from_str(text: &str) -> io::Result<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let valid = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(&digits, 16) {
            Ok(number) if valid => Ok(Self(number.to_be_bytes())),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the boot id is no UUID")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_32_hexadecimal_digits() {
        let id: BootId = "00010203-0405-0607-0809-0a0b0c0d0eff".parse().expect("a UUID");
        assert_eq!(id.as_bytes(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        for text in ["", "12", "+0010203-0405-0607-0809-0a0b0c0d0eff", "g0010203-0405-0607-0809-0a0b0c0d0eff"]
        {
            assert!(text.parse::<BootId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn this_machine_has_one_and_keeps_it() {
        let first = BootId::of_this_machine().expect("/proc is mounted");
        assert_eq!(first, BootId::of_this_machine().expect("/proc is mounted"));
    }
}
