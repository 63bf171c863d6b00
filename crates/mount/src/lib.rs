//! Front ends: kernel EROFS over fanotify, FUSE, and the keeper that holds their descriptors.
pub mod keeper;
mod sys;
