//! EROFS images as files: made by the program, or golden ones; and the kernel as a judge.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::daemon::Larder;
use super::program::argument;
use super::{Image, is_root};

/// An image with its device files.
pub struct ImageFile {
    /// Metadata.
    pub image: PathBuf,
    /// Data.
    pub devices: Vec<PathBuf>,
}

impl ImageFile {
    /// Builds `source` without compression and copies the parts out of the layout.
    #[track_caller]
    pub fn build(larder: &Larder, source: &Path, name: &str) -> Self {
        let layout = larder.path(&format!("{name}-layout"));
        larder
            .run([
                "build".into(),
                argument("dir:", source),
                argument("oci:", &layout),
                "--compression".into(),
                "none".into(),
            ])
            .ok();
        let built = Image::opened(&layout);
        let copy = |digest: &str, end: &str| {
            let path = larder.path(&format!("{name}.{end}"));
            fs::copy(built.blob(digest), &path).expect("a blob can be copied");
            path
        };
        let image = copy(&built.metadata(), "erofs");
        let devices = built.devices();
        let devices =
            devices.iter().enumerate().map(|(number, digest)| copy(digest, &format!("{number}.blob")));
        Self { image, devices: devices.collect() }
    }

    /// The arguments that name the parts.
    pub fn arguments(&self) -> Vec<OsString> {
        let devices = self.devices.iter().map(|device| argument("--device=", device));
        devices.chain([self.image.clone().into_os_string()]).collect()
    }
}

/// The golden images of `crates/erofs`: every way of storing files.
pub fn golden() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../erofs/tests/golden");
    let mut images: Vec<PathBuf> = fs::read_dir(dir)
        .expect("they are in the repository")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|end| end == "img"))
        .collect();
    images.sort();
    assert!(images.len() >= 18, "{images:?}");
    images
}

/// The golden image with this name.
pub fn golden_image(name: &str) -> PathBuf {
    let found = golden().into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
    found.expect("it is in the repository")
}

/// Whether the kernel can be the judge of a golden image: Linux 6.18 does not list shared attributes of images with a
/// metabox.
pub fn kernel_shows_all(image: &Path) -> bool {
    !image.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("metabox"))
}

/// An image mounted by the kernel; dropped, it is unmounted.
pub struct KernelMount(PathBuf);

impl KernelMount {
    /// Mounts `image` on the directory `at`; the reason when this kernel or user cannot.
    pub fn new(image: &Path, devices: &[PathBuf], at: &Path) -> Result<Self, String> {
        if !is_root() {
            return Err("mounting needs root".to_owned());
        }
        let options: Vec<Vec<u8>> =
            devices.iter().map(|path| [b"device=", path.as_os_str().as_bytes()].concat()).collect();
        let options = CString::new(options.join(&b','.clone())).expect("no NUL");
        mount(image, at, "erofs", MountFlags::RDONLY, Some(options.as_c_str()))
            .map_err(|error| format!("{}: the kernel says {error}", image.display()))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
