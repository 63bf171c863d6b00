//! The texts of `dump.erofs`, in the shape that scripts take apart.

use std::fmt::Write as _;

use larder_erofs::{Extent, ExtentKind, FileType, Image, Incompat, Inode, LogicalAddr, Nid, Place};

use crate::commands::ls::{permissions, time};
use crate::erofs::describe;
use crate::erofs::statistics::{EXTENSIONS, SIZE_CLASSES, Statistics, stored_bytes};

/// `-s`
pub(super) fn superblock(image: &Image) -> String {
    let superblock = image.superblock();
    let bits = superblock.block_size.bits();
    let mut rows = vec![
        ("magic number", "0xE0F5E1E2".to_owned()),
        ("blocksize", superblock.block_size.bytes().to_string()),
        ("blocks", superblock.blocks.to_string()),
        ("inode metadata start block", (superblock.inode_space >> bits).to_string()),
        ("shared xattr metadata start block", (superblock.xattr_space >> bits).to_string()),
        ("root nid", superblock.root.to_string()),
    ];
    rows.extend(superblock.packed.map(|nid| ("packed nid", nid.to_string())));
    rows.extend(superblock.metabox.map(|nid| ("metabox nid", nid.to_string())));
    if superblock.incompat.contains(Incompat::COMPR_CFGS) {
        let codecs: Vec<_> = superblock.listed_codecs.iter().map(|codec| codec.name()).collect();
        rows.push(("compr_algs", codecs.join(", ")));
    } else {
        rows.push(("lz4_max_distance", superblock.lz4_distance_max.to_string()));
    }
    let compatible: String = describe::compatible(superblock).iter().map(|name| format!("{name} ")).collect();
    rows.extend([
        ("sb_size", superblock.bytes.to_string()),
        ("inode count", superblock.inodes.to_string()),
        ("created", calendar(superblock.build_time)),
        ("compatible features", compatible),
        ("incompatible features", incompatible(image)),
        ("UUID", describe::uuid(&superblock.uuid)),
    ]);
    let mut text = String::new();
    for (name, value) in rows {
        let label = format!("Filesystem {name}:");
        let _ = writeln!(text, "{label:<45} {value}");
    }
    let _ = writeln!(
        text,
        "{:<45} {}",
        "Required upstream Linux kernel version:",
        describe::oldest_kernel(image)
    );
    text
}

/// dump.erofs gives both names of a bit that has two.
fn incompatible(image: &Image) -> String {
    let mut text = String::new();
    for name in describe::incompatible(image) {
        let both = match name {
            "fragments" | "dedupe" => "fragments dedupe",
            name => name,
        };
        text.push_str(both);
        text.push(' ');
    }
    text
}

/// `--blkid-udev`
pub(super) fn udev(image: &Image) -> String {
    let superblock = image.superblock();
    let uuid = describe::uuid(&superblock.uuid);
    let label = describe::text(&superblock.volume_name);
    let mut text = String::new();
    if !label.is_empty() {
        // As udev wants it: what could end a line or a word is written in hexadecimal.
        let plain = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
        let encoded: String = label
            .bytes()
            .map(|byte| {
                let c = char::from(byte);
                if plain(c) { c.to_string() } else { format!("\\x{byte:02x}") }
            })
            .collect();
        let safe: String = label.chars().map(|c| if plain(c) { c } else { '_' }).collect();
        let _ = writeln!(text, "ID_FS_LABEL={safe}\nID_FS_LABEL_ENC={encoded}");
    }
    let _ =
        writeln!(text, "ID_FS_UUID={uuid}\nID_FS_UUID_ENC={uuid}\nID_FS_TYPE=erofs\nID_FS_USAGE=filesystem");
    text
}

/// Some path of an inode.
pub(super) fn path_of(image: &Image, nid: Nid) -> Option<Vec<u8>> {
    let found = image.walk().map_while(Result::ok).find(|entry| entry.inode.nid == nid)?;
    Some([b"/", found.path.as_slice()].concat())
}

