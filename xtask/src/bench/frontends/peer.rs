//! [`Peer`]: what a front end is measured against.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::mount::{UnmountFlags, unmount};

use super::super::erofs::peer::Peer as Tools;
use super::super::erofs::spent::timed;
use super::super::native::NativeMount;

/// Which program shows the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerKind {
    /// The kernel's EROFS.
    Native,
    /// Debian's EROFS in user space.
    Erofsfuse,
}

impl PeerKind {
    /// As it stands in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Erofsfuse => "erofsfuse",
        }
    }
}

/// A mount of copies of the same files.
pub enum Peer {
    /// The kernel's EROFS.
    Native(NativeMount),
    /// Debian's EROFS in user space.
    Erofsfuse(Erofsfuse),
}

impl Peer {
    /// Mounts `copies`, blob and metadata, at `target`.
    pub fn mount(kind: PeerKind, copies: &[PathBuf], target: &Path) -> anyhow::Result<Self> {
        let [blob, metadata] = copies else { anyhow::bail!("a blob and its metadata are compared") };
        Ok(match kind {
            PeerKind::Erofsfuse => Self::Erofsfuse(Erofsfuse::new(metadata, blob, target)?),
            PeerKind::Native => Self::Native(NativeMount::new(metadata, std::slice::from_ref(blob), target)?),
        })
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        match self {
            Self::Native(mount) => mount.target(),
            Self::Erofsfuse(Erofsfuse { target }) => target,
        }
    }
}

/// A mount by erofsfuse that ends when dropped.
pub struct Erofsfuse {
    target: PathBuf,
}

impl Erofsfuse {
    fn new(metadata: &Path, blob: &Path, target: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(target)?;
        let device = format!("--device={}", blob.display());
        timed(Command::new(Tools::find()?.tool("erofsfuse")).arg(device).args([metadata, target]))
            .context("erofsfuse is not in Debian 12: name a folder with it in EROFS_UTILS")?;
        Ok(Self { target: target.to_owned() })
    }
}

impl Drop for Erofsfuse {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.target, UnmountFlags::DETACH) {
            eprintln!("bench: {}: not unmounted: {error}", self.target.display());
        }
    }
}
