//! [`Guest`]: one boot of a kernel.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::initramfs::Initramfs;
use super::kernel::Kernel;

/// What the console says when something is wrong with the kernel.
const TROUBLE: [&str; 7] = [
    "Kernel panic",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "general protection fault",
    "WARNING: CPU:",
    "INFO: task ",
];

/// How a guest is booted.
pub struct Boot<'a> {
    pub kernel: &'a Kernel,
    pub initramfs: &'a Initramfs,
    /// Run by busybox's sh.
    pub script: &'a str,
    /// The disk `/dev/ubda`.
    pub disk: &'a Path,
    /// What the guest leaves in `/out`.
    pub out: &'a Path,
    /// Folders that the guest sees under the same paths, read-only, beside the workspace.
    pub shown: &'a [&'a Path],
    /// Memory, as the kernel reads it.
    pub memory: &'a str,
}

/// A running guest; dropped, it is gone, as by a power cut.
pub struct Guest {
    child: Child,
    /// Share, socket and memory: gone with the guest.
    _work: TempDir,
    console: PathBuf,
    token: String,
}

/// How a guest ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// With the script's status.
    Status(i32),
    /// It took too long.
    Limit,
    /// The kernel complained.
    Trouble(String),
    /// It ended without a word.
    Silent,
}

impl Guest {
    /// Boots; the console goes to `out/console`.
    pub fn boot(boot: &Boot<'_>) -> anyhow::Result<Self> {
        // Memory as fast as memory, where it may be executed.
        let shm = Path::new("/dev/shm");
        let work = match tempfile::Builder::new().prefix("uml-").tempdir_in(shm) {
            Ok(dir) => dir,
            Err(_) => tempfile::tempdir()?,
        };
        fs::write(work.path().join("test.sh"), boot.script)?;
        let workspace =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in the workspace")?;
        let console = boot.out.join("console");
        let token = format!("UML-{}", work.path().file_name().unwrap_or_default().display());
        let mut command = Command::new(&boot.kernel.program);
        let mut shown = plain(workspace)?.to_owned();
        for folder in boot.shown {
            shown = format!("{shown}:{}", plain(folder)?);
        }
        command
            .arg(format!("UML_SHARE={}", plain(work.path())?))
            .arg(format!("UML_OUT={}", plain(boot.out)?))
            .arg(format!("UML_SAME={shown}"))
            .arg(format!("mem={}", boot.memory))
            .arg(format!("initrd={}", boot.initramfs.path.display()))
            .arg(format!("ubd0={}", boot.disk.display()))
            .arg(format!("uml_dir={}/", work.path().display()))
            .arg(format!("UML_TOKEN={token}"))
            .args([
                "umid=uml",
                "con=null",
                "con0=null,fd:1",
                "console=tty0",
                "quiet",
                "loglevel=5",
                "panic=-1",
            ])
            .args(boot.kernel.version.arguments())
            .env("TMPDIR", work.path())
            .stdin(Stdio::null())
            .stdout(File::create(&console)?)
            .stderr(File::options().append(true).open(&console)?)
            // The guest's processes are processes of the host, all of one group.
            .process_group(0);
        let child = command.spawn().with_context(|| format!("{}", boot.kernel.program.display()))?;
        Ok(Self { child, _work: work, console, token })
    }

    /// Waits until the guest has ended, but not for longer than `limit`: then it is killed.
    pub fn wait(mut self, limit: Duration) -> anyhow::Result<End> {
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > limit {
                return Ok(End::Limit);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.end()
    }

    /// What the console has said so far.
    pub fn console(&self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        File::open(&self.console)?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Takes the guest's power away; returns what its console had said.
    pub fn cut_power(self) -> anyhow::Result<String> {
        self.kill();
        self.console()
    }

    /// Every process of the guest's is one of ours, in its group.
    fn kill(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    fn end(&self) -> anyhow::Result<End> {
        let console = self.console()?;
        if let Some(line) = trouble(&console) {
            return Ok(End::Trouble(line.to_owned()));
        }
        let said = format!("guest: {} rc=", self.token);
        let status = console.lines().rev().find_map(|line| line.strip_prefix(&said)?.trim().parse().ok());
        Ok(status.map_or(End::Silent, End::Status))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// A path that survives the command line of a kernel, which splits at spaces, and the options of hostfs, which end at
/// commas.
fn plain(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str().context("a path of ours is no text")?;
    ensure!(!text.contains([' ', ',', '"', ':']), "{text}: no spaces, commas, colons or quotes are possible");
    Ok(text)
}

/// The first line of a console on which the kernel complains.
pub fn trouble(console: &str) -> Option<&str> {
    console.lines().find(|line| TROUBLE.iter().any(|word| line.contains(word)))
}

/// Makes a disk with an empty ext4 of `mib` MiB that has fs-verity; with a journal it survives a power cut.
pub fn make_disk(path: &Path, mib: u64, journal: bool) -> anyhow::Result<()> {
    let file = File::create(path)?;
    file.set_len(mib << 20)?;
    let features = if journal { "verity,has_journal" } else { "verity,^has_journal" };
    let mkfs = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"].into_iter().find(|path| Path::new(path).is_file());
    let status = Command::new(mkfs.context("no mkfs.ext4 (package e2fsprogs)")?)
        .args(["-q", "-F", "-b", "4096", "-O", features])
        .arg(path)
        .status()?;
    if !status.success() {
        bail!("mkfs.ext4 failed with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_complains_is_heard() {
        assert_eq!(trouble("a\nguest: x rc=0\n"), None);
        let line = "[   12.3] INFO: task larder:12 blocked for more than 30 seconds.";
        assert_eq!(trouble(&format!("a\n{line}\nb")), Some(line));
        assert!(trouble("WARNING: CPU: 0 PID: 1 at fs/x.c:1").is_some());
    }
}
