//! [`Source`]: where the image's files lie on this host, and where they go.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::errors::{Kind, told};

/// Where programs are looked for, best first. `/usr/local` comes last: its programs may need `ld.so.cache`, which
/// lies outside of `/usr`.
const BIN_DIRS: &[&str] = &["usr/bin", "bin", "usr/local/bin", "usr/sbin", "sbin"];

/// Links beside `/usr` that make it a root, where the host has them.
const ROOT_LINKS: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Directories that programs expect; made where the tree has none.
const EMPTY_DIRS: &[&str] = &["dev", "etc", "proc", "root", "run", "sys", "tmp"];

/// Where the image's files lie on this host, and where in the image they go.
#[derive(Clone, Debug)]
pub struct Source {
    /// The directory on this host, without links in it.
    pub directory: PathBuf,
    /// Where it goes: `usr`, or nothing for the root itself.
    pub at: PathBuf,
    /// Links beside it: name in the root, and target.
    pub links: Vec<(&'static str, PathBuf)>,
    /// Empty directories beside it.
    pub empty_dirs: Vec<&'static str>,
}

impl Source {
    /// Takes `directory` for the image's root; without one, this host's `/usr` with the links that make it a root.
    ///
    /// # Errors
    ///
    /// When it is no directory that can be read.
    pub fn choose(directory: Option<&Path>) -> anyhow::Result<Self> {
        let asked = directory.unwrap_or(Path::new("/usr"));
        let place = || format!("{}: cannot be read", asked.display());
        let directory = fs::canonicalize(asked).with_context(place)?;
        fs::read_dir(&directory).with_context(place)?;
        if directory == Path::new("/usr") {
            return Ok(Self::host_usr(directory));
        }
        let missing = |name: &&&str| fs::symlink_metadata(directory.join(name)).is_err();
        let empty_dirs = EMPTY_DIRS.iter().filter(missing).copied().collect();
        Ok(Self { directory, at: PathBuf::new(), links: Vec::new(), empty_dirs })
    }

    fn host_usr(directory: PathBuf) -> Self {
        let link = |name: &&'static str| Some((*name, fs::read_link(Path::new("/").join(name)).ok()?));
        let links = ROOT_LINKS.iter().filter_map(link).collect();
        Self { directory, at: "usr".into(), links, empty_dirs: EMPTY_DIRS.to_vec() }
    }

    /// Where `host`, a path on this host, lies in the image, from its root; `None` when it lies outside.
    pub fn in_image(&self, host: &Path) -> Option<PathBuf> {
        let inside = host.strip_prefix(&self.directory).ok()?;
        Some(Path::new("/").join(&self.at).join(inside))
    }

    /// Where the image's `path`, from its root, lies on this host; `None` when it is not from the source.
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix("/").unwrap_or(path).strip_prefix(&self.at).ok()?;
        Some(self.directory.join(inside))
    }

    /// Finds a program by its name, or by its path in the image; returns its path on this host, links resolved.
    ///
    /// A program whose links lead out of the tree is none.
    pub fn find(&self, name: &OsStr) -> Option<PathBuf> {
        if Path::new(name).components().count() > 1 {
            return self.executable(&self.on_host(Path::new(name))?);
        }
        BIN_DIRS.iter().find_map(|dir| self.executable(&self.on_host(&Path::new(dir).join(name))?))
    }

    fn executable(&self, path: &Path) -> Option<PathBuf> {
        let path = fs::canonicalize(path).ok()?;
        let metadata = fs::metadata(&path).ok()?;
        let is_program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        (is_program && path.starts_with(&self.directory)).then_some(path)
    }

    /// The error when none of `names` is in the tree.
    pub fn no_program(&self, names: &str) -> anyhow::Error {
        told(
            Kind::NotFound,
            format!("{}: has no {names} in {}", self.directory.display(), BIN_DIRS.join(", ")),
            "choose a tree with --source DIR, or a program of the tree with -- CMD",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn program(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("directories can be made");
        fs::write(&path, "#!").expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    }

    #[test]
    fn a_program_is_found_where_its_links_end_but_not_outside() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let root = temp.path();
        program(root, "tree/usr/bin/tool1.2");
        program(root, "outside");
        symlink("tool1.2", root.join("tree/usr/bin/tool")).expect("a link can be made");
        symlink("../../../outside", root.join("tree/usr/bin/escape")).expect("a link can be made");
        fs::write(root.join("tree/usr/bin/data"), "x").expect("a file can be written");
        let source = Source::choose(Some(&root.join("tree"))).expect("it is a directory");
        let found = source.find(OsStr::new("tool")).expect("it is there");
        assert_eq!(source.in_image(&found).as_deref(), Some(Path::new("/usr/bin/tool1.2")));
        assert!(source.find(OsStr::new("/usr/bin/tool")).is_some());
        for name in ["escape", "data", "none", "/bin/tool"] {
            assert_eq!(source.find(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn a_directory_becomes_the_root_and_gets_what_it_lacks() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(temp.path().join("etc")).expect("a directory can be made");
        let source = Source::choose(Some(temp.path())).expect("it is a directory");
        assert_eq!(source.at, Path::new(""));
        assert!(source.links.is_empty());
        assert_eq!(source.empty_dirs, ["dev", "proc", "root", "run", "sys", "tmp"]);
    }

    #[test]
    fn usr_becomes_a_root_with_the_links_of_this_host() {
        let source = Source::choose(None).expect("every host has /usr");
        assert_eq!(source.at, Path::new("usr"));
        for (name, target) in &source.links {
            assert_eq!(fs::read_link(Path::new("/").join(name)).ok().as_ref(), Some(target));
        }
        assert_eq!(source.on_host(Path::new("/usr/bin/x")).as_deref(), Some(Path::new("/usr/bin/x")));
        assert_eq!(source.on_host(Path::new("/etc/passwd")), None);
    }

    #[test]
    fn what_is_no_directory_is_refused_by_name() {
        let error = Source::choose(Some(Path::new("/nonexistent"))).expect_err("it is not there");
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
