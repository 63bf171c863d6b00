//! [`ImageServer`]: an EROFS image as a [`FileSystem`].
//!
//! A successor must understand the node ids that its predecessor handed out, so there is no table: an id is a function
//! of the EROFS nid, and of how its bytes are read ([`Passthrough`]). For the same reason nothing needs to be forgotten; what is
//! remembered of directories ([`Openings`]) only makes listings faster.

use std::sync::Arc;

use larder_erofs::{DeviceId, DirEntryRef, Error, FileType, Image, Inode, Nid};
use larder_imagefs::{Compared, ImageFs};

use super::dir::{Listing, Name};
use super::file_system::{
    Attributes, Backing, BackingId, Data, Entry, Errno, FileSystem, Kernel, ListAt, NodeId, Opened,
    OpenedDir, Outcome, ReadAt, Size, Validity,
};
use super::openings::Openings;
use super::passthrough::{PassNode, Passthrough, WholeFile};

/// Reads below that are copied: splice(2) takes more system calls than it saves.
const SPLICED_BYTES_MIN: usize = 64 * 1024;
/// Entries with attributes in the first part of a large directory.
const ATTRIBUTES_AT_FIRST: u64 = 32;
/// A directory that takes more with all attributes is large, whatever the kernel has room for: overlayfs asks for all at once.
const FIRST_PART_BYTES: usize = 32 << 10;
/// Ids start behind 0 (no node) and 1 (the root).
const FIRST_ID: u64 = 2;

/// An EROFS image, and the contents of its files from wherever they are.
pub trait ImageContents: Send + Sync + 'static {
    /// The image; its metadata are here.
    fn image(&self) -> &Image;

    /// The device that may have all bytes of `inode`, a regular file, from the first to the last, and no others.
    fn whole_device(&self, _inode: &Inode) -> Option<DeviceId> {
        None
    }

    /// Whether all of a device is here for good.
    fn is_sealed(&self, _device: DeviceId) -> bool {
        false
    }

    /// The local file that has all bytes of `inode` for good, and no others, opened anew.
    fn whole_file(&self, _inode: &Inode) -> Compared {
        Compared::Missing
    }

    /// Reads contents of `inode`, a regular file. Fewer bytes than `at` asks for mean the end of the file.
    ///
    /// `buf` is the calling thread's to answer in; it holds what an earlier read left.
    fn read(&self, inode: Inode, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data>;
}

/// Serves an EROFS image.
pub struct ImageServer<C> {
    contents: C,
    /// Present where files may be passed through to the kernel.
    passthrough: Option<Passthrough>,
    openings: Openings,
}

impl<C: ImageContents> ImageServer<C> {
    /// Serves this image. The kernel does not ask when files are opened.
    pub fn new(contents: C) -> Self {
        Self { contents, passthrough: None, openings: Openings::default() }
    }

    /// Serves this image, and has the kernel read [whole files](ImageContents::whole_file) itself where it can.
    pub(super) fn passing_through(contents: C) -> Self {
        Self { contents, passthrough: Some(Passthrough::default()), openings: Openings::default() }
    }

    fn image(&self) -> &Image {
        self.contents.image()
    }

    fn inode(&self, node: NodeId) -> Result<Inode, Errno> {
        let nid = nid_of(node, self.image().root()).ok_or(libc::ESTALE)?;
        self.image().inode(nid).map_err(|error| failed(&error))
    }

    fn entry(&self, inode: &Inode) -> Entry {
        let id = match self.whole_file(inode) {
            Some((passthrough, file)) => passthrough.node(file, || self.contents.whole_file(inode)),
            None => id_of(inode.nid, self.image().root()),
        };
        Entry { node: Some((id, self.attributes(inode))), valid: Validity::FOREVER }
    }

