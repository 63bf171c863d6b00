//! [`Bandwidth`]: bytes a second, as a user writes them.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// What a link carries in one second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bandwidth {
    /// As much as the machine can.
    Unlimited,
    /// So many bytes.
    BytesPerSecond(NonZeroU64),
}

/// Why a text is no bandwidth.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is no bandwidth: write a number and a unit, as in 200mbit, 1gbit, 25MB/s, or unlimited")]
pub struct BandwidthError {
    text: String,
}

impl Bandwidth {
    /// How long `bytes` take on this link.
    pub fn time_for(self, bytes: u64) -> Duration {
        let Self::BytesPerSecond(rate) = self else { return Duration::ZERO };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Bits for each unit; a unit with a `B` counts bytes and needs its `/s`, so that `MB` is never read as megabit.
const UNITS: &[(&str, f64)] = &[
    ("bit", 1.0),
    ("kbit", 1e3),
    ("mbit", 1e6),
    ("gbit", 1e9),
    ("b/s", 8.0),
    ("kb/s", 8e3),
    ("mb/s", 8e6),
    ("gb/s", 8e9),
    ("kib/s", 8.0 * 1024.0),
    ("mib/s", 8.0 * 1_048_576.0),
    ("gib/s", 8.0 * 1_073_741_824.0),
];

impl FromStr for Bandwidth {
    type Err = BandwidthError;

    fn from_str(text: &str) -> Result<Self, BandwidthError> {
        let refused = || BandwidthError { text: text.to_owned() };
        let lower = text.trim().to_ascii_lowercase();
        if lower == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let split = lower.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refused)?;
        let (number, unit) = lower.split_at(split);
        let unit = unit
            .trim_start()
            .strip_suffix("bit/s")
            .map_or_else(|| unit.trim_start().to_owned(), |prefix| format!("{prefix}bit"));
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?.1;
        let bytes = number.parse::<f64>().map_err(|_| refused())? * factor / 8.0;
        if !(1.0..=1e15).contains(&bytes) {
            return Err(refused());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10^15")]
        let bytes = bytes as u64;
        NonZeroU64::new(bytes).map(Self::BytesPerSecond).ok_or_else(refused)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::BytesPerSecond(rate) = self else { return f.write_str("unlimited") };
        let bits = u128::from(rate.get()) * 8;
        for (unit, size) in [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)] {
            if bits >= size && bits % size == 0 {
                return write!(f, "{}{unit}", bits / size);
            }
        }
        write!(f, "{bits}bit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_bytes_are_told_apart_by_their_unit() {
        for (text, bytes) in [
            ("200mbit", 25_000_000),
            ("200Mbit/s", 25_000_000),
            ("1gbit", 125_000_000),
            ("1.5 gbit", 187_500_000),
            ("25MB/s", 25_000_000),
            ("25MiB/s", 26_214_400),
            ("64kbit", 8_000),
            ("8bit", 1),
        ] {
            let expected = NonZeroU64::new(bytes).map(Bandwidth::BytesPerSecond);
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        assert_eq!("unlimited".parse(), Ok(Bandwidth::Unlimited));
    }

    #[test]
    fn what_has_no_unit_or_no_sense_is_refused() {
        for text in [
            "",
            "200",
            "mbit",
            "25MB",
            "25Mb",
            "0mbit",
            "-1mbit",
            "1e9bit",
            "1.2.3mbit",
            "nanbit",
            "9999999gbit",
        ] {
            assert!(text.parse::<Bandwidth>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_bandwidth_prints_as_it_is_read() {
        for text in ["200mbit", "1gbit", "64kbit", "unlimited", "12bit"] {
            let Ok(read) = text.parse::<Bandwidth>() else { panic!("{text}") };
            if text != "12bit" {
                assert_eq!(read.to_string(), text);
            }
            assert_eq!(read.to_string().parse(), Ok(read));
        }
    }

    #[test]
    fn time_grows_with_bytes_and_does_not_overflow() {
        let link: Bandwidth = "200mbit".parse().expect("a bandwidth");
        assert_eq!(link.time_for(25_000_000), Duration::from_secs(1));
        assert_eq!(link.time_for(0), Duration::ZERO);
        assert!(link.time_for(u64::MAX) > Duration::from_secs(1_000_000));
        assert_eq!(Bandwidth::Unlimited.time_for(u64::MAX), Duration::ZERO);
    }
}
