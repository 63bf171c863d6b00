//! [`XattrTable`]: every attribute and every set of attributes once, since most inodes share theirs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Xattr;
use crate::inode::XATTR_HEADER_BYTES;
use crate::xattr::{ENTRY_HEADER_BYTES, EntryHeader, prefix, split};

/// The most an xattr body can hold: a 16-bit count of 4-byte units.
const BODY_BYTES_MAX: usize = XATTR_HEADER_BYTES + 4 * (u16::MAX as usize - 1);

/// Attributes as they will stand on disk, and the sets that inodes have.
#[derive(Debug)]
pub(super) struct XattrTable {
    entries: Vec<Arc<[u8]>>,
    entry_ids: HashMap<Arc<[u8]>, u32>,
    sets: Vec<Arc<[u32]>>,
    set_ids: HashMap<Arc<[u32]>, u32>,
}

impl Default for XattrTable {
    /// A table with the empty set, whose number is 0.
    fn default() -> Self {
        let none: Arc<[u32]> = Arc::new([]);
        Self {
            entries: Vec::new(),
            entry_ids: HashMap::new(),
            sets: vec![Arc::clone(&none)],
            set_ids: HashMap::from([(none, 0)]),
        }
    }
}

impl XattrTable {
    /// Returns the number of this set of attributes; the reason when EROFS cannot store it.
    pub(super) fn add_set(&mut self, xattrs: &[Xattr]) -> Result<u32, &'static str> {
        let mut encoded = xattrs.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        // By index and name: the order in which a reader meets them, whoever listed them.
        encoded.sort_unstable();
        if encoded.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("has an extended attribute twice");
        }
        let bytes: usize = encoded.iter().map(|(_, entry)| entry.len()).sum();
        if bytes > BODY_BYTES_MAX - XATTR_HEADER_BYTES {
            return Err("has more than 256 KiB of extended attributes");
        }
        let set: Vec<u32> = encoded.into_iter().map(|(_, entry)| self.add_entry(entry)).collect();
        let set: Arc<[u32]> = set.into();
        if let Some(&id) = self.set_ids.get(&set) {
            return Ok(id);
        }
        let id = u32::try_from(self.sets.len()).map_err(|_| "is one set of attributes too many")?;
        self.sets.push(Arc::clone(&set));
        self.set_ids.insert(set, id);
        Ok(id)
    }

    /// The attributes of a set.
    pub(super) fn set(&self, id: u32) -> Vec<Xattr> {
        self.sets[super::text::index(id)].iter().map(|&entry| decode(self.entry(entry))).collect()
    }

    /// The encoded entry of a number.
    pub(super) fn entry(&self, id: u32) -> &[u8] {
        &self.entries[super::text::index(id)]
    }

    pub(super) fn entries_len(&self) -> usize {
        self.entries.len()
    }

    /// The sets in the order of their numbers.
    pub(super) fn sets(&self) -> &[Arc<[u32]>] {
        &self.sets
    }

    fn add_entry(&mut self, entry: Vec<u8>) -> u32 {
        let entry: Arc<[u8]> = entry.into();
        if let Some(&id) = self.entry_ids.get(&entry) {
            return id;
        }
        let id = u32::try_from(self.entries.len()).expect("2^32 entries would not fit into memory");
        self.entries.push(Arc::clone(&entry));
        self.entry_ids.insert(entry, id);
        id
    }
}

/// What orders the attributes of a set: index and name.
type SortKey = (u8, Vec<u8>);

fn encode(xattr: &Xattr) -> Result<(SortKey, Vec<u8>), &'static str> {
    let (name_index, name) = split(&xattr.name).ok_or("has an extended attribute without a known prefix")?;
    let name_len = u8::try_from(name.len()).map_err(|_| "has an extended attribute with too long a name")?;
    let value_size =
        u16::try_from(xattr.value.len()).map_err(|_| "has an extended attribute of 64 KiB or more")?;
    let header = EntryHeader { name_len, name_index, value_size };
    let mut entry = Vec::with_capacity(header.padded());
    entry.extend(header.encode());
    entry.extend_from_slice(name);
    entry.extend_from_slice(&xattr.value);
    entry.resize(header.padded(), 0);
    Ok(((name_index, name.to_vec()), entry))
}

/// The attribute that an entry made by [`encode`] holds.
fn decode(entry: &[u8]) -> Xattr {
    let (name_index, rest) = name_of(entry);
    let prefix = prefix(name_index).expect("encoded with a known prefix");
    let value = ENTRY_HEADER_BYTES + rest.len();
    let len = usize::from(u16::from_le_bytes([entry[2], entry[3]]));
    Xattr { name: [prefix, rest].concat(), value: entry[value..value + len].to_vec() }
}

/// The name part of an encoded entry, with its prefix number.
pub(super) fn name_of(entry: &[u8]) -> (u8, &[u8]) {
    let end = ENTRY_HEADER_BYTES + usize::from(entry[0]);
    (entry[1], &entry[ENTRY_HEADER_BYTES..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, value: &[u8]) -> Xattr {
        Xattr { name: name.into(), value: value.to_vec() }
    }

    #[test]
    fn equal_sets_have_one_number_whatever_their_order() {
        let mut table = XattrTable::default();
        assert_eq!(table.add_set(&[]), Ok(0));
        let (a, b) = (xattr("user.a", b"1"), xattr("trusted.b", b"2"));
        let first = table.add_set(&[a.clone(), b.clone()]).expect("storable");
        assert_eq!(table.add_set(&[b, a]), Ok(first));
        assert_eq!(table.entries_len(), 2);
        assert_eq!(
            table.set(first),
            [xattr("trusted.b", b"2"), xattr("user.a", b"1")]
                .map(|one| one)
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused_with_a_reason() {
        let mut table = XattrTable::default();
        assert!(table.add_set(&[xattr("system.nfs4_acl", b"")]).is_err());
        assert!(table.add_set(&[xattr("user.big", &[0; 65536])]).is_err());
        assert!(table.add_set(&[xattr("user.big", &[0; 65535])]).is_ok());
        let many: Vec<_> = (0..5).map(|n| xattr(&format!("user.{n}"), &[0; 65000])).collect();
        assert!(table.add_set(&many).is_err());
        assert!(table.add_set(&[xattr("user.a", b"1"), xattr("user.a", b"2")]).is_err());
    }
}
