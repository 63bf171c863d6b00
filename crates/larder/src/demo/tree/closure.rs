//! The shared libraries that a program needs, as this host's loader finds them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::source::Source;

/// Extension modules that are asked about at most: a command line has limits.
const MODULES_MAX: usize = 500;

/// Returns the program itself, its loader and its libraries, and those of the extension modules in `directories`;
/// all as files of the source on this host, links resolved, and the links themselves.
///
/// A host without `ldd` gives the program alone: then the size cap may leave a library out.
pub(super) fn closure(source: &Source, program: &Path, directories: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let modules = directories.iter().flat_map(|directory| modules(directory)).take(MODULES_MAX);
    let mut files: BTreeSet<PathBuf> = BTreeSet::from([program.to_owned()]);
    let output = Command::new("ldd").arg(program).args(modules).stderr(Stdio::null()).output();
    let Ok(output) = output else { return files };
    let text = String::from_utf8_lossy(&output.stdout);
    for path in text.lines().filter_map(library) {
        files.extend(fs::canonicalize(path).ok().filter(|path| path.starts_with(&source.directory)));
    }
    files
}

/// The path in a line of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux.so.2 (0x…)`.
fn library(line: &str) -> Option<&Path> {
    let line = line.strip_prefix('\t')?;
    let path = line.split_once(" => ").map_or(line, |(_, path)| path);
    let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
    path.starts_with('/').then(|| Path::new(path))
}

/// Shared objects below `directory`, in the order of their names.
fn modules(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(path),
                Ok(kind) if kind.is_file() && path.extension() == Some(OsStr::new("so")) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_lines_name_a_library() {
        for (line, expected) in [
            (
                "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)",
                Some("/lib/x86_64-linux-gnu/libc.so.6"),
            ),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)", Some("/lib64/ld-linux-x86-64.so.2")),
            ("\tlinux-vdso.so.1 (0x00007f)", None),
            ("\tlibmissing.so => not found", None),
            ("\tstatically linked", None),
            ("/usr/bin/perl:", None),
        ] {
            assert_eq!(library(line), expected.map(Path::new), "{line}");
        }
    }
}
