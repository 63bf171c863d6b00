//! The kernels: built from Debian's linux-source packages, and kept in the user's cache folder.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest as _, Sha256};

/// Where the script and the options are.
fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("uml")
}

/// A kernel that is tested.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Version {
    /// Debian 12's: cachefiles on-demand.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's: cachefiles on-demand as it was at its end; FUSE.
    #[value(name = "6.12")]
    V6_12,
    /// Backports': fanotify with metadata; two processors.
    #[value(name = "7.3")]
    V7_3,
}

impl Version {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7_3];

    /// As in the package's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_3 => "7.3",
        }
    }

    /// The suite of Debian that has the package, where it is not the host's.
    fn suite(self) -> Option<&'static str> {
        match self {
            Self::V6_1 | Self::V6_12 => None,
            Self::V7_3 => Some("trixie-backports"),
        }
    }

    /// Configuration beyond um.frag.
    fn lines(self) -> &'static [&'static str] {
        match self {
            // Room for the registers of processors with AMX: see build.sh.
            Self::V6_1 | Self::V6_12 => &["CONFIG_KERNEL_STACK_ORDER=4"],
            Self::V7_3 => &["CONFIG_SMP=y", "CONFIG_NR_CPUS=4"],
        }
    }

    /// Arguments of the kernel.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 | Self::V6_12 => &[],
            Self::V7_3 => &["ncpus=2", "seccomp=on"],
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub version: Version,
    pub program: PathBuf,
    /// Version of the package that it was built from.
    pub package: String,
}

/// Takes a kernel from the cache, or builds it: some minutes, and 2 GiB that are given back.
pub fn get(version: Version, rebuild: bool) -> anyhow::Result<Kernel> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache)?;
    let sum = sum(version)?;
    // Whatever else is being built meanwhile: a kernel comes to its place in one step, as the last of its files.
    if let Some(kernel) = cached(&cache, version, &sum)?.filter(|_| !rebuild) {
        return Ok(kernel);
    }
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("waiting for another build")?;
    if let Some(kernel) = cached(&cache, version, &sum)?.filter(|_| !rebuild) {
        return Ok(kernel);
    }
    println!("kernel {version}: building it; this takes minutes, and only once");
    build(&cache, version)?;
    let name = format!("linux-um-{version}");
    let package = fs::read_to_string(cache.join(format!("{name}.version")))?.trim().to_owned();
    let place = |end: &str| cache.join(format!("{name}_{package}_{sum}{end}"));
    for end in [".config", ".log", ""] {
        fs::rename(cache.join(format!("{name}{end}")), place(end))?;
    }
    fs::remove_file(cache.join(format!("{name}.version")))?;
    Ok(Kernel { version, program: place(""), package })
}

/// `linux-um-VERSION_PACKAGE_SUM`, the newest by the package's version if there are several.
fn cached(cache: &Path, version: Version, sum: &str) -> anyhow::Result<Option<Kernel>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let package = name
            .strip_prefix(&format!("linux-um-{version}_"))
            .and_then(|rest| rest.strip_suffix(&format!("_{sum}")));
        if let Some(package) = package {
            let package = package.to_owned();
            found.push(Kernel { version, program: cache.join(&name), package });
        }
    }
    found.sort_by_key(|kernel| fs::metadata(&kernel.program).and_then(|meta| meta.modified()).ok());
    Ok(found.pop())
}

fn build(cache: &Path, version: Version) -> anyhow::Result<()> {
    let work = cache.join(format!("work-{version}"));
    let mut command = Command::new(recipe().join("build.sh"));
    command.arg("-w").arg(&work).args(["-t", version.as_str()]);
    for line in version.lines() {
        command.args(["-c", line]);
    }
    command.args(version.suite().into_iter().flat_map(|suite| ["-r", suite]));
    let status = command.arg(version.as_str()).arg(cache).status().context("build.sh")?;
    fs::remove_dir_all(&work).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    if !status.success() {
        bail!("the kernel {version} could not be built");
    }
    Ok(())
}

/// What the configuration is made of, in short: comments do not count.
fn sum(version: Version) -> anyhow::Result<String> {
    let fragment = fs::read_to_string(recipe().join("um.frag"))?;
    let is_option = |line: &&str| line.starts_with("CONFIG_") || line.starts_with("# CONFIG_");
    let mut hash = Sha256::new();
    for line in fragment.lines().chain(version.lines().iter().copied()).filter(is_option) {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    let mut text = String::new();
    for byte in &hash.finalize()[..6] {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

fn cache_dir() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    Ok(cache.or_else(home).context("no cache directory")?.join("larder-tests/uml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_again_by_its_configuration_whatever_its_package() {
        let cache = tempfile::tempdir().expect("a directory");
        for name in [
            "linux-um-6.12_6.12.1-1_aa",
            "linux-um-6.12_6.12.1-1_aa.config",
            "linux-um-6.12_6.12.9-1_bb",
            "linux-um-6.1_6.1.9-1_aa",
        ] {
            fs::write(cache.path().join(name), "").expect("disk");
        }
        let found = |version, sum: &str| {
            let kernel = cached(cache.path(), version, sum).expect("readable");
            kernel.map(|kernel| kernel.package)
        };
        assert_eq!(found(Version::V6_12, "aa").as_deref(), Some("6.12.1-1"));
        assert_eq!(found(Version::V6_12, "bb").as_deref(), Some("6.12.9-1"));
        assert_eq!(found(Version::V6_1, "aa").as_deref(), Some("6.1.9-1"));
        assert_eq!(found(Version::V7_3, "aa"), None);
    }

    #[test]
    fn the_lines_of_a_version_are_part_of_its_sum() {
        assert_ne!(sum(Version::V7_3).expect("readable"), sum(Version::V6_12).expect("readable"));
        assert_eq!(sum(Version::V6_1).expect("readable"), sum(Version::V6_12).expect("readable"));
    }
}
