//! Larder as the benchmarks use it: the real binary, in a root of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

/// A daemon with everything it has mounted; stopped when dropped.
pub struct Larder {
    binary: PathBuf,
    root: PathBuf,
}

impl Larder {
    /// Prepares a root below `dir`; the first mount starts the daemon.
    pub fn new(binary: &Path, dir: &Path) -> Self {
        Self { binary: binary.to_owned(), root: dir.join("root") }
    }

    /// Runs a command of Larder and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.binary)
            .arg("--root")
            .arg(&self.root)
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .context("larder could not be started")?;
        if !output.status.success() {
            bail!("larder {} failed with {}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Mounts `image` at `target` through fanotify; `target` is made.
    pub fn mount(&self, image: &str, target: &Path) -> anyhow::Result<()> {
        self.mount_through("fanotify", image, target)
    }

    /// Mounts `image` at `target`, which is made, through `front_end`.
    pub fn mount_through(&self, front_end: &str, image: &str, target: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(target)?;
        self.run(&["mount", "--frontend", front_end, image, text(target)?])?;
        Ok(())
    }

    /// Mounts the tree at `url` at `target`, which is made.
    #[cfg(feature = "cache-bench")]
    pub fn mount_tree(&self, url: &str, target: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(target)?;
        self.run(&["mount", url, text(target)?])?;
        Ok(())
    }

    /// What `larder status` says.
    pub fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.run(&["status", "--json"])?)?)
    }

    /// Waits until the only mount is complete, sealed and without marks.
    pub fn wait_until_complete(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let status = self.status()?;
            let mut mounts = status["mounts"].as_array().into_iter().flatten();
            if mounts.all(|mount| mount["state"] == "complete") {
                // The state changes when the last byte is here; the mark goes a commit later.
                std::thread::sleep(Duration::from_secs(7));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("the mount did not become complete: {}", self.status()?);
    }

    /// The cache's files, largest first: backing files of blobs.
    pub fn backing_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        // Beside the objects lies their index, which can be larger than a small image's metadata.
        collect(&self.root.join("cache/cache"), &mut found)?;
        found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }
}

impl Drop for Larder {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["daemon", "--stop"]) {
            eprintln!("bench: the daemon could not be stopped: {error:#}");
        }
    }
}

/// A registry over a layout, behind a link.
pub struct Registry {
    child: Child,
    /// `HOST:PORT`.
    pub host: String,
}

impl Registry {
    /// Starts `larder serve` with `arguments` on a free port.
    pub fn start(binary: &Path, layout: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--json"])
            .args(arguments)
            .arg(layout)
            .stdout(Stdio::piped())
            .spawn()
            .context("larder serve could not be started")?;
        // Made first, so that the server ends whatever happens below.
        let mut registry = Self { child, host: String::new() };
        let output = registry.child.stdout.take().context("no standard output")?;
        let mut documents = serde_json::Deserializer::from_reader(output).into_iter::<Value>();
        let said = documents.next().context("larder serve said nothing")??;
        registry.host = said["address"].as_str().context("no address")?.to_owned();
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path as the command line takes it.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn collect(dir: &Path, found: &mut Vec<(u64, PathBuf)>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            collect(&entry.path(), found)?;
        } else if !entry.file_name().as_encoded_bytes().ends_with(b"@map") {
            found.push((meta.len(), entry.path()));
        }
    }
    Ok(())
}
