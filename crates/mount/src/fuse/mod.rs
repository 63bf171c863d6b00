//! The front end `fuse`: the whole file system in user space.
//!
//! One loop serves whatever is a [`FileSystem`]: an image through imagefs ([`Fuse`] as a front end), or another one
//! ([`Fuse::mount_file_system`]).
//!
//! The loop is our own because it must take over a /dev/fuse that its predecessor has initialised. It answers from
//! metadata and from present bytes at once; a hole goes to the engine's runtime. Node ids of an image are computed from
//! it, so nothing is lost with a worker.

mod abi;
mod channel;
pub(crate) mod device;
mod dir;
mod file_system;
mod image;
mod in_hand;
mod node;
mod openings;
mod passthrough;
mod pipe;
mod pool;
mod readahead;
mod refusing;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_erofs::Image;
use larder_imagefs::ImageFs;
use larder_ondemand::{Blob, Engine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use self::channel::HandedOver;
use self::device::Style;
use self::pool::Served;
use self::refusing::Refusing;
use crate::keeper::{self, Holder};
use crate::target::{self, Spot, What};
use crate::{Error, FrontEnd, FrontEndKind, Identity, MountSpec, Mounted};

pub(crate) use channel::Channel;
pub(crate) use device::fusermount;
pub use dir::{Listing, Name};
pub use file_system::{
    Attributes, Backing, BackingId, Data, Entry, Errno, FileSystem, Kernel, ListAt, NodeId, Opened,
    OpenedDir, Outcome, ReadAt, Size, Validity,
};
pub use image::{ImageContents, ImageServer};
pub(crate) use pool::Pool;
pub(crate) use serve::Server;

/// How long a worker that makes way waits for what it has to answer itself; everybody else waits meanwhile.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The front end.
pub struct Fuse {
    holder: Arc<dyn Holder>,
    engine: Arc<Engine>,
    pool: Pool,
    /// Names of the descriptors that this process reads requests from.
    served: Mutex<BTreeSet<String>>,
    /// By the same names: who answers with errors until the mount is taken up.
    refused: Mutex<BTreeMap<String, Served>>,
    handed_over: Arc<HandedOver>,
}

impl Fuse {
    /// Gets ready to mount; descriptors of mounts go to `holder`.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] when no descriptor is left.
    pub fn open(holder: Arc<dyn Holder>, engine: Arc<Engine>) -> Result<Self, Error> {
        let pool = Pool::new().map_err(kernel("making an epoll"))?;
        let (served, refused, handed_over) = Default::default();
        Ok(Self { holder, engine, pool, served, refused, handed_over })
    }

    fn image_fs(&self, spec: &MountSpec) -> Result<Arc<dyn FileSystem>, Error> {
        let metadata = |source| Error::Metadata { path: spec.metadata.clone(), source };
        let file = File::open(&spec.metadata).map_err(metadata)?;
        let image = Image::open(file).map_err(|error| metadata(std::io::Error::other(error)))?;
        let fs = ImageFs::new(image, spec.devices.clone(), Arc::clone(&self.engine));
        let fs = fs.map_err(|error| metadata(std::io::Error::other(error)))?;
        let fs = Arc::new(fs);
        // Without root nothing can be registered, and opening a file would cost a question for nothing.
        let passes = spec.whole_files && rustix::process::geteuid().is_root();
        Ok(Arc::new(if passes { ImageServer::passing_through(fs) } else { ImageServer::new(fs) }))
    }

    fn channel(&self, fd: OwnedFd) -> Channel {
        Channel::handed_over_with(fd, Arc::clone(&self.handed_over))
    }

    fn serve(
        &self,
        id: String,
        spot: Spot,
        fs: Arc<dyn FileSystem>,
        channel: Channel,
    ) -> Result<Box<dyn Mounted>, Error> {
        let served = self.serve_channel(kept_name(&id), Arc::clone(&fs), channel)?;
        let holder = Arc::clone(&self.holder);
        Ok(Box::new(FuseMount { holder, id, spot, fs, served }))
    }

    fn serve_channel(
        &self,
        name: String,
        fs: Arc<dyn FileSystem>,
        channel: Channel,
    ) -> Result<Served, Error> {
        let server = Server::new(fs, channel, self.engine.handle().clone());
        let served = self.pool.serve(server).map_err(kernel("serving another mount"))?;
        self.served.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Ok(served)
    }

    /// Answers every question of the mount whose descriptor is kept as `name` with an error, until it is resumed.
    fn refuse_kept(&self, name: &str) -> Result<(), Error> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.contains_key(name) {
            return Ok(());
        }
        let kept = self.holder.take(name).map_err(|source| Error::Take { name: name.to_owned(), source })?;
        let Some(fd) = kept else { return Ok(()) };
        if !is_connected(&fd) {
            // Nobody waits: all get errors already. The next worker sees that it was aborted, and makes another.
            return Ok(());
        }
        let channel = self.channel(fd);
        if !goes_on(&channel, name) {
            // With the last descriptor it ends, and whoever waits gets ENOTCONN.
            self.holder.release(name);
            return Ok(());
        }
        refused.insert(name.to_owned(), self.serve_channel(name.to_owned(), Arc::new(Refusing), channel)?);
        Ok(())
    }

    /// Mounts any file system at `place`. On an error nothing is left mounted or kept.
    ///
    /// # Errors
    ///
    /// What kept it from being mounted.
    pub fn mount_file_system(
        &self,
        place: Place,
        fs: Arc<dyn FileSystem>,
    ) -> Result<Box<dyn Mounted>, Error> {
        place.check()?;
        target::check_free(&place.target)?;
        let fd = device::mount(&place.target, Style::daemon(&place.source_name))?;
        let (name, target) = (kept_name(&place.id), place.target.clone());
        let served = self
            .holder
            .keep(&name, fd.as_fd())
            .map_err(|source| Error::Keep { name: name.clone(), source })
            .and_then(|()| {
                let spot = Spot::of(&place.target, What::Fuse);
                self.serve(place.id, spot, fs, self.channel(fd))
            });
        served.inspect_err(|_| {
            self.holder.release(&name);
            device::undo(&target);
        })
    }

    /// Takes up a mount of an earlier worker; `fs` must understand the node ids that it handed out.
    ///
    /// # Errors
    ///
    /// Those of [`FrontEnd::resume`].
    pub fn resume_file_system(
        &self,
        place: Place,
        open: impl FnOnce() -> Result<Arc<dyn FileSystem>, Error>,
    ) -> Result<Box<dyn Mounted>, Error> {
        place.check()?;
        let name = kept_name(&place.id);
        let kept = self.holder.take(&name);
        let kept = kept.map_err(|source| Error::Take { name: name.clone(), source })?;
        let lives = kept.as_ref().is_some_and(is_connected);
        let Some(spot) = Spot::find(&place.target, What::Fuse, &place.identity, lives)? else {
            self.holder.release(&name);
            return Err(Error::Gone { target: place.target });
        };
        let Some(fd) = kept else {
            // The connection died with its last descriptor: whoever reads gets ENOTCONN, never zeros.
            device::unmount(&spot, true)?;
            return Err(Error::Gone { target: place.target });
        };
        let fs = open()?;
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        if let Some(refused) = refused {
            refused.end();
        }
        let channel = self.channel(fd);
        if lives && goes_on(&channel, &name) {
            return self.serve(place.id, spot, fs, channel);
        }
        let target = place.target.display();
        tracing::warn!(%target, lives, "an earlier worker's FUSE was aborted or has not begun to work: it gets another");
        device::unmount(&spot, true)?;
        // With the last descriptor it ends, and whoever waits gets ENOTCONN.
        self.holder.release(&name);
        drop(channel);
        self.mount_file_system(place, fs)
    }
}