/// `--nid=#`, `--path=X`
pub(super) fn inode(image: &Image, path: &[u8], inode: &Inode) -> String {
    let stored = stored_bytes(image, inode);
    let mut text = String::new();
    let kind = match inode.kind {
        FileType::Regular => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink file",
        FileType::CharDevice => "char dev",
        FileType::BlockDevice => "block dev",
        FileType::Fifo => "FIFO file",
        FileType::Socket => "SOCK file",
    };
    let _ = write!(
        text,
        "Path : {}\nSize: {}  On-disk size: {stored}  {kind}\n",
        String::from_utf8_lossy(path),
        inode.size
    );
    let _ = writeln!(
        text,
        "NID: {}   Links: {}   Layout: {}   Compression ratio: {}%",
        inode.nid,
        inode.nlink,
        inode.layout.number(),
        percent(stored, inode.size)
    );
    let size = if inode.extended { 64 } else { 32 };
    let _ = writeln!(text, "Inode size: {size}   Xattr size: {}", inode.xattr_bytes);
    let _ = writeln!(
        text,
        "Uid: {}   Gid: {}  Access: {:04o}/{}",
        inode.uid,
        inode.gid,
        inode.mode,
        permissions(inode.mode)
    );
    let at = time(inode.mtime.seconds).replace('T', " ");
    let _ = writeln!(text, "Timestamp: {}.{:09}", at.trim_end_matches('Z'), inode.mtime.nanoseconds);
    text
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 if part == 0 => "-nan".to_owned(),
        0 => "inf".to_owned(),
        _ => format!("{:.2}", part as f64 * 100.0 / whole as f64),
    }
}

/// `--ls`
pub(super) fn listing(image: &Image, dir: &Inode) -> anyhow::Result<Vec<u8>> {
    let mut text = b"\n       NID TYPE  FILENAME\n".to_vec();
    if dir.kind != FileType::Directory {
        return Ok(text);
    }
    for entry in image.read_dir(dir)? {
        let entry = entry?;
        let kind = entry.kind.map_or(0, FileType::dirent_number);
        text.extend_from_slice(format!("{:>10} {kind:>4}  ", entry.nid.get()).as_bytes());
        text.extend_from_slice(&entry.name);
        text.push(b'\n');
    }
    Ok(text)
}

/// `-e`
pub(super) fn extents(image: &Image, path: &[u8], inode: &Inode) -> anyhow::Result<String> {
    let mut text = "\n Ext:   logical offset   |  length :     physical offset    |  length\n".to_owned();
    let mut number = 0_u64;
    for extent in image.extents(inode, LogicalAddr::new(0)) {
        let Extent { start, len, kind } = extent?;
        let (device, pa, stored) = match kind {
            ExtentKind::Hole => (0, 0, 0),
            ExtentKind::Meta { pa } => (0, pa.get(), len),
            ExtentKind::Device { device, pa } => (device.get(), pa.get(), len),
            ExtentKind::Encoded(encoded) => match encoded.place {
                Place::Device { device, pa } => (device.get(), pa.get(), encoded.len.into()),
                Place::Metabox { at } => (0, at, encoded.len.into()),
            },
        };
        let (start, end) = (start.get(), start.get() + len);
        let _ = write!(
            text,
            "{number:>4}: {start:>8}..{end:>8} | {len:>7} : {pa:>10}..{:>10} | {stored:>7}",
            pa.saturating_add(stored)
        );
        text.push_str(&if device == 0 { "\n".to_owned() } else { format!("  # device {device}\n") });
        number += 1;
    }
    let _ = writeln!(text, "{}: {number} extents found", String::from_utf8_lossy(path));
    Ok(text)
}

