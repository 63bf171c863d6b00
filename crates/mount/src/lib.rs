//! Front ends: how the kernel's questions for bytes arrive, and how mounts survive the process that answers them.
//!
//! [`probe()`] says which front end works on a host, [`open`] opens one, [`FrontEnd::mount`] mounts an image whose
//! blobs are filled by `larder-ondemand`. Descriptors that must outlive the process go to the [`keeper`]. Where
//! bytes come from is not known here.

mod awake;
mod content;
mod erofs;
mod error;
mod front_end;
mod grace;
mod identity;
mod mounts;
mod probe;
mod target;
mod walk;

pub mod cachefiles;
pub mod fanotify;
pub mod fuse;
pub mod fuse_blob;
pub mod keeper;
pub mod ns;
mod sys;

pub use error::Error;
pub use front_end::{FrontEnd, FrontEndKind, MountSpec, Mounted, UnknownFrontEnd, open};
pub use identity::Identity;
pub use probe::{Probe, Unavailable, probe};
pub use target::{Detached, MountPoint, detach_mount_of, mount_of, mount_points};
pub use walk::check_path;
