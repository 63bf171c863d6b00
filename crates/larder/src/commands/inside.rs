//! Paths inside an image, for `ls` and `cat`: links are followed within the image, never out of it.

use larder_erofs::{FileType, Image, Inode};
use larder_imagefs::ImageFs;

use crate::errors::{Kind, told};

/// Links followed for one path at most: what path_resolution(7) says of Linux.
const LINKS_MAX: usize = 40;

/// The inode that `path` leads to from the root, links followed.
///
/// # Errors
///
/// When there is none, or the links go round in circles.
pub fn follow(fs: &ImageFs, path: &[u8]) -> anyhow::Result<Inode> {
    walk(fs.image(), path, true)
}

/// The inode that `path` leads to from the root; a link at its end is the answer.
///
/// # Errors
///
/// When there is none, or the links on the way go round in circles.
pub fn resolve(fs: &ImageFs, path: &[u8]) -> anyhow::Result<Inode> {
    walk(fs.image(), path, false)
}

/// The same in an image that is a file of this machine; `follow_last` says what to do with a link at the end.
///
/// # Errors
///
/// As above.
pub fn walk(image: &Image, path: &[u8], follow_last: bool) -> anyhow::Result<Inode> {
    let place = || String::from_utf8_lossy(path).into_owned();
    let mut above = vec![image.inode(image.root())?];
    let mut rest = components(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        let Some(here) = above.last().copied() else { break };
        match &name[..] {
            b"." => continue,
            b".." => {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            _ => {}
        }
        if here.kind != FileType::Directory {
            return Err(told(Kind::NotFound, format!("{}: a part of the path is no directory", place()), ""));
        }
        let entry = image.lookup(&here, &name)?.ok_or_else(|| {
            told(
                Kind::NotFound,
                format!("{}: no such file in the image", place()),
                "`larder ls`, or `larder erofs ls` for an image file, lists what there is",
            )
        })?;
        let inode = image.inode(entry.nid)?;
        if inode.kind == FileType::Symlink && (follow_last || !rest.is_empty()) {
            links += 1;
            if links > LINKS_MAX {
                return Err(told(Kind::Failed, format!("{}: too many links", place()), ""));
            }
            let target = image.read_link(&inode)?;
            if target.starts_with(b"/") {
                above.truncate(1);
            }
            rest.extend(components(&target));
        } else {
            above.push(inode);
        }
    }
    above.pop().ok_or_else(|| told(Kind::NotFound, place(), ""))
}

/// The components of a path, last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}
