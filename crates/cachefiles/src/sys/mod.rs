//! All that is unsafe in this crate.

mod lease;
mod mapping;
mod verity;

pub(crate) use lease::is_open_elsewhere;
pub(crate) use mapping::Mapping;
pub(crate) use verity::enable_verity;
