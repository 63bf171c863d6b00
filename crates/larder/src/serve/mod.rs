//! The embedded registry: the read side of the OCI distribution API over a layout directory.
//!
//! [`Server`] runs on a thread and a runtime of its own, so that the commands and the demo can hold it as a value.
//! [`Link`] shapes what it sends: round trips and bandwidth, shared by every connection. Whatever repository name a
//! client uses, it reads the one layout.

mod answer;
mod body;
mod failure;
mod layout;
mod link;
mod rate;
mod route;
mod server;
mod span;
mod traffic;

pub use layout::{Layout, LayoutError};
pub use link::Link;
pub use rate::Bandwidth;
pub use server::Server;
pub use traffic::Traffic;
