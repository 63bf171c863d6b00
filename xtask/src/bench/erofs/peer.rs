//! [`Peer`]: the erofs-utils that Larder is measured against.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Where its tools are.
pub struct Peer {
    folder: Option<PathBuf>,
}

impl Peer {
    /// Finds them and says which version they are.
    pub fn find() -> anyhow::Result<Self> {
        let peer = Self { folder: std::env::var_os("EROFS_UTILS").map(PathBuf::from) };
        let output = Command::new(peer.tool("fsck.erofs")).arg("-V").output().context(
            "fsck.erofs cannot be started: install erofs-utils, or name a folder with it in EROFS_UTILS",
        )?;
        eprintln!(
            "bench: {}",
            String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("fsck.erofs")
        );
        Ok(peer)
    }

    /// The path of a tool.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(|| name.into(), |folder| folder.join(name))
    }
}

/// Forgets what the kernel keeps of names and contents, so that every run begins alike; needs root.
pub fn forget_caches() {
    rustix::fs::sync();
    // Without root the runs still take turns.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
}

/// Reads a file through, so that both sides find it in memory.
pub fn warm(path: &Path) -> anyhow::Result<()> {
    let copied = std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
    ensure!(copied > 0, "{} is empty", path.display());
    Ok(())
}
