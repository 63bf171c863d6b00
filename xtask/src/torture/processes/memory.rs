//! [`Memory`]: a control group around the daemon, whose memory can become short for a while.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Where groups with a memory limit are made, and the limit's file: version 2, then version 1.
const HIERARCHIES: [(&str, &str); 2] =
    [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];

/// What takes a limit away again, in both versions.
const NO_LIMIT: [&str; 2] = ["max", "-1"];

/// A group.
pub struct Memory {
    dir: PathBuf,
    limit: PathBuf,
}

impl Memory {
    /// Makes a group.
    ///
    /// # Errors
    ///
    /// When this host or user cannot.
    pub fn make() -> anyhow::Result<Self> {
        for (root, limit) in HIERARCHIES {
            let dir = Path::new(root).join(format!("larder-chaos-{}", std::process::id()));
            if fs::create_dir(&dir).is_err() {
                continue;
            }
            let memory = Self { limit: dir.join(limit), dir };
            if memory.limit.exists() {
                return Ok(memory);
            }
        }
        bail!("no control group with a memory limit can be made");
    }

    /// Puts processes, and whatever they start, into the group.
    pub fn hold(&self, pids: &[i32]) {
        for pid in pids {
            // It may have ended.
            drop(fs::write(self.dir.join("cgroup.procs"), pid.to_string()));
        }
    }

    /// Limits the group to `bytes` for so long; where it has more and cannot give it back, the kernel kills the worker,
    /// or (version 1) refuses.
    pub fn squeeze(&self, bytes: u64, lasts: Duration) -> anyhow::Result<()> {
        let squeezed = fs::write(&self.limit, bytes.to_string());
        if squeezed.is_ok() {
            sleep(lasts);
        }
        NO_LIMIT
            .iter()
            .find(|none| fs::write(&self.limit, none).is_ok())
            .with_context(|| format!("{}: the limit stays", self.limit.display()))?;
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Empty: every daemon of the campaign has ended.
        drop(fs::remove_dir(&self.dir));
    }
}
