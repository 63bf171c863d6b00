//! Comparing two images, name by name. Both list their names in the same order, so it is one pass.

use std::cmp::Ordering;
use std::collections::HashSet;

use larder_erofs::{DirEntry, Error, Extent, ExtentKind, FileType, Inode, LogicalAddr, Nid};
use serde::Serialize;

use super::open::LocalImage;

/// Bytes compared at once.
const STEP: usize = 1 << 20;
/// Levels of directories, at most: one of them takes about a kilobyte of stack.
const DEPTH_MAX: usize = 1024;

/// A difference.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The path from the root.
    pub path: String,
    /// What became of it.
    pub change: Change,
    /// In what it differs, when it is in both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<&'static str>,
}

/// What became of a name from the first image to the second.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// In both, with differences.
    Changed,
}

/// What to leave out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore {
    /// Times of the last change.
    pub times: bool,
}

/// Compares the trees of two images and hands each difference to `tell`, in the order of the paths.
///
/// # Errors
///
/// The first fault of either image; what `tell` returns.
pub fn compare(
    first: &LocalImage,
    second: &LocalImage,
    ignore: Ignore,
    tell: &mut dyn FnMut(Difference) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut comparison = Comparison {
        sides: [first, second],
        ignore,
        tell,
        entered: HashSet::new(),
        buffers: Default::default(),
    };
    let roots = [root(first)?, root(second)?];
    comparison.objects(b"", &roots)?;
    comparison.directories(&mut Vec::new(), &roots, 0)
}

fn root(image: &LocalImage) -> Result<Inode, Error> {
    image.image().inode(image.image().root())
}

/// The names of a directory, without `.` and `..`.
fn list<'a>(
    image: &'a LocalImage,
    dir: &Inode,
) -> Result<impl Iterator<Item = Result<DirEntry, Error>> + use<'a>, Error> {
    let dots = |entry: &Result<DirEntry, Error>| {
        entry.as_ref().is_ok_and(|entry| entry.name == b"." || entry.name == b"..")
    };
    Ok(image.image().read_dir(dir)?.filter(move |entry| !dots(entry)))
}

struct Comparison<'a> {
    sides: [&'a LocalImage; 2],
    ignore: Ignore,
    tell: &'a mut dyn FnMut(Difference) -> anyhow::Result<()>,
    /// Pairs of directories that were compared: a second way to one would be a circle, or a doubling without end.
    entered: HashSet<[Nid; 2]>,
    buffers: [Vec<u8>; 2],
}

impl Comparison<'_> {
    /// Merges the listings of two directories.
    fn directories(&mut self, path: &mut Vec<u8>, dirs: &[Inode; 2], depth: usize) -> anyhow::Result<()> {
        anyhow::ensure!(depth < DEPTH_MAX, "{}: lies too deep", String::from_utf8_lossy(path));
        if !self.entered.insert([dirs[0].nid, dirs[1].nid]) {
            return Ok(());
        }
        let (mut first, mut second) = (list(self.sides[0], &dirs[0])?, list(self.sides[1], &dirs[1])?);
        let (mut one, mut two) = (first.next().transpose()?, second.next().transpose()?);
        loop {
            let order = match (&one, &two) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(two)) => one.name.cmp(&two.name),
            };
            let taken = [
                if order.is_le() { std::mem::replace(&mut one, first.next().transpose()?) } else { None },
                if order.is_ge() { std::mem::replace(&mut two, second.next().transpose()?) } else { None },
            ];
            let before = path.len();
            if let Some(entry) = taken.iter().flatten().next() {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&entry.name);
            }
            self.names(path, &taken, depth)?;
            path.truncate(before);
        }
    }

    fn names(
        &mut self,
        path: &mut Vec<u8>,
        found: &[Option<DirEntry>; 2],
        depth: usize,
    ) -> anyhow::Result<()> {
        match found {
            [Some(one), Some(two)] => {
                let inodes = [self.sides[0].image().inode(one.nid)?, self.sides[1].image().inode(two.nid)?];
                self.objects(path, &inodes)?;
                if inodes.iter().all(|inode| inode.kind == FileType::Directory) {
                    self.directories(path, &inodes, depth + 1)?;
                }
                Ok(())
            }
            [Some(_), None] => self.difference(path, Change::Removed, Vec::new()),
            _ => self.difference(path, Change::Added, Vec::new()),
        }
    }

    /// Compares two objects of the same name.
    fn objects(&mut self, path: &[u8], inodes: &[Inode; 2]) -> anyhow::Result<()> {
        let [one, two] = inodes;
        let mut fields = Vec::new();
        let mut note = |field, differs: bool| {
            if differs {
                fields.push(field);
            }
        };
        note("type", one.kind != two.kind);
        note("mode", one.mode != two.mode);
        note("owner", one.uid != two.uid);
        note("group", one.gid != two.gid);
        note("mtime", !self.ignore.times && one.mtime != two.mtime);
        let directory = one.kind == FileType::Directory;
        if one.kind == two.kind {
            note("links", !directory && one.nlink != two.nlink);
            note("device", one.rdev != two.rdev);
            note("contents", !directory && !self.same_contents(inodes)?);
        }
        note("xattrs", self.xattrs(0, one)? != self.xattrs(1, two)?);
        if fields.is_empty() { Ok(()) } else { self.difference(path, Change::Changed, fields) }
    }

    fn xattrs(&self, side: usize, inode: &Inode) -> Result<Vec<larder_erofs::Xattr>, Error> {
        let mut xattrs = self.sides[side].image().xattrs(inode)?;
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    fn same_contents(&mut self, inodes: &[Inode; 2]) -> Result<bool, Error> {
        let [one, two] = inodes;
        if one.size != two.size {
            return Ok(false);
        }
        if !one.kind.has_data() || self.same_places(inodes) {
            return Ok(true);
        }
        let mut at = 0;
        while at < one.size {
            let len = usize::try_from(one.size - at).map_or(STEP, |left| left.min(STEP));
            for (side, inode) in inodes.iter().enumerate() {
                self.buffers[side].resize(len, 0);
                self.sides[side].read(inode, at, &mut self.buffers[side])?;
            }
            if self.buffers[0] != self.buffers[1] {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }

    /// Whether both files lie in the same places of devices that bear the same digest: then nothing need be read.
    fn same_places(&self, inodes: &[Inode; 2]) -> bool {
        let place = |side: usize, extent: &Extent| match extent.kind {
            ExtentKind::Hole => Some((Vec::new(), 0)),
            ExtentKind::Device { device, pa } => {
                let slot = self.sides[side].image().devices().get(device.slot()?)?;
                // A digest: 64 hexadecimal digits. Other texts name nothing.
                let tag = slot.tag.text().to_vec();
                (tag.len() == 64 && tag.iter().all(u8::is_ascii_hexdigit)).then_some((tag, pa.get()))
            }
            _ => None,
        };
        let mut extents =
            [0, 1].map(|side| self.sides[side].image().extents(&inodes[side], LogicalAddr::new(0)));
        loop {
            let [one, two] = &mut extents;
            match (one.next(), two.next()) {
                (None, None) => return true,
                (Some(Ok(one)), Some(Ok(two))) if one.len == two.len => {
                    let (one, two) = (place(0, &one), place(1, &two));
                    if one.is_none() || one != two {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    }

    fn difference(&mut self, path: &[u8], change: Change, fields: Vec<&'static str>) -> anyhow::Result<()> {
        let path = format!("/{}", String::from_utf8_lossy(path));
        (self.tell)(Difference { path, change, fields })
    }
}
