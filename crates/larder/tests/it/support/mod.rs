//! What the integration tests share: a root of their own, the program, its daemon, trees and their comparison.
//!
//! Every test has its own root, daemon and registry; whatever happens in it, the daemon is stopped and nothing stays
//! mounted. Nothing is ended but by the ids that the daemon under test has given.

use std::io::Write as _;
use std::process::Command;

pub mod caches;
pub mod compare;
pub mod daemon;
pub mod dying;
pub mod files;
pub mod images;
pub mod program;
pub mod tree;

pub use daemon::Larder;
pub use images::Image;

/// Every front end, in the order in which the program prefers them.
pub const FRONT_ENDS: [&str; 4] = ["fanotify", "fuse-blob", "cachefiles", "fuse"];

/// Why the worker of `frontend` cannot be replaced, or killed, under readers here.
pub fn cannot_replace(frontend: &str, killed: bool) -> Option<&'static str> {
    if !["fuse", "fuse-blob"].contains(&frontend) {
        return None;
    }
    if kernel() < (6, 9) {
        return Some("before Linux 6.9 a FUSE request that a worker had taken is not sent again to the next");
    }
    // Without a fast GUP the kernel looks for a fatal signal at every page that it copies for /dev/fuse.
    (killed && std::env::var_os("LARDER_UML").is_some())
        .then_some("User-Mode Linux ends what a killed FUSE daemon was copying with EIO")
}

/// Major and minor version of the kernel.
fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let text = name.release().to_string_lossy().into_owned();
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Says loudly that a test did not run, and why: past the test harness, which keeps what passing tests print.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Whether the kernel reads local files in place of FUSE's, and lets this user say so.
pub fn reads_past_the_worker() -> Result<(), &'static str> {
    if !is_root() {
        return Err("only root may have the kernel read a local file in place of another");
    }
    let config = Command::new("zcat").arg("/proc/config.gz").output().map(|output| output.stdout);
    let has_option = |config: Vec<u8>| String::from_utf8_lossy(&config).contains("CONFIG_FUSE_PASSTHROUGH=y");
    if config.is_ok_and(has_option) { Ok(()) } else { Err("this kernel has no FUSE passthrough") }
}
