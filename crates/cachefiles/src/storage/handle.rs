//! [`FileHandle`] and [`Sighting`]: how a file is found again without a look into its folder.

/// What a file system itself calls a file, whatever names that has: the number and the generation of its inode, as a
/// rule. It stays the same as long as the file is there, and is never another file's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileHandle {
    kind: u8,
    len: u8,
    /// Zeros behind `len`.
    bytes: [u8; Self::BYTES_MAX],
}

impl FileHandle {
    /// ext4, f2fs and bcachefs take 8 bytes, XFS 8 or 12, tmpfs 12, btrfs 20. Longer ones are not kept: a handle has its place in
    /// every row of the index.
    pub const BYTES_MAX: usize = 20;

    /// The handle of these bytes; `None` when it is none that is kept.
    pub fn new(kind: i32, handle: &[u8]) -> Option<Self> {
        let (kind, len) = (u8::try_from(kind).ok()?, u8::try_from(handle.len()).ok()?);
        let mut bytes = [0; Self::BYTES_MAX];
        bytes.get_mut(..handle.len()).filter(|bytes| !bytes.is_empty())?.copy_from_slice(handle);
        Some(Self { kind, len, bytes })
    }

    /// What the file system says of the form of the bytes.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A file that was seen under its name, and what tells that it has it still: its folder is the same, and nothing about
/// the file has changed. Renaming it, and giving it another name or taking one away, changes the file; moving or replacing
/// one of the folders above it makes its folder another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sighting {
    pub dir: FileHandle,
    pub file: FileHandle,
    /// When the file was changed last, in nanoseconds since 1970: `st_ctime`.
    pub changed_ns: u64,
}

impl Sighting {
    /// Kind, time of the change, the two handles.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let Self { dir, file, changed_ns } = self;
        // On one file system they are.
        let alike = (dir.kind, dir.len) == (file.kind, file.len);
        alike.then(|| [&[file.kind][..], &changed_ns.to_le_bytes(), dir.bytes(), file.bytes()].concat())
    }

    /// Reads what was encoded.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (changed_ns, handles) = rest.split_first_chunk()?;
        let (dir, file) = handles.split_at(handles.len() / 2);
        if dir.len() != file.len() {
            return None;
        }
        let handle = |bytes| FileHandle::new(i32::from(*kind), bytes);
        Some(Self { dir: handle(dir)?, file: handle(file)?, changed_ns: u64::from_le_bytes(*changed_ns) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sighting(kind: i32, bytes: &[u8]) -> Option<Sighting> {
        let file = FileHandle::new(kind, bytes)?;
        Some(Sighting { dir: FileHandle::new(kind, &vec![7; bytes.len()])?, file, changed_ns: 1 << 60 })
    }

    #[test]
    fn handles_that_are_kept_read_back_and_others_are_none() {
        for len in 1..=FileHandle::BYTES_MAX {
            let one = sighting(0x81, &vec![1; len]).expect("short enough");
            let bytes = one.encode().expect("alike");
            assert_eq!((bytes.len(), Sighting::parse(&bytes)), (9 + 2 * len, Some(one)));
        }
        assert_eq!(FileHandle::new(1, &[1; FileHandle::BYTES_MAX + 1]), None);
        assert_eq!(FileHandle::new(1, &[]), None);
        assert_eq!((FileHandle::new(256, &[1]), FileHandle::new(-1, &[1])), (None, None));
        let unlike =
            Sighting { file: FileHandle::new(2, &[1]).expect("short"), ..sighting(1, &[1]).expect("short") };
        assert_eq!(unlike.encode(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_none_or_what_they_are_encoded_as(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(parsed) = Sighting::parse(&bytes) {
                prop_assert_eq!(parsed.encode(), Some(bytes));
            }
        }
    }
}
