//! [`XattrPlan`]: which attributes are stored once for all, and the xattr body of every set.

use super::node::NodeId;
use super::text::index;
use super::tree::Tree;
use super::xattr_table::{XattrTable, name_of};
use crate::Error;
use crate::inode::XATTR_HEADER_BYTES;
use crate::xattr::filter_bit;

/// An xattr body counts its shared entries in a byte.
const SHARED_MAX: usize = 255;

/// How the attributes of a tree are stored.
#[derive(Debug)]
pub(super) struct XattrPlan {
    /// Place of each entry in the shared area, in bytes; `None` for those stored inline only.
    offsets: Vec<Option<u32>>,
    /// The entries of the shared area, in order.
    shared: Vec<u32>,
    area_bytes: u32,
    /// By set: its shared entries and the length of its body.
    bodies: Vec<(Vec<u32>, u32)>,
}

impl XattrPlan {
    /// Shares the attributes of more than `inline_uses_max` inodes.
    pub(super) fn new(tree: &Tree, order: &[NodeId], inline_uses_max: u32) -> Result<Self, Error> {
        let table = &tree.xattrs;
        let mut set_uses = vec![0_u32; table.sets().len()];
        for &node in order {
            set_uses[index(tree.nodes[index(node)].xattrs)] += 1;
        }
        let mut uses = vec![0_u32; table.entries_len()];
        for (set, set_uses) in table.sets().iter().zip(set_uses) {
            for &entry in set.iter() {
                uses[index(entry)] = uses[index(entry)].saturating_add(set_uses);
            }
        }
        let candidates = (0..).zip(&uses).filter(|&(_, &uses)| uses > inline_uses_max);
        let mut shared: Vec<u32> = candidates.map(|(entry, _)| entry).collect();
        // By content: the image does not depend on the order in which the tree was put together.
        shared.sort_unstable_by_key(|&entry| table.entry(entry));

        let mut plan = Self {
            offsets: vec![None; uses.len()],
            shared: Vec::new(),
            area_bytes: 0,
            bodies: Vec::with_capacity(table.sets().len()),
        };
        for entry in shared {
            plan.offsets[index(entry)] = Some(plan.area_bytes);
            let bytes = table.entry(entry).len();
            let end = u32::try_from(bytes).ok().and_then(|bytes| plan.area_bytes.checked_add(bytes));
            plan.area_bytes = end.ok_or(Error::TooLarge { what: "4 GiB of extended attributes" })?;
            plan.shared.push(entry);
        }
        for set in table.sets() {
            let body = plan.body(table, set);
            plan.bodies.push(body);
        }
        Ok(plan)
    }

    /// Length of the shared area.
    pub(super) fn area_bytes(&self) -> u64 {
        u64::from(self.area_bytes)
    }

    /// Length of the xattr body of a set; 0 for the empty one.
    pub(super) fn body_bytes(&self, set: u32) -> u32 {
        self.bodies[index(set)].1
    }

    pub(super) fn any(&self) -> bool {
        self.bodies.iter().any(|body| body.1 > 0)
    }

    /// Appends the shared area.
    pub(super) fn write_area(&self, table: &XattrTable, out: &mut Vec<u8>) {
        for &entry in &self.shared {
            out.extend_from_slice(table.entry(entry));
        }
    }

    /// Appends the xattr body of a set; the shared area begins at unit `area_unit` of 4 bytes.
    pub(super) fn write_body(&self, table: &XattrTable, set: u32, area_unit: u32, out: &mut Vec<u8>) {
        let (shared, bytes) = &self.bodies[index(set)];
        if *bytes == 0 {
            return;
        }
        let entries = &table.sets()[index(set)];
        let mut filter = u32::MAX;
        for &entry in entries.iter() {
            let (name_index, name) = name_of(table.entry(entry));
            filter &= !filter_bit(name_index, name);
        }
        out.extend(filter.to_le_bytes());
        out.push(u8::try_from(shared.len()).expect("at most 255 entries of a set are shared"));
        out.extend([0; XATTR_HEADER_BYTES - 5]);
        for &entry in shared {
            let offset = self.offsets[index(entry)].expect("only entries with a place are shared");
            out.extend((area_unit + offset / 4).to_le_bytes());
        }
        for &entry in entries.iter().filter(|entry| !shared.contains(entry)) {
            out.extend_from_slice(table.entry(entry));
        }
    }

    fn body(&self, table: &XattrTable, set: &[u32]) -> (Vec<u32>, u32) {
        if set.is_empty() {
            return (Vec::new(), 0);
        }
        let has_place = |entry: &u32| self.offsets[index(*entry)].is_some();
        let shared: Vec<u32> = set.iter().copied().filter(has_place).take(SHARED_MAX).collect();
        let inline =
            set.iter().filter(|entry| !shared.contains(entry)).map(|&entry| table.entry(entry).len());
        let bytes = XATTR_HEADER_BYTES + 4 * shared.len() + inline.sum::<usize>();
        (shared, u32::try_from(bytes).expect("the table takes no set above 256 KiB"))
    }
}
