//! `larder ls`: list files of an image without mounting it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use larder_erofs::{FileType, Image, Inode};
use larder_image::Reference;
use serde::Serialize;

use crate::cli::Global;
use crate::commands::inside;
use crate::output;
use crate::runtime;
use crate::store::Scratch;

const EXAMPLES: &str = "\
Examples:
  larder ls oci:/srv/images:app              names in the root directory
  larder ls -l registry.example/app:1 /bin   with mode, owner, size and time
  larder ls --json oci:/srv/images /etc      for programs";

/// Arguments of `larder ls`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image: oci:DIR[:TAG] or HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]. Without TAG: the only image of a layout,
    /// `latest` of a registry
    image: String,
    /// A file or directory, from the image's root
    #[arg(default_value = "/")]
    path: OsString,
    /// Show mode, links, owner, group, size and time
    #[arg(short, long)]
    long: bool,
    /// Speak plain HTTP to the registry (loopback addresses always do)
    #[arg(long)]
    insecure: bool,
}

/// One file as `--json` shows it.
#[derive(Serialize)]
struct Entry {
    /// The name; bytes that are not UTF-8 are replaced, see `name_bytes`.
    name: String,
    /// The name when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<Vec<u8>>,
    kind: &'static str,
    mode: u16,
    links: u32,
    uid: u32,
    gid: u32,
    size_bytes: u64,
    mtime_seconds: i64,
    mtime_nanoseconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// Runs `larder ls`.
///
/// # Errors
///
/// When the image cannot be read, or the path is not in it.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let reference: Reference = args.image.parse()?;
    runtime::for_worker()?.block_on(async {
        let image = Scratch::open(&reference, args.insecure).await?;
        list(&image, &args, global.json)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(scratch: &Scratch, args: &Args, json: bool) -> anyhow::Result<()> {
    let path = args.path.as_bytes();
    let image = scratch.fs.image();
    // As ls(1): a link to a directory is looked into, unless its own figures are wanted.
    let inode =
        if args.long { inside::resolve(&scratch.fs, path)? } else { inside::follow(&scratch.fs, path)? };
    let found = match inode.kind {
        FileType::Directory => entries(image, &inode)?,
        _ => vec![(path.to_vec(), inode)],
    };
    if json {
        let entries = found.iter().map(|(name, inode)| entry(image, name, inode));
        return output::json(&entries.collect::<anyhow::Result<Vec<_>>>()?);
    }
    let mut text = Vec::new();
    for (name, inode) in &found {
        if args.long {
            text.extend_from_slice(long(inode).as_bytes());
        }
        text.extend_from_slice(name);
        if args.long && inode.kind == FileType::Symlink {
            text.extend_from_slice(b" -> ");
            text.extend_from_slice(&image.read_link(inode)?);
        }
        text.push(b'\n');
    }
    output::write(&text)
}

fn entries(image: &Image, dir: &Inode) -> anyhow::Result<Vec<(Vec<u8>, Inode)>> {
    let mut found = Vec::new();
    for entry in image.read_dir(dir)? {
        let entry = entry?;
        if entry.name != b"." && entry.name != b".." {
            found.push((entry.name.to_vec(), image.inode(entry.nid)?));
        }
    }
    Ok(found)
}

/// `drwxr-xr-x  2 1000 1000     4096 2026-11-22T17:01:00Z `: numeric owners, since the names are the image's business.
pub fn long(inode: &Inode) -> String {
    let size = match inode.kind {
        FileType::CharDevice | FileType::BlockDevice => {
            format!("{}, {}", inode.rdev.major(), inode.rdev.minor())
        }
        _ => inode.size.to_string(),
    };
    format!(
        "{}{} {:>3} {:>5} {:>5} {size:>12} {} ",
        letter(inode.kind),
        permissions(inode.mode),
        inode.nlink,
        inode.uid,
        inode.gid,
        time(inode.mtime.seconds)
    )
}

/// The nine permission letters, as ls(1) has them.
pub fn permissions(mode: u16) -> String {
    let triple = |shift: u16, special: u16, letters: [char; 2]| {
        let bit = |bit: u16, letter: char| if mode >> shift & bit != 0 { letter } else { '-' };
        let last = match (mode & special != 0, mode >> shift & 1 != 0) {
            (true, true) => letters[0],
            (true, false) => letters[1],
            (false, true) => 'x',
            (false, false) => '-',
        };
        [bit(4, 'r'), bit(2, 'w'), last]
    };
    let parts = [triple(6, 0o4000, ['s', 'S']), triple(3, 0o2000, ['s', 'S']), triple(0, 0o1000, ['t', 'T'])];
    parts.into_iter().flatten().collect()
}

/// The letter of a type, as ls(1) has it.
pub fn letter(kind: FileType) -> char {
    match kind {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    }
}

/// The word that `--json` has for a type.
pub fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "character_device",
        FileType::BlockDevice => "block_device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

fn entry(image: &Image, name: &[u8], inode: &Inode) -> anyhow::Result<Entry> {
    let target = match inode.kind {
        FileType::Symlink => Some(String::from_utf8_lossy(&image.read_link(inode)?).into_owned()),
        _ => None,
    };
    Ok(Entry {
        name: String::from_utf8_lossy(name).into_owned(),
        name_bytes: std::str::from_utf8(name).is_err().then(|| name.to_vec()),
        kind: word(inode.kind),
        mode: inode.mode,
        links: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        size_bytes: inode.size,
        mtime_seconds: inode.mtime.seconds,
        mtime_nanoseconds: inode.mtime.nanoseconds,
        target,
    })
}

/// A time in UTC, seconds since 1970, in the form of RFC 3339; also before 1970 and after 9999.
pub fn time(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The Gregorian date so many days after 1970-01-01: years are counted from March, in cycles of 400.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_right_before_1970_and_after_2038() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (-11_644_473_600, "1601-01-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn permissions_read_as_in_ls() {
        for (mode, text) in [
            (0o755, "rwxr-xr-x"),
            (0o4711, "rws--x--x"),
            (0o2644, "rw-r-Sr--"),
            (0o1777, "rwxrwxrwt"),
            (0, "---------"),
        ] {
            assert_eq!(permissions(mode), text);
        }
    }
}
