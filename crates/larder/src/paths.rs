//! Where cache, state and control socket lie.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::errors::{Kind, tell, told};

/// Longest path of a Unix socket, without the final NUL: `sun_path` in unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// Where everything lies on this host for this user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paths {
    /// The root as given, absolute: what a worker is started with.
    root: Option<PathBuf>,
    config: PathBuf,
    data: PathBuf,
    run: PathBuf,
}

impl Paths {
    /// Chooses the directories: under `root` when given, else by who is asking.
    ///
    /// # Errors
    ///
    /// When a path cannot be made absolute, or the socket's path is longer than the kernel allows.
    pub fn choose(root: Option<&Path>) -> anyhow::Result<Self> {
        let uid = rustix::process::getuid();
        let paths = match root {
            Some(root) => Self::under(absolute(root)?),
            None if uid.is_root() => {
                let (config, data) = ("/etc/larder".into(), "/var/lib/larder".into());
                Self { root: None, config, data, run: "/run/larder".into() }
            }
            None => {
                let config = user_dir("XDG_CONFIG_HOME", ".config")?;
                let data = user_dir("XDG_DATA_HOME", ".local/share")?;
                Self { root: None, config, data, run: user_run(uid.as_raw()) }
            }
        };
        paths.check_socket_length()?;
        Ok(paths)
    }

    fn under(root: PathBuf) -> Self {
        Self { config: root.clone(), data: root.clone(), run: root.join("run"), root: Some(root) }
    }

    fn check_socket_length(&self) -> anyhow::Result<()> {
        let socket = self.socket();
        let length = socket.as_os_str().as_bytes().len();
        if length > SOCKET_PATH_MAX {
            return Err(told(
                Kind::BadRequest,
                format!(
                    "{}: the control socket's path has {length} bytes; the kernel allows {SOCKET_PATH_MAX}",
                    socket.display()
                ),
                "choose a shorter --root",
            ));
        }
        Ok(())
    }

    /// The root as given, absolute.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The cache: backing files and presence maps.
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }

    /// What a worker needs to start again: mounts, manifests, indexes.
    pub fn state(&self) -> PathBuf {
        self.data.join("state")
    }

    /// One file a mount.
    pub fn mounts(&self) -> PathBuf {
        self.state().join("mounts")
    }

    /// Manifests and chunk indexes by digest.
    pub fn images(&self) -> PathBuf {
        self.state().join("images")
    }

    /// The configuration file: beside everything else below a root, else where the system and the user keep such.
    pub fn config(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// What the last worker that served was started with.
    pub fn served_with(&self) -> PathBuf {
        self.state().join("served-with.json")
    }

    /// Where the detached daemon writes its log.
    pub fn log(&self) -> PathBuf {
        self.state().join("daemon.log")
    }

    /// Held while a client looks for the daemon and starts one.
    pub fn start_lock(&self) -> PathBuf {
        self.state().join("start.lock")
    }

    /// Where a worker that cannot start says why.
    pub fn start_error(&self) -> PathBuf {
        self.state().join("start-error.json")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("larder.sock")
    }

    /// Creates what is missing; directories of ours are for their owner alone.
    ///
    /// # Errors
    ///
    /// When a directory cannot be made, or belongs to another user.
    pub fn create(&self) -> anyhow::Result<()> {
        for dir in
            [self.data.clone(), self.cache(), self.state(), self.mounts(), self.images(), self.run.clone()]
        {
            create_private(&dir)?;
        }
        Ok(())
    }
}

fn create_private(dir: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let message = format!("{}: cannot be created", dir.display());
            let advice = "choose another place with --root DIR";
            return Err(anyhow::Error::new(error).context(tell(Kind::Failed, message, advice)));
        }
    }
    let found =
        fs::symlink_metadata(dir).with_context(|| format!("{}: cannot be looked at", dir.display()))?;
    let uid = rustix::process::getuid().as_raw();
    if found.is_dir() && (found.uid() == uid || uid == 0) {
        return Ok(());
    }
    // A link to a directory of the user's own choosing is fine; one in a world-writable place may be a trap.
    let target = fs::metadata(dir).with_context(|| format!("{}: cannot be looked at", dir.display()))?;
    if target.is_dir() && target.uid() == uid && found.uid() == uid {
        return Ok(());
    }
    Err(told(
        Kind::Conflict,
        format!("{}: is not a directory of user {uid}", dir.display()),
        "choose another place with --root DIR",
    ))
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{}: cannot be made absolute", path.display()))
}

/// A directory of the user's by the XDG specification: what `variable` says, else `default` below the home.
fn user_dir(variable: &str, default: &str) -> anyhow::Result<PathBuf> {
    if let Some(dir) = absolute_variable(variable) {
        return Ok(dir.join("larder"));
    }
    match absolute_variable("HOME") {
        Some(home) => Ok(home.join(default).join("larder")),
        None => Err(told(
            Kind::BadRequest,
            format!("neither {variable} nor HOME is set"),
            "name a place with --root DIR",
        )),
    }
}

fn user_run(uid: u32) -> PathBuf {
    match absolute_variable("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("larder"),
        None => PathBuf::from(format!("/tmp/larder-{uid}")),
    }
}

/// The variable's value when it is an absolute path: the XDG specification has others ignored.
fn absolute_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value: &OsString| Path::new(value).is_absolute()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_holds_everything() {
        let paths = Paths::choose(Some(Path::new("/srv/x"))).expect("a short path is fine");
        assert_eq!(paths.cache(), Path::new("/srv/x/cache"));
        assert_eq!(paths.mounts(), Path::new("/srv/x/state/mounts"));
        assert_eq!(paths.socket(), Path::new("/srv/x/run/larder.sock"));
    }

    #[test]
    fn a_root_too_deep_for_a_socket_is_refused_by_name() {
        let deep = format!("/{}", "d".repeat(120));
        let error = Paths::choose(Some(Path::new(&deep))).expect_err("the kernel allows 107 bytes");
        assert!(error.to_string().contains("the kernel allows 107"), "{error}");
    }

    #[test]
    fn directories_are_private_and_may_exist() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let paths = Paths::choose(Some(&temp.path().join("root"))).expect("a short path is fine");
        paths.create().expect("they can be made");
        paths.create().expect("they may exist");
        let mode = fs::metadata(paths.state()).expect("it exists").mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        fs::write(temp.path().join("root"), "x").expect("a file can be written");
        let paths = Paths::choose(Some(&temp.path().join("root"))).expect("a short path is fine");
        paths.create().expect_err("a file is not a directory");
    }
}
