//! Tar archives as a source: read from front to back, never unpacked to disk.
//!
//! [`entries`](Entries) understands ustar, the extensions of GNU tar (long names, sparse files, large numbers) and PAX
//! records. Whatever the bytes say, memory stays bounded and nothing is read beyond them.

mod add;
mod batches;
mod contents;
mod decoded;
mod entries;
mod feed;
mod header;
mod index;
mod pax;
mod sparse;

pub use add::{MapAttributes, TarOptions};
pub use decoded::{ArchiveCodec, PeekedArchive, decode_archive, peek_archive};
pub use entries::TarFault;
pub use index::index_tar;

pub(super) use add::Adder;
pub(super) use batches::TarBatches;
pub(super) use entries::{Entries, EntryKind};
pub(super) use feed::TarFeed;