/// `-S`
pub(super) fn statistics(found: &Statistics) -> String {
    let mut text = String::new();
    for (name, number) in [
        ("total file count", found.objects),
        ("unknown type count", 0),
        ("regular file count", found.files),
        ("directory count", found.directories),
        ("char dev count", found.char_devices),
        ("block dev count", found.block_devices),
        ("FIFO file count", found.fifos),
        ("SOCK file count", found.sockets),
        ("symlink file count", found.symlinks),
    ] {
        let label = format!("Filesystem {name}:");
        let _ = writeln!(text, "{label}\t\t{number}");
    }
    let plain = found.objects.saturating_sub(found.compressed);
    let _ = writeln!(text, "Filesystem compressed files:            {}", found.compressed);
    let _ = writeln!(text, "Filesystem uncompressed files:          {plain}");
    let _ = writeln!(text, "Filesystem total original file size:    {} Bytes", found.file_bytes);
    let _ = writeln!(text, "Filesystem total file size:             {} Bytes", found.stored_bytes);
    let rate = percent(found.stored_bytes, found.file_bytes);
    let _ = writeln!(text, "Filesystem compress rate:               {rate}%");
    sizes(&mut text, "Original file size distribution:", &found.by_size);
    sizes(&mut text, "On-disk file size distribution:", &found.by_stored);
    text.push_str("\nFile type distribution:\n");
    text.push_str(&heading("type            "));
    let total = found.by_extension.iter().sum();
    for (name, &count) in EXTENSIONS.iter().chain(&["others"]).zip(&found.by_extension) {
        let _ = writeln!(text, "{name:<17}\t{}", bar(count, total));
    }
    text
}

fn sizes(text: &mut String, title: &str, counts: &[u64; SIZE_CLASSES]) {
    let _ = write!(text, "\n{title}\n{}", heading(">=(KB) .. <(KB) "));
    let total = counts.iter().sum();
    for (class, &count) in counts.iter().enumerate() {
        let low = if class == 0 { 0 } else { 1_u32 << (class - 1) };
        let high = if class + 1 == SIZE_CLASSES { String::new() } else { (1_u32 << class).to_string() };
        let _ = writeln!(text, "{low:>6} .. {high:<6}\t{}", bar(count, total));
    }
}

fn heading(first: &str) -> String {
    format!("{first}       count            ratio |{:<50}|\n", "distribution")
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bar of 50 signs"
)]
fn bar(count: u64, total: u64) -> String {
    let ratio = if total == 0 { 0.0 } else { count as f64 * 100.0 / total as f64 };
    format!("{count:<8}{ratio:>12.2}% |{:<50}|", "#".repeat((ratio / 2.0) as usize))
}

/// A time in UTC as ctime(3) writes it: `Thu Nov 26 01:15:43 2026`.
fn calendar(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = time(seconds);
    let (date, clock) = text.trim_end_matches('Z').split_once('T').unwrap_or_default();
    // A year may be negative: the last two fields are month and day.
    let mut fields = date.rsplitn(3, '-');
    let (day, month, year) = (
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    let month = month.parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let weekday = usize::try_from(seconds.div_euclid(86_400).rem_euclid(7)).unwrap_or(0);
    let (day, month) = (day.trim_start_matches('0'), month.unwrap_or(&"?"));
    format!("{} {month} {day:>2} {clock} {year}", DAYS[weekday])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_ctime_has_them() {
        for (seconds, text) in [
            (0, "Thu Jan  1 00:00:00 1970"),
            (1_795_742_143, "Fri Nov 27 01:15:43 2026"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (-1, "Wed Dec 31 23:59:59 1969"),
        ] {
            assert_eq!(calendar(seconds), text);
        }
    }

    #[test]
    fn ratios_and_bars_have_the_widths_of_the_original() {
        assert_eq!(percent(0, 0), "-nan");
        assert_eq!(percent(212_992, 288_894), "73.73");
        assert_eq!(bar(2, 5), "2              40.00% |####################                              |");
        assert_eq!(bar(0, 5).len(), bar(5, 5).len());
    }
}
