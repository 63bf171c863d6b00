//! Mounts of ours that nobody answers for, and mounts that others took away: found in the mount table, without
//! touching them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::mount::{UnmountFlags, unmount};

/// Detaches `target` when an EROFS or a FUSE file system is mounted there; tells whether it was.
///
/// # Errors
///
/// When the kernel refuses, and so does fusermount.
pub fn detach(target: &Path) -> anyhow::Result<bool> {
    let info = fs::read("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let kinds = mounted(&info).filter(|(point, _)| point == target).map(|(_, kind)| kind);
    // The last line is what is on top.
    let Some(kind) = kinds.last().filter(|kind| kind == "erofs" || kind.starts_with("fuse")) else {
        return Ok(false);
    };
    tracing::debug!(target = %target.display(), kind, "detach");
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(error) if fusermount(target) => {
            tracing::debug!(%error, "detached by fusermount");
            Ok(true)
        }
        Err(error) => Err(error).with_context(|| format!("{}: cannot be detached", target.display())),
    }
}

/// Those of `targets` on which nothing is mounted any more.
///
/// # Errors
///
/// When the mount table cannot be read.
pub fn vanished(targets: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    let info = fs::read("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let points: BTreeSet<PathBuf> = mounted(&info).map(|(point, _)| point).collect();
    Ok(targets.into_iter().filter(|target| !points.contains(target)).collect())
}

fn fusermount(target: &Path) -> bool {
    let mut command = Command::new("fusermount3");
    command
        .args(["-u", "-z", "-q", "--"])
        .arg(target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Mount points and file system types of a mountinfo table: fields 5 and, after the separator, 1 of proc_pid_mountinfo(5).
fn mounted(info: &[u8]) -> impl Iterator<Item = (PathBuf, String)> + '_ {
    info.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = fields.nth(4)?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some((PathBuf::from(unescape(point)), String::from_utf8_lossy(kind).into_owned()))
    })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_with_blanks_are_found_by_their_own_names() {
        let info = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134 rw,noatime master:1 - erofs /dev/root rw\n\
            37 35 0:5 / /mnt/fuse ro - fuse.larder larder rw\nbroken line\n";
        let found: Vec<_> = mounted(info).collect();
        assert_eq!(
            found,
            [("/mnt/a b\\".into(), "erofs".to_owned()), ("/mnt/fuse".into(), "fuse.larder".to_owned())]
        );
    }

    #[test]
    fn a_directory_on_which_nothing_is_mounted_is_left_alone() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        assert!(!detach(temp.path()).expect("proc is mounted"));
    }
}
