//! Trees of a remote store as a file system: names and versions here, bytes through `larder-netfs`.
//!
//! A node is one *version* of one path. A file that changes gets a new node, and with it a new page cache in the
//! kernel, a new cookie in the cache and a new netfs file: nothing of two versions can meet. Opening asks the server
//! whether the node's version is still the one; if not, the kernel is told ESTALE, looks the name up again and gets the
//! new node, without the program noticing.

mod files;
mod fs;
mod journal;
mod listings;
mod nodes;
mod open;
mod source;

pub use files::Files;
pub use fs::TreeFs;
pub use journal::forget;
pub use open::{TreeOptions, connect};
