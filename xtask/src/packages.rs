//! The Debian packages that tests and benchmarks need, and how they get here.

use std::process::Command;

use anyhow::{Context, bail};

/// A program that tests call, the package that has it, and what is missed without it.
struct Need {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        program: "fsck.erofs",
        package: "erofs-utils",
        purpose: "judges what Larder writes, writes what it reads",
    },
    Need { program: "fusermount3", package: "fuse3", purpose: "mounts without root" },
    Need { program: "setfattr", package: "attr", purpose: "extended attributes in test trees" },
    Need { program: "setfacl", package: "acl", purpose: "access control lists in test trees" },
    Need { program: "setcap", package: "libcap2-bin", purpose: "file capabilities in test trees" },
    Need { program: "setpriv", package: "util-linux", purpose: "runs tests as an unprivileged user" },
    Need { program: "nginx", package: "nginx-light", purpose: "serves trees over HTTP" },
    Need {
        program: "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so",
        package: "libnginx-mod-http-dav-ext",
        purpose: "serves trees over WebDAV",
    },
    Need { program: "python3", package: "python3-venv", purpose: "runs an S3 server, moto's from PyPI" },
    Need { program: "curl", package: "curl", purpose: "what downloads are measured against" },
    Need { program: "perl", package: "perl-base", purpose: "the program that the demo's test runs" },
];

/// What building and booting test kernels takes.
const KERNEL_NEEDS: &[Need] = &[
    Need { program: "gcc", package: "gcc", purpose: "compiles kernels" },
    Need { program: "make", package: "make", purpose: "builds kernels" },
    Need { program: "flex", package: "flex", purpose: "builds kernels" },
    Need { program: "bison", package: "bison", purpose: "builds kernels" },
    Need { program: "bc", package: "bc", purpose: "builds kernels" },
    Need { program: "xz", package: "xz-utils", purpose: "unpacks kernels" },
    Need { program: "/usr/include/libelf.h", package: "libelf-dev", purpose: "builds kernels" },
    Need { program: "/usr/include/openssl/opensslv.h", package: "libssl-dev", purpose: "builds kernels" },
    Need { program: "busybox", package: "busybox-static", purpose: "is the user space of test kernels" },
    Need { program: "cpio", package: "cpio", purpose: "packs it" },
    Need { program: "mkfs.ext4", package: "e2fsprogs", purpose: "makes the disks of test kernels" },
];

/// Installs what tests and benchmarks need.
pub fn install() -> anyhow::Result<()> {
    install_all(NEEDS)
}

/// Installs what test kernels need.
pub fn install_for_kernels() -> anyhow::Result<()> {
    install_all(KERNEL_NEEDS)
}

/// Installs what is missing when this user may, and says what it did or what to do.
fn install_all(needs: &[Need]) -> anyhow::Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_here(need.program)).collect();
    if missing.is_empty() {
        println!("packages: nothing to install, all of {} are here", names(needs.iter()));
        return Ok(());
    }
    for need in &missing {
        println!("packages: {} is missing ({}: {})", need.program, need.package, need.purpose);
    }
    let packages = names(missing.iter().copied());
    if !is_root() {
        println!(
            "packages: not root, so the tests that need them will be skipped, and benchmarks end; as root: apt-get install {packages}"
        );
        return Ok(());
    }
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(missing.iter().map(|need| need.package));
    apt(&install)?;
    println!("packages: installed {packages}");
    Ok(())
}

fn names<'a>(needs: impl Iterator<Item = &'a Need>) -> String {
    needs.map(|need| need.package).collect::<Vec<_>>().join(" ")
}

/// Whether a program is on the path or where Debian puts those of root; or a file, where it lies.
fn is_here(program: &str) -> bool {
    if program.starts_with('/') {
        return std::path::Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir: std::path::PathBuf| dir.join(program).is_file())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .status()
        .context("apt-get could not be started: Larder's tests install their tools on Debian 12 and 13")?;
    if !status.success() {
        bail!("apt-get {} failed with {status}", arguments.join(" "));
    }
    Ok(())
}
