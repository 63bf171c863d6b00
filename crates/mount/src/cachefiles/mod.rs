//! The front end `cachefiles`: the kernel's EROFS over the kernel's own fscache, whose daemon this is.
//!
//! Linux 5.19 to 7.1, where it was built in; with domains, which are used here, from 6.1. The kernel keeps the objects
//! and the requests, and asks through /dev/cachefiles. The keeper holds that device: when a worker dies, the requests
//! that it had in hand are sent again to the next one, which opens the objects anew.
//!
//! What fills an object is a copy of what Larder's cache vouches for, because the kernel's extents vouch for nothing
//! ([`root`]). So bytes on this front end lie on the disk twice; the kernel's copy goes first when space is short.

mod command;
mod cull;
mod device;
mod fill;
mod message;
mod names;
mod objects;
mod root;
mod serve;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use larder_ondemand::Engine;
use rustix::event::{EventfdFlags, eventfd};
use rustix::mount::fsconfig_set_string;

pub(crate) use self::device::Device;
use self::names::MountNames;
pub use self::root::discard;
use self::serve::Server;
use crate::content::Content;
use crate::erofs::{self, Creator, Kept, Options, Origin, Superblock, VALUE_BYTES_MAX};
use crate::keeper::{self, Holder};
use crate::mounts::{Answers as _, NamedMount, Names as _, User};
use crate::target::{self, Spot, What};
use crate::{Error, FrontEnd, FrontEndKind, MountSpec, Mounted};

/// The front end.
pub struct CachefilesDaemon {
    server: Arc<Server>,
    origin: Origin,
    holder: Arc<dyn Holder>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl CachefilesDaemon {
    /// Takes over the device that `holder` has, or opens it and binds a directory below `cache_dir`, and begins to
    /// serve.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] without the privilege, without the device, or when another daemon has it.
    pub fn open(holder: Arc<dyn Holder>, engine: Arc<Engine>, cache_dir: &Path) -> Result<Self, Error> {
        let (device, origin, root) =
            match Device::inherit(&*holder).map_err(kernel("taking over its device"))? {
                Some(device) => (device, Origin::Inherited, root::current(cache_dir)),
                None => {
                    let device = Device::open().map_err(kernel("opening /dev/cachefiles"))?;
                    let root = root::fresh(cache_dir).map_err(kernel("making the kernel's directory"))?;
                    device.bind(&root).map_err(kernel("binding its directory"))?;
                    device.keep(&*holder).map_err(|source| keep("cachefiles/device".to_owned(), source))?;
                    (device, Origin::New, Ok(root))
                }
            };
        let root = root.map_err(kernel("finding the kernel's directory"))?;
        if origin == Origin::Inherited {
            device.tell(command::Command::Restore).map_err(kernel("asking for what was not answered"))?;
        }
        let server = Arc::new(Server::new(device, origin, engine));
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| kernel("an eventfd")(error.into()))?;
        let stop = Arc::new(stop);
        let thread = std::thread::Builder::new().name("cachefiles".into()).spawn({
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            move || server.run(&stop, &root)
        });
        let thread = thread.map_err(kernel("starting a thread"))?;
        Ok(Self { server, origin, holder, stop, thread: Some(thread) })
    }

    /// Enters the names of `spec`: from now on the kernel may ask for its objects.
    fn enter(&self, spec: &MountSpec, names: &MountNames) -> Result<User, Error> {
        let metadata = match &spec.metadata_blob {
            Some(blob) => Content::Blob(Arc::clone(blob)),
            None => File::open(&spec.metadata)
                .and_then(Content::of_file)
                .map_err(|source| Error::Metadata { path: spec.metadata.clone(), source })?,
        };
        let user = User::new();
        self.server.mounts().names().enter(user, names, metadata, spec)?;
        self.server.take_heart();
        self.server.unpark();
        Ok(user)
    }

    fn mounted(&self, id: &str, user: User, (spot, superblock): (Spot, Superblock)) -> Box<dyn Mounted> {
        self.server.mounts().add(user, superblock.clone());
        let (answers, holder) = (Arc::clone(&self.server), Arc::clone(&self.holder));
        Box::new(NamedMount { answers, holder, kept_name: kept_name(id), user, spot, superblock })
    }

    fn kept(&self, id: &str) -> Kept<'_> {
        Kept::new(&*self.holder, kept_name(id))
    }

    fn wake(&self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
    }
}

impl FrontEnd for CachefilesDaemon {
    fn kind(&self) -> FrontEndKind {
        FrontEndKind::Cachefiles
    }

    /// The kernel asks for metadata as for data, a page at a time.
    fn brings_metadata(&self) -> bool {
        true
    }

    fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        target::check_free(&spec.target)?;
        let names = MountNames::of(&spec);
        let user = self.enter(&spec, &names)?;
        let leave = || self.server.mounts().names().leave(user);
        let (kept, configure) = (self.kept(&spec.id), |context: &_| configure(context, &names, &spec));
        let superblock = erofs::mount(&spec.target, &Options::default(), Creator::Here, &kept, configure)
            .inspect_err(|_| leave())?;
        Ok(self.mounted(&spec.id, user, (Spot::of(&spec.target, What::Erofs), superblock)))
    }

    fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        // On a new device: the kernel's cache is dead, and what is mounted on it gives EIO for ever.
        let taken_up =
            self.kept(&spec.id).take_up(&spec.target, &spec.identity, self.origin, |superblock| {
                // On a new one its readers get errors, whoever waits for them.
                if self.origin == Origin::Inherited {
                    self.server.mounts().add_leaving(superblock);
                }
            })?;
        let names = MountNames::of(&spec);
        let user = self.enter(&spec, &names)?;
        Ok(self.mounted(&spec.id, user, taken_up))
    }

    fn finish_resume(&self) {
        self.server.finish_resume();
    }

    fn resume_goes_on(&self) {
        self.server.grace().begin_again();
    }

    fn kept_ids(&self) -> Vec<String> {
        keeper::ids_below(&*self.holder, KEPT)
    }

    fn abandon(&self, id: &str) -> Result<(), Error> {
        self.kept(id).abandon(|superblock| {
            self.server.mounts().add_leaving(superblock);
            Ok(())
        })
    }

    fn give_up(&self) {
        self.server.give_up();
    }

    fn is_idle(&self) -> bool {
        self.server.is_idle()
    }

    fn hand_over(&self) {
        self.server.hand_over();
        self.wake();
    }
}

impl Drop for CachefilesDaemon {
    fn drop(&mut self) {
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says to a mount's context what to mount, by names that the kernel gives back in its OPENs.
fn configure(context: &OwnedFd, names: &MountNames, spec: &MountSpec) -> io::Result<()> {
    fsconfig_set_string(context, "fsid", names.fsid.as_str())?;
    fsconfig_set_string(context, "domain_id", names.domain.as_str())?;
    for device in &names.devices {
        fsconfig_set_string(context, "device", device.as_str())?;
    }
    if spec.source_name.len() <= VALUE_BYTES_MAX {
        // Only for the mount table.
        fsconfig_set_string(context, "source", spec.source_name.as_str())?;
    }
    Ok(())
}

/// What the names of mounts begin with that the keeper has something of.
const KEPT: &str = "cachefiles/mount/";

fn kept_name(id: &str) -> String {
    format!("{KEPT}{id}")
}

fn keep(name: String, source: io::Error) -> Error {
    Error::Keep { name, source }
}

fn kernel(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Kernel { kind: FrontEndKind::Cachefiles, doing, source }
}
