//! [`Cut`]: what stays out of an image that may not be larger than so much.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::Serialize;

use super::program::Program;
use super::source::Source;

/// Which files of the source go into the image.
///
/// What the program needs goes in first, whatever its size; of the rest the smallest files, by name where two are of
/// one size, until the cap. What this user cannot read stays out too.
#[derive(Clone, Debug)]
pub struct Cut {
    program: Program,
    /// The last file that goes in, by size and path; `None` means all.
    last: Option<(u64, PathBuf)>,
    unreadable: HashSet<PathBuf>,
    /// Further names of hard-linked files, and the name that was decided on.
    links: HashMap<PathBuf, PathBuf>,
    /// Bytes and files that go in, each hard-linked file once.
    pub taken: Amount,
    /// What stays out.
    pub left_out: LeftOut,
}

/// So many files of so many bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What stays out of the image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct LeftOut {
    /// Files beyond the size cap.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Size of the smallest of them.
    pub from_bytes: u64,
    /// Files and directories that this user cannot read.
    pub unreadable: u64,
}

/// A regular file of the source.
struct Found {
    path: PathBuf,
    bytes: u64,
    needed: bool,
}

impl Amount {
    /// Adds one file.
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Cut {
    /// Looks through the source and decides.
    pub fn decide(source: &Source, program: Program, cap_bytes: u64) -> Self {
        let mut walk = Walk::new(&program);
        walk.look_through(&source.directory);
        let Walk { mut files, unreadable, links, .. } = walk;
        files.sort_by(|a, b| {
            b.needed.cmp(&a.needed).then(a.bytes.cmp(&b.bytes)).then_with(|| a.path.cmp(&b.path))
        });

        let mut taken = Amount::default();
        let fits = files.iter().take_while(|file| {
            let fits = file.needed || taken.bytes.saturating_add(file.bytes) <= cap_bytes;
            if fits {
                taken.add(file.bytes);
            }
            fits
        });
        let out = files.split_off(fits.count());
        let mut left_out =
            LeftOut { unreadable: u64::try_from(unreadable.len()).unwrap_or(u64::MAX), ..LeftOut::default() };
        left_out.from_bytes = out.first().map_or(0, |file| file.bytes);
        for file in &out {
            left_out.files += 1;
            left_out.bytes = left_out.bytes.saturating_add(file.bytes);
        }
        let last_taken = files.pop().filter(|file| !file.needed).map(|file| (file.bytes, file.path));
        let last = (!out.is_empty()).then(|| last_taken.unwrap_or_default());
        Self { program, last, unreadable, links, taken, left_out }
    }

    /// Whether the entry at `host` goes in; `regular_bytes` is its size if it is a regular file.
    pub fn takes(&self, host: &Path, regular_bytes: Option<u64>) -> bool {
        if self.unreadable.contains(host) {
            return false;
        }
        let (Some(bytes), Some((last_bytes, last_path))) = (regular_bytes, &self.last) else { return true };
        let first = self.links.get(host).map_or(host, PathBuf::as_path);
        (bytes, first) <= (*last_bytes, last_path.as_path()) || self.program.needs(host)
    }

    /// The program that the cut was made for.
    pub fn program(&self) -> &Program {
        &self.program
    }
}

struct Walk<'a> {
    program: &'a Program,
    files: Vec<Found>,
    unreadable: HashSet<PathBuf>,
    links: HashMap<PathBuf, PathBuf>,
    /// The first name of each file that has more than one, by device and inode.
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Walk<'a> {
    fn new(program: &'a Program) -> Self {
        Self {
            program,
            files: Vec::new(),
            unreadable: HashSet::new(),
            links: HashMap::new(),
            first_names: HashMap::new(),
        }
    }