/// A mount that a program serves itself, for as long as it runs: nobody takes it over.
#[derive(Debug)]
pub struct OwnMount {
    channel: Channel,
    target: PathBuf,
}

impl OwnMount {
    /// Mounts at `target`, an existing directory. The mount table shows `source`, and `subtype` behind `fuse.`.
    ///
    /// `allow_other` lets other users in; mounts of root do so anyhow. Permissions are checked by the kernel.
    ///
    /// # Errors
    ///
    /// What kept it from being mounted.
    pub fn new(target: &Path, source: &str, subtype: &str, allow_other: bool) -> Result<Self, Error> {
        target::check_free(target)?;
        let fd = device::mount(target, Style { source, subtype, allow_other })?;
        Ok(Self { channel: Channel::new(fd), target: target.to_owned() })
    }

    /// Lets the kernel read further ahead, in bytes; see [`Place::read_ahead`].
    pub fn read_ahead(&self, bytes: u64) {
        readahead::set(&self.target, bytes);
    }

    /// Serves `fs` with so many threads until it is unmounted. Answers that take time go to `runtime`. Blocks.
    ///
    /// # Errors
    ///
    /// When no thread can be started; what is mounted is then unmounted.
    pub fn serve(
        self,
        fs: &Arc<dyn FileSystem>,
        threads: NonZero<usize>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(), Error> {
        let serve = || {
            let pool = Pool::with_threads(threads.get())?;
            pool.serve(Server::new(Arc::clone(fs), self.channel.clone(), runtime.clone()))?;
            Ok(pool)
        };
        let pool = serve().map_err(|source| {
            device::undo(&self.target);
            kernel("starting a thread")(source)
        })?;
        pool.join();
        Ok(())
    }
}

/// Where a file system is mounted, and what it is called.
#[derive(Clone, Debug)]
pub struct Place {
    /// Names the mount for as long as it lives, across restarts of the worker: 1 to 64 bytes of `[A-Za-z0-9._-]`.
    pub id: String,
    /// The mount point: an existing directory.
    pub target: PathBuf,
    /// What the mount table shows.
    pub source_name: String,
    /// What [`Mounted::identity`] said of it, to take it up; empty where that is not known.
    pub identity: Identity,
}

impl Place {
    fn of(spec: &MountSpec) -> Self {
        let spec = spec.clone();
        Self { id: spec.id, target: spec.target, source_name: spec.source_name, identity: spec.identity }
    }

