//! The initramfs: busybox, the first process, and the libraries that dynamic programs need, at their places.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Folders that the guest needs.
const FOLDERS: [&str; 10] = ["bin", "dev", "proc", "sys", "tmp", "etc", "mnt", "cache", "host", "out"];

/// A packed initramfs.
pub struct Initramfs {
    pub path: PathBuf,
}

impl Initramfs {
    /// Packs one into `dir`, for programs that need what `program` needs.
    pub fn make(dir: &Path, program: &Path) -> anyhow::Result<Self> {
        let tree = tempfile::tempdir()?;
        let root = tree.path();
        for folder in FOLDERS {
            fs::create_dir(root.join(folder))?;
        }
        let busybox = busybox()?;
        fs::copy(&busybox, root.join("bin/busybox"))?;
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("uml/init");
        fs::copy(init, root.join("init"))?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        for library in libraries(program)? {
            let place = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(place.parent().context("a library has a folder")?)?;
            fs::copy(&library, place).with_context(|| format!("{}", library.display()))?;
        }
        // What knows users by name asks these.
        fs::write(root.join("etc/passwd"), "root:x:0:0::/tmp:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\n")?;
        let path = dir.join("initramfs");
        pack(root, &path)?;
        Ok(Self { path })
    }
}

fn busybox() -> anyhow::Result<PathBuf> {
    let found =
        ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.is_file());
    let busybox = found.context("no busybox (package busybox-static)")?;
    let dynamic = Command::new("ldd").arg(&busybox).output().is_ok_and(|output| output.status.success());
    ensure!(!dynamic, "{} is not static (package busybox-static)", busybox.display());
    Ok(busybox)
}

/// The loader and the libraries, as ldd(1) lists them; a static program has none.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8(output.stdout)?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

fn pack(root: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("sh")
        .args(["-c", "find . | sort | cpio -o -H newc -R 0:0 --quiet > \"$0\""])
        .arg(std::path::absolute(to)?)
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("cpio failed with {status} (package cpio)");
    }
    Ok(())
}
