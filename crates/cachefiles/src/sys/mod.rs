//! All that is unsafe in this crate.

mod mapping;
mod verity;

pub(crate) use mapping::Mapping;
pub(crate) use verity::enable_verity;
