//! Extended attributes of an inode: inline entries first, then shared ones.

use super::Image;
use crate::addr::MetaAddr;
use crate::inode::XATTR_HEADER_BYTES;
use crate::xattr::{ENTRY_HEADER_BYTES, EntryHeader, LONG_PREFIX, LUSTRE, filter_bit, prefix, split};
use crate::{Compat, Error, Inode, Xattr, XattrFault};

impl Image {
    /// Lists the attributes of `inode` with their values, in the order of the image.
    ///
    /// Entries whose prefix nobody knows are left out, as the kernel leaves them out. Takes at most about
    /// 17 MB, for the most an inode can refer to.
    ///
    /// # Errors
    ///
    /// [`Error::Xattrs`] when the attributes of this inode are damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let Some(body) = self.xattr_body(inode)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        self.each_xattr(inode, &body, &mut |entry| {
            if let Some(name) = entry.name() {
                all.push(Xattr { name, value: entry.value.to_vec() });
            }
            false
        })?;
        Ok(all)
    }

    /// Reads the attribute called `name`, a full name such as `user.comment`.
    ///
    /// # Errors
    ///
    /// As [`xattrs`](Self::xattrs).
    pub fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some((base_index, rest)) = split(name).filter(|&(index, _)| index != LUSTRE) else {
            return Ok(None);
        };
        let Some(body) = self.xattr_body(inode)? else { return Ok(None) };
        let filter = u32::from_le_bytes([body[0], body[1], body[2], body[3]]);
        if self.superblock.filter_valid && filter & filter_bit(base_index, rest) != 0 {
            return Ok(None);
        }
        let mut found = None;
        self.each_xattr(inode, &body, &mut |entry| {
            let hit = entry.base_index == base_index
                && rest.strip_prefix(entry.infix).is_some_and(|name| name == entry.name);
            if hit {
                found = Some(entry.value.to_vec());
            }
            hit
        })?;
        Ok(found)
    }

    /// Lists the names of all attributes, and those that the name filter keeps a lookup from finding.
    pub(crate) fn xattr_names(&self, inode: &Inode) -> Result<XattrNames, Error> {
        let mut names = XattrNames::default();
        let Some(body) = self.xattr_body(inode)? else { return Ok(names) };
        let filter = u32::from_le_bytes([body[0], body[1], body[2], body[3]]);
        self.each_xattr(inode, &body, &mut |entry| {
            if let Some(name) = entry.name() {
                let rest = [entry.infix, entry.name].concat();
                if self.superblock.filter_valid && filter & filter_bit(entry.base_index, &rest) != 0 {
                    names.hidden.push(name.clone());
                }
                names.listed.push(name);
            }
            false
        })?;
        Ok(names)
    }

    /// Reads header, ids and inline entries; `None` when there are none.
    fn xattr_body(&self, inode: &Inode) -> Result<Option<Vec<u8>>, Error> {
        if inode.xattr_bytes == 0 {
            return Ok(None);
        }
        // At most 12 + 4 * 65534 bytes, and never less than a header.
        let mut body = vec![0; usize::try_from(inode.xattr_bytes).unwrap_or(XATTR_HEADER_BYTES)];
        self.read_meta(inode.xattrs_at, &mut body)?;
        Ok(Some(body))
    }

    /// Calls `each` for every entry until it returns true.
    fn each_xattr(
        &self,
        inode: &Inode,
        body: &[u8],
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Result<(), Error> {
        let fault = |fault| Error::Xattrs { nid: inode.nid, fault };
        let shared_count = usize::from(body[4]);
        let rest = &body[XATTR_HEADER_BYTES..];
        let (ids, mut inline) = rest
            .split_at_checked(shared_count * 4)
            .ok_or(fault(XattrFault::SharedCount { count: shared_count }))?;
        // Padding passes for entries without a known prefix, which nobody sees.
        while !inline.is_empty() {
            let header = entry_header(inline).ok_or(fault(XattrFault::Entry))?;
            let (entry, after) = inline.split_at_checked(header.padded()).ok_or(fault(XattrFault::Entry))?;
            inline = after;
            if each(self.entry(header, &entry[ENTRY_HEADER_BYTES..])) {
                return Ok(());
            }
        }
        for id in ids.chunks_exact(4) {
            let id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
            let at = self.shared_xattr(id).ok_or(fault(XattrFault::SharedId { id }))?;
            let mut header = [0; ENTRY_HEADER_BYTES];
            self.read_meta(at, &mut header)?;
            let header = EntryHeader::decode(header);
            let mut payload = vec![0; header.payload()];
            let payload_at =
                at.checked_add(ENTRY_HEADER_BYTES as u64).ok_or(fault(XattrFault::SharedId { id }))?;
            self.read_meta(payload_at, &mut payload)?;
            if each(self.entry(header, &payload)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Where shared entry `id` stands.
    fn shared_xattr(&self, id: u32) -> Option<MetaAddr> {
        let offset = 4 * u64::from(id);
        if self.metabox.is_some() && self.superblock.compat.contains(Compat::SHARED_EA_IN_METABOX) {
            return Some(MetaAddr::Metabox(offset.checked_add(self.superblock.xattr_space)?));
        }
        self.superblock.xattr_space.checked_add(offset).map(MetaAddr::Primary)
    }

    fn entry<'a>(&'a self, header: EntryHeader, payload: &'a [u8]) -> Entry<'a> {
        let (name, value) = payload.split_at(usize::from(header.name_len));
        let value = &value[..usize::from(header.value_size)];
        let (base_index, infix) = match header.name_index.checked_sub(LONG_PREFIX) {
            None => (header.name_index, b"".as_slice()),
            Some(long) => match self.prefixes.get(usize::from(long)) {
                Some(prefix) => (prefix.base_index, prefix.infix.as_slice()),
                None => (0, b"".as_slice()),
            },
        };
        Entry { base_index, infix, name, value }
    }
}

fn entry_header(bytes: &[u8]) -> Option<EntryHeader> {
    bytes.first_chunk().map(|header| EntryHeader::decode(*header))
}

/// Names of attributes; see [`Image::xattr_names`].
#[derive(Debug, Default)]
pub(crate) struct XattrNames {
    pub listed: Vec<Vec<u8>>,
    pub hidden: Vec<Vec<u8>>,
}

/// One entry with its prefix resolved.
struct Entry<'a> {
    base_index: u8,
    infix: &'a [u8],
    name: &'a [u8],
    value: &'a [u8],
}

impl Entry<'_> {
    /// The full name; `None` for what the kernel would not list.
    fn name(&self) -> Option<Vec<u8>> {
        let prefix = prefix(self.base_index).filter(|_| self.base_index != LUSTRE)?;
        let name = [prefix, self.infix, self.name].concat();
        (!name.contains(&0)).then_some(name)
    }
}