    fn check(&self) -> Result<(), Error> {
        crate::front_end::check_id(&self.id)
    }

    /// Lets the kernel read further ahead in this mount, in bytes; does nothing where this user may not.
    ///
    /// To be called when it is mounted: the kernel begins with 128 KiB, whatever the file system says.
    pub fn read_ahead(&self, bytes: u64) {
        readahead::set(&self.target, bytes);
    }
}

impl FrontEnd for Fuse {
    fn kind(&self) -> FrontEndKind {
        FrontEndKind::Fuse
    }

    fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        target::check_free(&spec.target)?;
        let fs = self.image_fs(&spec)?;
        self.mount_file_system(Place::of(&spec), fs)
    }

    fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        self.resume_file_system(Place::of(&spec), || self.image_fs(&spec))
    }

    fn refuse(&self, id: &str) -> Result<(), Error> {
        self.refuse_kept(&kept_name(id))
    }

    fn kept_ids(&self) -> Vec<String> {
        keeper::ids_below(&*self.holder, KEPT)
    }

    /// The connection lives as long as somebody answers, and gives errors after that.
    fn abandon(&self, id: &str) -> Result<(), Error> {
        let name = kept_name(id);
        // It ends with the connection.
        drop(self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(&name));
        self.holder.release(&name);
        Ok(())
    }

    /// Without anybody who serves, who still reads from a detached mount would get errors.
    fn is_idle(&self) -> bool {
        self.pool.is_idle()
    }

    /// Where the kernel does not send the next worker again what this one has received, that is answered here.
    fn hand_over(&self) {
        if can_resend() {
            self.handed_over.set();
        } else if !self.handed_over.drain(DRAIN_MAX) {
            tracing::warn!("not all requests could be answered in time: the others got errors");
        }
    }

    /// Mounts that this process has taken up are served on.
    fn give_up(&self) {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let names = self.holder.names();
        for name in names.iter().filter(|name| name.starts_with(KEPT) && !served.contains(*name)) {
            if let Err(error) = self.refuse_kept(name) {
                tracing::error!(%error, "who reads from this mount waits");
            }
        }
    }
}

/// Whether the kernel knows `FUSE_NOTIFY_RESEND`, by its version: it is asked for it only when it is too late.
fn can_resend() -> bool {
    let name = rustix::system::uname();
    let mut numbers =
        name.release().to_str().unwrap_or_default().split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6_u32, 9_u32)
}

