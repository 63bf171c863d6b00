//! [`Listing`]: a directory in the form that READDIR and READDIRPLUS carry.

use zerocopy::IntoBytes;

use super::abi::{Dirent, EntryOut};
use super::file_system::Entry;
use super::node;

/// A part of a directory, filled until the kernel's buffer is full.
#[derive(Debug)]
pub struct Listing {
    answer: Vec<u8>,
    size: usize,
    plus: bool,
}

/// An entry as a directory has it.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// The name: 1 to 255 bytes.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// Where a listing goes on after this entry; never 0.
    pub next: u64,
    /// `st_mode` bits of its type, or 0 when that is not known.
    pub type_bits: u32,
}

impl Listing {
    /// At most `size` bytes; with `plus` each entry brings its attributes.
    pub(crate) fn new(size: usize, plus: bool) -> Self {
        Self { answer: Vec::with_capacity(size.min(64 * 1024)), size, plus }
    }

    /// Whether entries bring their attributes, which counts as a lookup of each.
    pub fn wants_attributes(&self) -> bool {
        self.plus
    }

    /// Whether one more entry with a name of so many bytes fits.
    pub fn has_room(&self, name_bytes: usize) -> bool {
        self.answer.len() + self.entry_bytes(name_bytes) <= self.size
    }

    /// What an entry with a name of so many bytes takes.
    pub(super) fn entry_bytes(&self, name_bytes: usize) -> usize {
        let header = if self.plus { size_of::<EntryOut>() } else { 0 };
        header + record_bytes(name_bytes)
    }

    /// Most bytes of it.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Adds an entry, which must fit; `attributes` where they are wanted, and an entry without a node where they are not
    /// known: that is no lookup then.
    pub fn push(&mut self, name: Name<'_>, attributes: Option<Entry>) {
        if self.plus {
            let entry = attributes.unwrap_or(Entry { node: None, valid: super::Validity::FOREVER });
            self.answer.extend_from_slice(node::entry_out(&entry).as_bytes());
        }
        let header = Dirent {
            ino: name.ino,
            off: name.next,
            // A name has at most 255 bytes.
            namelen: u32::try_from(name.name.len()).unwrap_or(0),
            kind: name.type_bits >> 12,
        };
        self.answer.extend_from_slice(header.as_bytes());
        self.answer.extend_from_slice(name.name);
        self.answer.resize(self.answer.len().next_multiple_of(8), 0);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.answer
    }
}

fn record_bytes(name: usize) -> usize {
    (size_of::<Dirent>() + name).next_multiple_of(8)
}
