//! All that is unsafe in this crate.

mod handle;
mod lease;
mod mapping;
mod verity;

pub(crate) use handle::{MountId, handle_at, open_by_handle};
pub(crate) use lease::is_open_elsewhere;
pub(crate) use mapping::Mapping;
pub(crate) use verity::enable_verity;
