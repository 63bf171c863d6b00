//! The daemon: what the worker process does, and how a client starts one.
//!
//! The worker holds one [`Store`], the front ends and the table of mounts; everything that must outlive it lies with the
//! keeper (descriptors) and in the state directory (records, manifests, indexes), so that the next one can go on.

mod cache;
mod complaints;
pub mod formats;
pub mod front_ends;
mod gate;
pub mod holder;
pub mod listener;
pub mod live;
pub mod mounting;
mod patience;
pub mod record;
pub mod replace;
pub mod resume;
pub mod served_with;
mod signals;
pub mod stale;
pub mod stand_in;
pub mod start;
pub mod stopping;
pub mod table;
#[cfg(test)]
mod testing;
pub mod tracing;
pub mod trees;
pub mod upkeep;
pub mod view;
pub mod waiting;
pub mod worker;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use larder_mount::keeper::{self, Holder, NoKeeper};
use larder_remote::HttpClient;
use tokio::sync::{Notify, Semaphore};

use crate::paths::Paths;
use crate::store::Store;
use crate::trace::Hub;
use complaints::Complaints;
use front_ends::FrontEnds;
use gate::Gate;
use holder::Kept;
use live::Live;
use start::Options;
use table::MountTable;
use trees::Trees;
use waiting::Waiting;

/// The running worker: what the API's endpoints work on.
pub struct Daemon {
    paths: Paths,
    /// What every worker of this daemon is started with.
    options: Options,
    store: Store,
    http: HttpClient,
    front_ends: Arc<FrontEnds>,
    trees: Trees,
    mounts: MountTable,
    /// Mounted, but not taken up yet.
    waiting: Waiting,
    /// Closed while the daemon stops.
    gate: Gate,
    /// How many images may be opened at once.
    opening: Semaphore,
    /// Unmounted, but somebody may still read from them.
    leaving: Mutex<Vec<Arc<Live>>>,
    /// Absent when the worker was started without one.
    keeper: Option<keeper::Client>,
    /// The same, as the cache sees it.
    kept: Arc<Kept>,
    /// Who listens to trace events.
    trace: Arc<Hub>,
    /// What was said of stops that failed: they are tried again every second.
    complaints: Complaints,
    /// Set once, when the daemon ends: the file system of the cache hangs, and whoever touches it.
    cache_hangs: AtomicBool,
    /// Told when another program is to take over.
    make_way: Notify,
    /// Told when the daemon has stopped and the process may end.
    stopped: Arc<Notify>,
}

impl Daemon {
    fn holder(&self) -> &dyn Holder {
        match &self.keeper {
            Some(keeper) => keeper,
            None => &NoKeeper,
        }
    }
}