    fn look_through(&mut self, root: &Path) {
        let mut open = vec![root.to_owned()];
        while let Some(directory) = open.pop() {
            let Ok(entries) = fs::read_dir(&directory) else {
                self.unreadable.insert(directory);
                continue;
            };
            // In the order of names, so that of several hard links always the same one is counted.
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(DirEntry::file_name);
            for entry in entries {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => open.push(entry.path()),
                    Ok(kind) if kind.is_file() => self.file(&entry),
                    _ => {}
                }
            }
        }
    }

    fn file(&mut self, entry: &DirEntry) {
        let path = entry.path();
        let (Ok(metadata), Ok(())) =
            (entry.metadata(), accessat(CWD, &path, Access::READ_OK, AtFlags::EACCESS))
        else {
            self.unreadable.insert(path);
            return;
        };
        if metadata.nlink() > 1 {
            let first =
                self.first_names.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone());
            if *first != path {
                self.links.insert(path, first.clone());
                return;
            }
        }
        let needed = self.program.needs(&path);
        self.files.push(Found { path, bytes: metadata.len(), needed });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn tree() -> (tempfile::TempDir, Source, Program) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(temp.path().join("lib/test")).expect("directories can be made");
        for (name, len) in [
            ("program", 500),
            ("lib/module", 300),
            ("lib/test/big", 400),
            ("a", 10),
            ("b", 10),
            ("c", 10),
            ("d", 1000),
        ] {
            fs::write(temp.path().join(name), vec![b'x'; len]).expect("a file can be written");
        }
        let source = Source::choose(Some(temp.path())).expect("it is a directory");
        let program = Program {
            name: "program".to_owned(),
            argv: vec!["/program".into()],
            files: BTreeSet::from([source.directory.join("program")]),
            directories: BTreeSet::from([source.directory.join("lib")]),
        };
        (temp, source, program)
    }

    fn taken(source: &Source, cut: &Cut) -> Vec<&'static str> {
        let names = ["a", "b", "c", "d", "lib/module", "lib/test/big", "program"];
        let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
        let takes = |name: &&str| {
            let path = source.directory.join(name);
            cut.takes(&path, size(&path))
        };
        names.into_iter().filter(takes).collect()
    }

    #[test]
    fn what_the_program_needs_goes_in_first_then_the_smallest() {
        let (_temp, source, program) = tree();
        for (cap, expected, bytes) in [
            (0, &["lib/module", "program"][..], 800),
            (815, &["a", "lib/module", "program"], 810),
            (820, &["a", "b", "lib/module", "program"], 820),
            (1300, &["a", "b", "c", "lib/module", "lib/test/big", "program"], 1230),
            (10_000, &["a", "b", "c", "d", "lib/module", "lib/test/big", "program"], 2230),
        ] {
            let cut = Cut::decide(&source, program.clone(), cap);
            assert_eq!(taken(&source, &cut), expected, "cap {cap}");
            assert_eq!(cut.taken.bytes, bytes, "cap {cap}");
            assert_eq!(cut.left_out.bytes, 2230 - bytes, "cap {cap}");
        }
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let (_temp, source, program) = tree();
        let cut = Cut::decide(&source, program, 830);
        assert_eq!(cut.left_out, LeftOut { files: 2, bytes: 1400, from_bytes: 400, unreadable: 0 });
    }

    #[test]
    fn a_hard_linked_file_is_counted_once_and_all_its_names_share_one_fate() {
        let (_temp, source, program) = tree();
        fs::hard_link(source.directory.join("d"), source.directory.join("e")).expect("a link can be made");
        fs::write(source.directory.join("z"), vec![b'z'; 5000]).expect("a file can be written");
        let cut = Cut::decide(&source, program.clone(), 2230);
        assert_eq!(cut.taken, Amount { files: 7, bytes: 2230 });
        assert!(cut.takes(&source.directory.join("e"), Some(1000)));
        let cut = Cut::decide(&source, program, 2229);
        assert_eq!(cut.left_out.files, 2);
        assert!(!cut.takes(&source.directory.join("e"), Some(1000)));
    }
}
