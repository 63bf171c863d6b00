//! The front end `fanotify`: the kernel's EROFS, mounted on backing files whose holes ask first.
//!
//! One group for the process, held by the keeper. Order, which the types keep (kernel-interfaces A.6): the backing
//! file and its fill descriptor exist, the group is with the keeper, the file is marked ([`blobs::Device`]), EROFS is
//! mounted, and only when its superblock is gone the mark goes. An answer that allows needs a proof
//! ([`question::Present`]). Where the kernel asks for metadata, too ([`metadata`]), its file is watched like the others.

mod blobs;
mod erofs_mount;
mod event;
mod group;
mod journal;
mod linger;
mod metadata;
mod question;
mod recover;
mod retire;
mod serve;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use larder_ondemand::{Blob, Engine};
use rustix::event::{EventfdFlags, eventfd};

use self::blobs::Device;
use self::erofs_mount::Primary;
use self::group::Group;
use self::serve::Server;
pub use crate::erofs::Options;
use crate::erofs::{Kept, Origin, Superblock};
use crate::keeper::{self, Holder};
use crate::mounts::User;
use crate::target::{self, Spot, What};
use crate::{Error, FrontEnd, FrontEndKind, Identity, MountSpec, Mounted};

/// The front end.
pub struct Fanotify {
    server: Arc<Server>,
    origin: Origin,
    holder: Arc<dyn Holder>,
    options: Options,
    cache_dir: PathBuf,
    brings_metadata: OnceLock<bool>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Fanotify {
    /// Takes over the group that `holder` has, or makes one, and begins to serve.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] without the privilege, or on a kernel without pre-content events.
    pub fn open(holder: Arc<dyn Holder>, engine: Arc<Engine>, cache_dir: &Path) -> Result<Self, Error> {
        Self::with_options(holder, engine, cache_dir, Options::default())
    }

    /// The same with other options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_options(
        holder: Arc<dyn Holder>,
        engine: Arc<Engine>,
        cache_dir: &Path,
        options: Options,
    ) -> Result<Self, Error> {
        let (group, origin) = Group::open(&*holder).map_err(kernel("making a group"))?;
        let untaken = holder.names().into_iter().filter(|name| name.starts_with(KEPT)).collect();
        let server = Server::new(Arc::new(group), origin, engine, Arc::clone(&holder), untaken);
        let server = Arc::new(server);
        if origin == Origin::Inherited {
            server.retiring().take_up(&*holder)?;
        }
        let stop =
            eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| kernel("making an eventfd")(error.into()))?;
        let stop = Arc::new(stop);
        let thread = std::thread::Builder::new()
            .name("fanotify".into())
            .spawn({
                let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
                move || server.run(origin, &stop)
            })
            .map_err(kernel("starting a thread"))?;
        let (cache_dir, brings_metadata) = (cache_dir.to_owned(), OnceLock::new());
        Ok(Self { server, origin, holder, options, cache_dir, brings_metadata, stop, thread: Some(thread) })
    }

    /// Watches over everything that `spec` is made of: the metadata, where it is a blob, and the devices.
    fn watch_all(&self, spec: &MountSpec, user: User) -> Result<(Option<Device>, Vec<Device>), Error> {
        let watch = |blob: &Arc<Blob>| {
            self.server.watch(user, blob).map_err(|source| Error::Blob {
                blob: blob.name().to_string(),
                doing: "marking its backing file",
                source,
            })
        };
        let metadata = spec.metadata_blob.as_ref().map(watch).transpose()?;
        Ok((metadata, spec.devices.iter().map(watch).collect::<Result<_, _>>()?))
    }

    /// A mount was detached that was not taken up, and may still be read: the marks of an inherited group stay until it has
    /// gone. A new one has none of its marks.
    fn leave_detached(&self, superblock: Superblock) {
        if self.origin == Origin::Inherited
            && let Err(error) = self.server.retiring().add_and_keep(User::new(), superblock, &*self.holder)
        {
            tracing::warn!(%error, "a next worker will not know that this mount is still read");
        }
    }

    fn kept(&self, id: &str) -> Kept<'_> {
        Kept::new(&*self.holder, kept_name(id))
    }

    fn mounted(&self, id: String, user: User, (spot, superblock): (Spot, Superblock)) -> Box<dyn Mounted> {
        let (server, holder) = (Arc::clone(&self.server), Arc::clone(&self.holder));
        Box::new(ErofsMount { server, holder, user, id, spot, superblock })
    }
}

impl FrontEnd for Fanotify {
    fn kind(&self) -> FrontEndKind {
        FrontEndKind::Fanotify
    }

    fn brings_metadata(&self) -> bool {
        if let Some(known) = self.brings_metadata.get() {
            return *known;
        }
        match metadata::events(&self.cache_dir) {
            Ok(events) => {
                tracing::debug!(?events, "how the kernel asks for metadata");
                *self.brings_metadata.get_or_init(|| events == metadata::Events::Cached)
            }
            // It will say the next time.
            Err(error) => {
                tracing::warn!(%error, "not known whether the kernel asks for metadata: it is brought before a mount");
                false
            }
        }
    }

    fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        if self.server.has_overflowed() {
            return Err(kernel("trusting the group")(io::Error::other("its queue has overflowed")));
        }
        target::check_free(&spec.target)?;
        let metadata = File::open(&spec.metadata)
            .map_err(|source| Error::Metadata { path: spec.metadata.clone(), source })?;
        let user = User::new();
        let (watched, devices) = self.watch_all(&spec, user).inspect_err(|_| self.server.release(user))?;
        let primary = watched.as_ref().map_or(Primary::Complete(metadata.as_fd()), Primary::Watched);
        let kept = self.kept(&spec.id);
        let superblock = erofs_mount::mount(primary, &devices, &spec.target, &self.options, &kept)
            .inspect_err(|_| self.server.release(user))?;
        let spot = Spot::of(&spec.target, What::Erofs);
        Ok(self.mounted(spec.id, user, (spot, superblock)))
    }

    fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        // While nobody held the group the kernel read holes as zeros, and keeps them in its page cache.
        let origin = if self.server.has_overflowed() { Origin::New } else { self.origin };
        let leave = |superblock| self.leave_detached(superblock);
        let taken_up = self.kept(&spec.id).take_up(&spec.target, &spec.identity, origin, leave)?;
        let user = User::new();
        // The kernel still reads from it: the marks of an earlier worker must stay.
        self.watch_all(&spec, user).inspect_err(|_| self.server.forget(user))?;
        self.server.taken_up(&kept_name(&spec.id));
        Ok(self.mounted(spec.id, user, taken_up))
    }

    fn finish_resume(&self) {
        self.server.finish_resume();
    }

    fn resume_goes_on(&self) {
        self.server.grace().begin_again();
    }

    fn let_go(&self, file: BorrowedFd<'_>) {
        match self.server.group().unmark(file) {
            Ok(()) => tracing::debug!("took off the mark of an earlier worker"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "a mark of an earlier worker stays: who writes to its file waits")
            }
        }
    }

    fn kept_ids(&self) -> Vec<String> {
        keeper::ids_below(&*self.holder, KEPT)
    }

    fn abandon(&self, id: &str) -> Result<(), Error> {
        self.kept(id).abandon(|superblock| {
            let kept = self.server.retiring().add_and_keep(User::new(), superblock, &*self.holder);
            kept.map_err(|source| Error::Keep { name: kept_name(id), source })
        })
    }

    fn give_up(&self) {
        self.server.give_up();
        // The group stays until the last superblock is gone, whoever made it.
        for name in self.holder.names().iter().filter(|name| name.starts_with(KEPT)) {
            let superblock = Superblock::kept(&*self.holder, name).unwrap_or_else(|error| {
                tracing::error!(%error, "not known when this mount is gone: taken for one that stays");
                Superblock::default()
            });
            self.server.retiring().add(User::new(), superblock);
        }
    }

    fn is_idle(&self) -> bool {
        self.server.is_idle()
    }

    fn hand_over(&self) {
        self.server.group().hand_over();
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
    }
}

impl Drop for Fanotify {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One EROFS mount.
struct ErofsMount {
    server: Arc<Server>,
    holder: Arc<dyn Holder>,
    user: User,
    id: String,
    spot: Spot,
    superblock: Superblock,
}

impl Mounted for ErofsMount {
    fn target(&self) -> &Path {
        self.spot.target()
    }

    fn identity(&self) -> Identity {
        self.spot.identity(Some(&self.superblock))
    }

    fn unmount(&self, lazy: bool) -> Result<(), Error> {
        // By its device number alone, another one would be taken away for it.
        if !self.identity().is_gone() {
            self.spot.unmount(lazy)?;
        }
        if self.superblock.is_gone() {
            self.server.release(self.user);
        } else {
            // Somebody reads on, in another namespace or from an open file, or nothing is known about it: the marks
            // stay until the last has gone for certain. A next worker has to know that before it forgets the mount.
            let (retiring, superblock) = (self.server.retiring(), self.superblock.clone());
            if let Err(error) = retiring.add_and_keep(self.user, superblock, &*self.holder) {
                tracing::warn!(%error, "a next worker will not know that this mount is still read");
            }
        }
        self.holder.release(&kept_name(&self.id));
        Ok(())
    }

    fn is_gone(&self) -> bool {
        // Also takes the marks off, if nobody has looked since.
        self.superblock.is_gone() && (self.server.is_idle() || !self.server.is_used_by(self.user))
    }

    fn on_complete(&self, blob: &Arc<Blob>) {
        self.server.on_complete(blob);
    }

    fn waiting(&self) -> usize {
        self.server.group().in_hand()
    }
}

/// What the names of mounts begin with that the keeper has something of.
const KEPT: &str = "erofs/";

fn kept_name(id: &str) -> String {
    format!("{KEPT}{id}")
}

fn kernel(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Kernel { kind: FrontEndKind::Fanotify, doing, source }
}
