//! One file a subcommand: its arguments, its help, its run.

pub mod build;
pub mod cache;
pub mod cat;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod erofs;
pub mod inside;
pub mod ls;
pub mod mount;
pub mod run;
pub mod serve;
pub mod status;
pub mod trace;
pub mod umount;
pub mod worker;
