//! Sizes for people: binary units, three digits. `--json` gives exact bytes instead.

/// `bytes` with a unit, such as `1.5 MiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let unit = usize::try_from(bytes.ilog2() / 10).unwrap_or(1).min(UNITS.len());
    // Precision beyond 52 bits does not show in three digits.
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    match value {
        ..9.95 => format!("{value:.2} {}", UNITS[unit - 1]),
        ..99.5 => format!("{value:.1} {}", UNITS[unit - 1]),
        _ => format!("{value:.0} {}", UNITS[unit - 1]),
    }
}

/// Bytes in mebibytes with one decimal, for a column whose header says MiB.
pub fn mebibytes(bytes: u64) -> String {
    let (whole, tenth) = mebibytes_and_tenths(bytes);
    format!("{whole}.{tenth}")
}

/// The same in two numbers, for a table of very many rows. What lies in the middle becomes the even tenth.
pub fn mebibytes_and_tenths(bytes: u64) -> (u64, u64) {
    let (whole, rest) = (bytes >> 20, (bytes & 0xf_ffff) * 10);
    let (tenth, rest) = (rest >> 20, rest & 0xf_ffff);
    let up = rest > 1 << 19 || (rest == 1 << 19 && tenth % 2 == 1);
    let tenths = tenth + u64::from(up);
    (whole + tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_of_a_mebibyte_are_rounded_as_a_float_would_be() {
        let numbers = (0..64).flat_map(|shift| [0, 1, 2].map(|more| (1u64 << shift) + more));
        let ties = (0..1 << 22).step_by(1 << 15);
        for bytes in numbers.filter(|bytes| *bytes < 1 << 52).chain(ties) {
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let float = format!("{:.1}", bytes as f64 / 1_048_576.0);
            assert_eq!(mebibytes(bytes), float, "{bytes}");
        }
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 * 1024 * 1024, "10.0 MiB"),
            (200 * 1024 * 1024, "200 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(mebibytes(1_572_864), "1.5");
    }
}