    /// `inode` as a file that may be passed through, now or once it is complete.
    fn whole_file(&self, inode: &Inode) -> Option<(&Passthrough, WholeFile)> {
        let passthrough = self.passthrough.as_ref()?;
        if inode.kind != FileType::Regular {
            return None;
        }
        let device = self.contents.whole_device(inode)?;
        let plain = id_of(inode.nid, self.image().root());
        Some((passthrough, WholeFile { plain, nid: inode.nid, device }))
    }

    fn attributes(&self, inode: &Inode) -> Attributes {
        Attributes {
            ino: inode.nid.get(),
            size: inode.size,
            mtime_s: inode.mtime.seconds,
            mtime_ns: inode.mtime.nanoseconds,
            mode: inode.st_mode(),
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev.encoded(),
            block_bytes: block_bytes(self.image()),
        }
    }

    fn find(&self, parent: NodeId, name: &[u8]) -> Result<Entry, Errno> {
        let directory = self.inode(parent)?;
        let Some(found) = self.image().lookup(&directory, name).map_err(|error| failed(&error))? else {
            return Ok(Entry { node: None, valid: Validity::FOREVER });
        };
        let inode = self.image().inode(found.nid).map_err(|error| failed(&error))?;
        Ok(self.entry(&inode))
    }

    fn list(&self, at: ListAt, mut listing: Listing) -> Result<Listing, Errno> {
        let directory = self.inode(at.node)?;
        let mut entries =
            self.image().read_dir_from(&directory, at.offset).map_err(|error| failed(&error))?;
        let most = self.most_entries(&directory, at, &listing);
        let mut listed = 0;
        while let Some(entry) = entries.next_entry().map_err(|error| failed(&error))? {
            if listed == most || !listing.has_room(entry.name.len()) {
                break;
            }
            let attributes = match listing.wants_attributes() {
                true => self.attributes_in_listing(&entry)?,
                false => None,
            };
            let type_bits = entry.kind.map_or(0, |kind| u32::from(kind.mode_bits()));
            let name = Name { name: entry.name, ino: entry.nid.get(), next: entry.next, type_bits };
            listing.push(name, attributes);
            listed += 1;
        }
        self.openings.listed(at.handle, listed);
        Ok(listing)
    }

    /// How many entries this part of a listing has at most.
    ///
    /// The kernel asks for attributes with the first part of each listing, and makes an inode of every entry that has them, which
    /// takes it twenty times as long as the name alone. It asks for them again with the next part if one of these inodes was
    /// used meanwhile (`FUSE_READDIRPLUS_AUTO`). So of a directory that does not fit into the first part only some are there,
    /// to see whether they are wanted.
    fn most_entries(&self, directory: &Inode, at: ListAt, listing: &Listing) -> u64 {
        if at.offset != 0 || !listing.wants_attributes() {
            return u64::MAX;
        }
        let Ok(mut entries) = self.image().read_dir(directory) else { return u64::MAX };
        let mut room = listing.size().min(FIRST_PART_BYTES);
        // An error is found again by whoever lists.
        while let Ok(Some(entry)) = entries.next_entry() {
            match room.checked_sub(listing.entry_bytes(entry.name.len())) {
                Some(left) => room = left,
                None => return ATTRIBUTES_AT_FIRST,
            }
        }
        u64::MAX
    }

    /// `.` and `..` carry no attributes: that is no lookup. Neither do files that may be passed through: a name is looked up by
    /// one at a time, but listed by anybody meanwhile, and the two answers have to be the same node.
    fn attributes_in_listing(&self, entry: &DirEntryRef<'_>) -> Result<Option<Entry>, Errno> {
        if entry.name == b"." || entry.name == b".." {
            return Ok(None);
        }
        let inode = self.image().inode(entry.nid).map_err(|error| failed(&error))?;
        let may_change = self.whole_file(&inode).is_some_and(|(passthrough, _)| passthrough.is_agreed());
        Ok((!may_change).then(|| self.entry(&inode)))
    }
}

