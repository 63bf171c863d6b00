//! The object table and the request table: what the kernel's cachefiles keeps for its daemon, shared by every front end.
//!
//! A front end enters an object for each blob and a request for each question. The daemon side (the engine; for the
//! kernel's own cachefiles, whoever reads its device) takes messages and answers them. Whatever either side does, and
//! whenever, each request ends once, and its waiter is told.
//!
//! The rules are those of fs/cachefiles/ondemand.c (v6.12) after all of its repairs. Each of those has a test in
//! `cves.rs` that is named after it. These have no counterpart here:
//!
//! - CVE-2024-56549 (write after withdraw), 2024-45000, 2024-49870, 2024-26840, 2026-93810 and 32eb47eab833's second
//!   half (culling, binding, cookies in use): objects of the backend, tested in `cachefiles` and `fscache`;
//! - b688bd1735e7 (an unreadable attribute), 2024-46748 (a write larger than a call may be), the write position and the
//!   short write: `cachefiles` again;
//! - CVE-2024-46786 (a timer that fires after its module is gone): no timer here holds anything;
//! - the padding of a volume key, the cache bound without `ondemand`, the bio completed twice: there is no such message,
//!   mode or bio; "one completion for each request" is what the property test checks;
//! - CVE-2024-41057 and -41058 (volume lookup against the daemon's exit): the half that is ours, an object entered while
//!   everything ends, is `cve_2024_41057_…`.

mod id;
mod message;
mod object;
mod record;
mod refused;
mod request;
mod shared;
mod tables;

#[cfg(test)]
mod cves;
#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod model;

pub use id::{HandleId, ObjectId, RequestId};
pub use message::{Answer, Body, Ending, Message, Reply};
pub use object::{Impossible, ObjectEvent, ObjectState};
pub use refused::Refused;
pub use request::{Kind, RequestEvent, RequestState, Unmoved};
pub use shared::{Hold, SharedTables, Waiting};
pub use tables::{Limits, Tables};
