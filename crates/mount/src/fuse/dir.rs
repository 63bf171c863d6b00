//! Directory listings in the form that READDIR and READDIRPLUS carry.

use larder_erofs::{DirEntry, Error, Image, Inode};
use zerocopy::IntoBytes;

use super::abi::{Dirent, EntryOut};
use super::node;

/// Lists `dir` from `offset` on, at most `size` bytes; with `plus` each entry brings its attributes.
///
/// An empty answer is the end of the directory.
pub(crate) fn list(
    image: &Image,
    dir: &Inode,
    offset: u64,
    size: usize,
    plus: bool,
) -> Result<Vec<u8>, Error> {
    let mut answer = Vec::with_capacity(size.min(64 * 1024));
    for entry in image.read_dir_from(dir, offset)? {
        let entry = entry?;
        let header = if plus { size_of::<EntryOut>() } else { 0 };
        if answer.len() + header + record_bytes(entry.name.len()) > size {
            break;
        }
        if plus {
            answer.extend_from_slice(attributes(image, &entry)?.as_bytes());
        }
        push(&mut answer, &entry);
    }
    Ok(answer)
}

fn record_bytes(name: usize) -> usize {
    (size_of::<Dirent>() + name).next_multiple_of(8)
}

fn push(answer: &mut Vec<u8>, entry: &DirEntry) {
    let header = Dirent {
        ino: entry.nid.get(),
        off: entry.next,
        // A name has at most 255 bytes.
        namelen: u32::try_from(entry.name.len()).unwrap_or(0),
        kind: node::dirent_kind(entry.kind),
    };
    answer.extend_from_slice(header.as_bytes());
    answer.extend_from_slice(&entry.name);
    answer.resize(answer.len().next_multiple_of(8), 0);
}

/// `.` and `..` carry no attributes: node id 0 tells the kernel that this is no lookup.
fn attributes(image: &Image, entry: &DirEntry) -> Result<EntryOut, Error> {
    if entry.name == b"." || entry.name == b".." {
        return Ok(node::no_entry());
    }
    let inode = image.inode(entry.nid)?;
    Ok(node::entry(&inode, image.root(), super::serve::block_bytes(image)))
}