impl<C: ImageContents> FileSystem for ImageServer<C> {
    fn wants_passthrough(&self) -> bool {
        self.passthrough.is_some()
    }

    fn connected(&self, kernel: Arc<dyn Kernel>) {
        if let Some(passthrough) = &self.passthrough {
            passthrough.connected(kernel);
        }
    }

    fn initialised(&self, is_agreed: bool) {
        if let Some(passthrough) = &self.passthrough {
            passthrough.initialised(is_agreed);
        }
    }

    fn refresh(&self) {
        if let Some(passthrough) = &self.passthrough {
            passthrough.refresh(|device| self.contents.is_sealed(device));
        }
    }

    /// The way is in the node, for every worker alike. A file that is read by asking has nothing to be opened, and its pages stay
    /// right.
    fn open(&self, node: NodeId) -> Outcome<Opened> {
        if let Some(PassNode { backing, .. }) = PassNode::of(node) {
            let backing = Some(Backing::Known(backing));
            return Outcome::Now(Ok(Opened { backing, ..Opened::default() }));
        }
        match &self.passthrough {
            Some(passthrough) if !passthrough.is_refused() => {
                Outcome::Now(Ok(Opened { keep_cache: true, ..Opened::default() }))
            }
            _ => Outcome::error(libc::ENOSYS),
        }
    }

    fn release(&self, node: NodeId, _handle: u64) -> Option<BackingId> {
        if self.passthrough.is_some()
            && PassNode::of(node).is_none()
            && let Ok(inode) = self.inode(node)
            && let Some((passthrough, file)) = self.whole_file(&inode)
        {
            passthrough.closed(file, self.contents.is_sealed(file.device));
        }
        None
    }

    fn opendir(&self, node: NodeId) -> Outcome<OpenedDir> {
        match self.openings.open(node) {
            Some(opened) => Outcome::Now(Ok(opened)),
            None => Outcome::error(libc::ENOSYS),
        }
    }

    fn lookup(&self, parent: NodeId, name: &[u8]) -> Outcome<Entry> {
        Outcome::Now(self.find(parent, name))
    }

    fn forget(&self, node: NodeId, _lookups: u64) {
        self.openings.forget(node);
    }

    fn getattr(&self, node: NodeId) -> Outcome<(Attributes, Validity)> {
        Outcome::Now(self.inode(node).map(|inode| (self.attributes(&inode), Validity::FOREVER)))
    }

    fn readlink(&self, node: NodeId) -> Outcome<Vec<u8>> {
        let target =
            self.inode(node).and_then(|inode| self.image().read_link(&inode).map_err(|error| failed(&error)));
        Outcome::Now(target)
    }

    fn read(&self, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data> {
        match self.inode(at.node) {
            Ok(inode) if inode.kind == FileType::Regular => self.contents.read(inode, at, buf),
            Ok(_) => Outcome::error(libc::EINVAL),
            Err(errno) => Outcome::error(errno),
        }
    }

    fn readdir(&self, at: ListAt, listing: Listing) -> Outcome<Listing> {
        Outcome::Now(self.list(at, listing))
    }

    fn statfs(&self) -> Size {
        let superblock = self.image().superblock();
        let devices: u64 = self.image().devices().iter().map(|device| device.blocks).sum();
        Size {
            blocks: superblock.blocks.saturating_add(devices),
            files: superblock.inodes,
            block_bytes: block_bytes(self.image()),
        }
    }

    fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let inode = self.inode(node)?;
        self.image().xattr(&inode, name).map_err(|error| failed(&error))
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        let inode = self.inode(node)?;
        let xattrs = self.image().xattrs(&inode).map_err(|error| failed(&error))?;
        Ok(xattrs.into_iter().map(|xattr| xattr.name.to_vec()).collect())
    }
}

impl ImageContents for Arc<ImageFs> {
    fn image(&self) -> &Image {
        ImageFs::image(self)
    }