/// Whether the connection of a /dev/fuse lives, and its superblock with it. In doubt it does.
fn is_connected(device: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let asked = retry_on_intr(|| poll(&mut fds, Some(&at_once)));
    asked.is_err() || !fds[0].revents().contains(PollFlags::ERR)
}

/// Asks for what an earlier worker has not answered; `false` when nothing ever comes: that worker has read the kernel's first
/// request, which Linux 7.3 does not send again. Of a connection that was aborted not every kernel says so.
fn goes_on(channel: &Channel, name: &str) -> bool {
    match channel.ask_for_resend() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && can_resend() => false,
        Err(error) => {
            // Before Linux 6.9 the requests that the dead worker had read are lost; the others are still queued.
            tracing::warn!(name, %error, "this kernel does not send requests again");
            true
        }
        Ok(()) => true,
    }
}

/// One FUSE mount.
struct FuseMount {
    holder: Arc<dyn Holder>,
    id: String,
    spot: Spot,
    fs: Arc<dyn FileSystem>,
    served: Served,
}

impl Mounted for FuseMount {
    fn target(&self) -> &Path {
        self.spot.target()
    }

    fn identity(&self) -> Identity {
        self.spot.identity(None)
    }

    fn unmount(&self, lazy: bool) -> Result<(), Error> {
        // A connection that was aborted is over, and still mounted.
        if !self.identity().is_gone() {
            device::unmount(&self.spot, lazy)?;
        }
        // The loop ends by itself, with ENODEV, when the last user in any mount namespace is gone. Until then the connection
        // stays with the keeper: the next worker gives its readers an error and knows that there are some.
        self.is_gone();
        Ok(())
    }

    fn is_gone(&self) -> bool {
        let is_over = self.served.is_over();
        if is_over {
            self.holder.release(&kept_name(&self.id));
        }
        is_over
    }

    fn on_complete(&self, _: &Arc<Blob>) {
        self.fs.refresh();
    }
}

fn kernel(doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Kernel { kind: FrontEndKind::Fuse, doing, source }
}

/// What the names of the descriptors of mounts begin with.
const KEPT: &str = "fuse/";

fn kept_name(id: &str) -> String {
    format!("{KEPT}{id}")
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};

    use super::*;

    /// As `umount -f` leaves a mount that is in use.
    #[test]
    fn a_mount_whose_connection_was_aborted_is_taken_away() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: aborting a connection needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let device = match device::mount(dir.path(), Style::daemon("image")) {
            Ok(device) => device,
            Err(error) => return println!("skipped: FUSE cannot be mounted here: {error}"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let server = Server::new(Arc::new(Refusing), Channel::new(device), runtime.handle().clone());
        let pool = Pool::new().unwrap();
        let served = pool.serve(server).unwrap();
        let (holder, spot) = (Arc::new(keeper::NoKeeper), Spot::of(dir.path(), What::Fuse));
        let mount = FuseMount { holder, id: "m1".to_owned(), spot, fs: Arc::new(Refusing), served };
        let user = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let forced = rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::FORCE);
        let begun = std::time::Instant::now();
        while !mount.served.is_over() && begun.elapsed().as_secs() < 60 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (is_over, unmounted) = (mount.served.is_over(), mount.unmount(true));
        let points = crate::mount_points().unwrap();
        let is_left = points.iter().any(|point| point.path == dir.path());
        if is_left {
            device::undo(dir.path());
        }
        drop(user);
        assert_eq!((forced, is_over), (Err(rustix::io::Errno::BUSY), true));
        unmounted.expect("it is free to be detached");
        assert!(!is_left);
    }

    #[test]
    fn a_connection_lives_until_its_mount_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let device = match device::mount(dir.path(), Style::daemon("image")) {
            Ok(device) => device,
            Err(error) => return println!("skipped: FUSE cannot be mounted here: {error}"),
        };
        let spot = Spot::of(dir.path(), What::Fuse);
        let lived = is_connected(&device);
        device::unmount(&spot, true).unwrap();
        assert!(lived && !is_connected(&device));
        assert!(spot.identity(None).device.is_some());
    }
}
