//! Tar archives as a source: read from front to back, never unpacked to disk.
//!
//! [`entries`](Entries) understands ustar, the extensions of GNU tar (long names, sparse files, large numbers) and PAX
//! records. Whatever the bytes say, nothing is read beyond them, and memory is bounded by what has been read and by
//! [limits](claims) on what is only claimed.

mod add;
mod batches;
mod claims;
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