    fn whole_device(&self, inode: &Inode) -> Option<DeviceId> {
        ImageFs::whole_device(self, inode)
    }

    fn is_sealed(&self, device: DeviceId) -> bool {
        ImageFs::is_sealed(self, device)
    }

    fn whole_file(&self, inode: &Inode) -> Compared {
        ImageFs::whole_file(self, inode)
    }

    /// Reads what is here at once; a hole goes to the runtime, so that the loop never waits for a network.
    fn read(&self, inode: Inode, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data> {
        if at.len >= SPLICED_BYTES_MIN {
            match self.sealed(&inode, at.offset, at.len) {
                Ok(Some(piece)) => return Outcome::Now(Ok(Data::Sealed(piece))),
                Ok(None) => {}
                Err(error) => return Outcome::error(error.errno()),
            }
        }
        buf.resize(at.len, 0);
        match self.read_present(&inode, at.offset, buf) {
            Ok(Some(len)) => {
                buf.truncate(len);
                Outcome::Now(Ok(Data::InBuffer))
            }
            Ok(None) => read_later(Arc::clone(self), inode, at),
            Err(error) => Outcome::error(error.errno()),
        }
    }
}

fn read_later(fs: Arc<ImageFs>, inode: Inode, at: ReadAt) -> Outcome<Data> {
    Outcome::later(async move {
        let read = ImageFs::read(&fs, &inode, at.offset, at.len, Some(at.pid)).await;
        let bytes = read.map_err(|error| {
            tracing::warn!(nid = inode.nid.get(), at.offset, at.len, %error, "read failed");
            error.errno()
        })?;
        Ok(Data::Pieces(vec![bytes]))
    })
}

/// Returns the node id of `nid` in an image with root `root`.
fn id_of(nid: Nid, root: Nid) -> NodeId {
    // Bit 63 means the metabox; below it a nid has 59 bits, being the address of 32 bytes. So the sum cannot wrap.
    if nid == root { NodeId::ROOT } else { NodeId(nid.get().wrapping_add(FIRST_ID)) }
}

/// Returns the nid behind a node id; the reader checks that it leads to an inode.
fn nid_of(id: NodeId, root: Nid) -> Option<Nid> {
    match PassNode::of(id) {
        Some(node) => Some(node.nid),
        None if id == NodeId::ROOT => Some(root),
        None => id.0.checked_sub(FIRST_ID).map(Nid::new),
    }
}

/// Block size of the image, for `st_blksize` and statfs.
fn block_bytes(image: &Image) -> u32 {
    // At most 64 KiB, by the reader's check.
    u32::try_from(image.superblock().block_size.bytes()).unwrap_or(4096)
}

/// The error number for the reader; the rest of the story goes to the log.
fn failed(error: &Error) -> Errno {
    tracing::warn!(%error, "metadata could not be read");
    error.errno()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use larder_erofs::writer::{Attributes, ImageOptions, Tree, write_image};

    use super::super::abi::{Dirent, EntryOut};
    use super::*;

    struct Metadata(Image);

    impl ImageContents for Metadata {
        fn image(&self) -> &Image {
            &self.0
        }

        fn read(&self, _: Inode, _: ReadAt, _: &mut Vec<u8>) -> Outcome<Data> {
            Outcome::error(libc::EIO)
        }
    }

    /// Serves an image of one directory of `files` files, whose names have 10 bytes.
    fn serving(files: usize) -> ImageServer<Metadata> {
        let mut tree = Tree::new();
        for n in 0..files {
            tree.add_file(format!("file-{n:05}").as_bytes(), Vec::new(), &Attributes::default())
                .expect("new");
        }
        let mut out = Cursor::new(Vec::new());
        write_image(tree, &ImageOptions::default(), &mut out).expect("the tree can be written");
        let image = Image::open(out.into_inner()).expect("it was written");
        ImageServer::new(Metadata(image))
    }

    /// The names and cookies of an answer, and how many of the entries have attributes.
    fn parse(mut bytes: &[u8], plus: bool) -> (Vec<(String, u64)>, usize) {
        let (mut names, mut with_attributes) = (Vec::new(), 0);
        while !bytes.is_empty() {
            if plus {
                with_attributes += usize::from(bytes[..8] != [0; 8]);
                bytes = &bytes[size_of::<EntryOut>()..];
            }
            let next = u64::from_le_bytes(bytes[8..16].try_into().expect("eight"));
            let len = u32::from_le_bytes(bytes[16..20].try_into().expect("four")) as usize;
            let name = &bytes[size_of::<Dirent>()..][..len];
            names.push((String::from_utf8(name.to_vec()).expect("ours"), next));
            bytes = &bytes[(size_of::<Dirent>() + len).next_multiple_of(8)..];
        }
        (names, with_attributes)
    }

    fn part(
        server: &ImageServer<Metadata>,
        offset: u64,
        size: usize,
        plus: bool,
    ) -> (Vec<(String, u64)>, usize) {
        let at = ListAt { node: NodeId::ROOT, handle: 0, offset };
        match server.readdir(at, Listing::new(size, plus)) {
            Outcome::Now(Ok(listing)) => parse(&listing.into_bytes(), plus),
            _ => panic!("it is sound and here"),
        }
    }

    #[test]
    fn a_listing_in_parts_of_any_size_and_kind_has_each_name_once() {
        for files in [0, 3, 30, 150, 500] {
            let server = serving(files);
            let mut expected: Vec<_> = (0..files).map(|n| format!("file-{n:05}")).collect();
            expected.extend([".".to_owned(), "..".to_owned()]);
            expected.sort();
            // The smallest has room for one entry with attributes, which takes 168.
            for size in [200, 4096, 32 << 10, 1 << 20] {
                for (first, then) in [(false, false), (true, false), (true, true), (false, true)] {
                    let (mut names, mut offset, mut plus) = (Vec::new(), 0, first);
                    loop {
                        let (part, _) = part(&server, offset, size, plus);
                        let Some((_, next)) = part.last() else { break };
                        (offset, plus) = (*next, then);
                        names.extend(part.into_iter().map(|(name, _)| name));
                    }
                    names.sort();
                    assert_eq!(names, expected, "{files} files, {size} bytes, {first} {then}");
                }
            }
        }
    }

    #[test]
    fn only_what_fits_into_the_first_part_has_attributes_for_all() {
        for (files, size, entries) in [
            (150, 32 << 10, 152),
            (500, 32 << 10, 32),
            // As overlayfs asks.
            (500, 1 << 20, 32),
            // As Linux asks before 6.16.
            (500, 4096, 24),
        ] {
            let server = serving(files);
            let (first, with_attributes) = part(&server, 0, size, true);
            let dots = first.iter().filter(|(name, _)| name == "." || name == "..").count();
            assert_eq!(first.len(), entries, "{files} files, {size} bytes");
            assert_eq!(with_attributes, entries - dots, "{files} files, {size} bytes");
            let (second, _) = part(&server, first[entries - 1].1, 32 << 10, true);
            assert!(second.len() > 100 || files < 500, "{}", second.len());
        }
    }

    #[test]
    fn ids_and_nids_are_one_to_one_with_the_root_at_1() {
        let root = Nid::new(36);
        assert_eq!(id_of(root, root), NodeId::ROOT);
        assert_eq!(nid_of(NodeId::ROOT, root), Some(root));
        assert_eq!(nid_of(NodeId(0), root), None);
        for nid in [0, 1, 35, 37, 1 << 58, u64::MAX >> 1, 1 << 63, (1 << 63) + 36].map(Nid::new) {
            let id = id_of(nid, root);
            assert!(id.0 >= FIRST_ID);
            assert_eq!(nid_of(id, root), Some(nid));
        }
    }
}
