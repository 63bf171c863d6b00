//! The front end `fuse-blob`: the kernel's EROFS, mounted on blobs that this process shows as the files of a FUSE.
//!
//! One FUSE for the process, mounted where nobody sees it ([`connection`]): its descriptors are with the keeper, its
//! files are the blobs of all images, each once ([`shown`]), and few threads serve it whatever the number of images.
//! What is missing arrives as a READ, metadata like data. When nobody serves any more, the kernel gives errors.
//!
//! An image that is complete when it is mounted is mounted on its plain files: nobody is asked then.

mod connection;
mod file_system;
mod shown;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use larder_ondemand::{Blob, Engine};
use rustix::mount::{fsconfig_set_flag, fsconfig_set_string};

pub(crate) use self::connection::Connection;
use self::connection::Origin;
use self::file_system::BlobFiles;
use self::shown::{Shown, ShownAs};
use crate::content::{Content, is_sealed};
use crate::erofs::{self, Creator, Options, Superblock, VALUE_BYTES_MAX};
use crate::keeper::Holder;
use crate::mounts::{Names as _, User};
use crate::target::{self, What};
use crate::{Error, FrontEnd, FrontEndKind, MountSpec, Mounted};

/// How long questions about what is not known wait for its mount to be taken up.
const RESUME_GRACE: Duration = Duration::from_secs(60);

/// The front end.
pub struct FuseBlob {
    connection: Connection,
    files: Arc<BlobFiles>,
    origin: Origin,
    holder: Arc<dyn Holder>,
}

impl FuseBlob {
    /// Takes over the FUSE that `holder` has, or makes one, and begins to serve.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] without the privilege or without FUSE, [`Error::Keep`] when the keeper does not take it.
    pub fn open(holder: Arc<dyn Holder>, engine: Arc<Engine>) -> Result<Self, Error> {
        let (connection, origin) =
            match Connection::inherit(&*holder).map_err(kernel("taking over its FUSE"))? {
                Some(connection) => (connection, Origin::Inherited),
                None => {
                    let connection = Connection::new().map_err(kernel("making a FUSE"))?;
                    connection.keep(&*holder)?;
                    (connection, Origin::New)
                }
            };
        let runtime = engine.handle().clone();
        let files = Arc::new(BlobFiles::new(Shown::new(origin == Origin::Inherited), engine));
        if origin == Origin::Inherited {
            connection.ask_for_resend().map_err(kernel("asking for what was not answered"))?;
            let files = Arc::clone(&files);
            runtime.spawn(async move {
                tokio::time::sleep(RESUME_GRACE).await;
                files.shown().finish_resume();
            });
        }
        connection.serve(Arc::clone(&files) as _, &runtime).map_err(kernel("starting a thread"))?;
        Ok(Self { connection, files, origin, holder })
    }

    /// Shows everything that `spec` is made of: the metadata first, then the devices.
    fn show(&self, spec: &MountSpec, user: User) -> Result<Vec<ShownAs>, Error> {
        let metadata = match &spec.metadata_blob {
            Some(blob) => Content::Blob(Arc::clone(blob)),
            None => File::open(&spec.metadata)
                .and_then(Content::of_file)
                .map_err(|source| Error::Metadata { path: spec.metadata.clone(), source })?,
        };
        let devices = spec.devices.iter().map(|blob| Content::Blob(Arc::clone(blob)));
        let shown = self.files.shown();
        let all = std::iter::once(metadata).chain(devices);
        let names = all.map(|content| shown.enter(user, &spec.id, content)).collect::<Result<_, _>>();
        names.inspect_err(|_| shown.leave(user))
    }

    /// Mounts on what is shown. The kernel reads it meanwhile, so that a child waits for it and not this process.
    fn mount_shown(&self, spec: &MountSpec, user: User) -> Result<Superblock, Error> {
        self.files.set_given_up(false);
        let names = self.show(spec, user)?;
        let creator = Creator::ChildIn(self.connection.root());
        let configure = |context: &OwnedFd| configure_shown(context, &names, &spec.source_name);
        erofs::mount(&spec.target, &Options::default(), creator, configure)
            .inspect_err(|_| self.files.shown().leave(user))
    }

    fn mounted(&self, spec: MountSpec, user: User, superblock: Superblock) -> Box<dyn Mounted> {
        self.files.mounts().add(user, superblock);
        let (files, holder) = (Arc::clone(&self.files), Arc::clone(&self.holder));
        Box::new(BlobMount { files, holder, user, id: spec.id, target: spec.target })
    }
}

impl FrontEnd for FuseBlob {
    fn kind(&self) -> FrontEndKind {
        FrontEndKind::FuseBlob
    }

    /// Metadata is asked for like data.
    fn brings_metadata(&self) -> bool {
        true
    }

    fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        target::check_free(&spec.target)?;
        let user = User::new();
        let superblock = match PlainFiles::of(&spec)? {
            Some(files) => files.mount(&spec.target)?,
            None => self.mount_shown(&spec, user)?,
        };
        let name = kept_name(&spec.id);
        let kept = superblock.persist().and_then(|memfd| self.holder.keep(&name, memfd.as_fd()));
        let mounted = self.mounted(spec, user, superblock);
        match kept {
            Ok(()) => Ok(mounted),
            Err(source) => {
                let _ = mounted.unmount(true);
                Err(Error::Keep { name, source })
            }
        }
    }

    fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        if self.origin == Origin::New {
            // The FUSE under it ended with its last descriptor: what is not in the page cache gives EIO for ever.
            let detached = target::detach(&spec.target, What::Erofs)?;
            self.holder.release(&kept_name(&spec.id));
            let target = spec.target;
            return Err(if detached { Error::Poisoned { target } } else { Error::Gone { target } });
        }
        if target::what(&spec.target) != Some(What::Erofs) {
            return Err(Error::Gone { target: spec.target });
        }
        let superblock = Superblock::kept(&*self.holder, &kept_name(&spec.id))?;
        let user = User::new();
        self.show(&spec, user)?;
        Ok(self.mounted(spec, user, superblock))
    }

    fn finish_resume(&self) {
        self.files.shown().finish_resume();
    }

    fn abandon(&self, id: &str) -> Result<(), Error> {
        let name = kept_name(id);
        self.files.mounts().add_abandoned(Superblock::kept(&*self.holder, &name)?);
        self.holder.release(&name);
        Ok(())
    }

    fn give_up(&self) {
        self.files.set_given_up(true);
    }

    /// Without anybody who serves, who still reads from a detached mount would get errors.
    fn is_idle(&self) -> bool {
        self.files.mounts().release_what_is_gone();
        self.files.mounts().is_empty()
    }

    fn hand_over(&self) {
        self.connection.hand_over();
    }
}

/// The files of an image of which nothing is missing any more.
struct PlainFiles<'a> {
    metadata: File,
    devices: Vec<BorrowedFd<'a>>,
}

impl<'a> PlainFiles<'a> {
    /// The files of `spec`; `None` when a byte of it may have to be brought.
    fn of(spec: &'a MountSpec) -> Result<Option<Self>, Error> {
        if !spec.metadata_blob.iter().chain(&spec.devices).all(|blob| is_sealed(blob)) {
            return Ok(None);
        }
        let metadata = File::open(&spec.metadata)
            .map_err(|source| Error::Metadata { path: spec.metadata.clone(), source })?;
        let devices = spec.devices.iter().map(|blob| blob.resources().object().file()).collect();
        Ok(Some(Self { metadata, devices }))
    }

    fn mount(&self, target: &Path) -> Result<Superblock, Error> {
        erofs::mount(target, &Options::default(), Creator::Here, |context| {
            fsconfig_set_string(context, "source", erofs::source_of(self.metadata.as_fd()))?;
            for device in &self.devices {
                fsconfig_set_string(context, "device", erofs::by_descriptor(*device))?;
            }
            Ok(())
        })
    }
}

/// Says to a mount's context what to mount, by names in the FUSE's only directory.
fn configure_shown(context: &OwnedFd, names: &[ShownAs], label: &str) -> io::Result<()> {
    let Some((metadata, devices)) = names.split_first() else { return Ok(()) };
    fsconfig_set_string(context, "source", metadata.labelled(label, VALUE_BYTES_MAX))?;
    for device in devices {
        fsconfig_set_string(context, "device", device.to_string())?;
    }
    // Data then goes past the page cache of the FUSE, so that it is held once, by EROFS.
    if let Err(error) = fsconfig_set_flag(context, "directio") {
        tracing::debug!(%error, "this kernel's EROFS keeps data in the page cache of its files, too");
    }
    Ok(())
}

/// One mount.
struct BlobMount {
    files: Arc<BlobFiles>,
    holder: Arc<dyn Holder>,
    user: User,
    id: String,
    target: PathBuf,
}

impl Mounted for BlobMount {
    fn target(&self) -> &Path {
        &self.target
    }

    fn unmount(&self, lazy: bool) -> Result<(), Error> {
        target::unmount(&self.target, lazy)?;
        self.holder.release(&kept_name(&self.id));
        self.files.mounts().take_away(self.user);
        Ok(())
    }

    fn is_gone(&self) -> bool {
        self.files.mounts().is_gone(self.user)
    }

    /// The open files inside EROFS cannot be exchanged: a next mount goes to the plain files.
    fn on_complete(&self, _: &Arc<Blob>) {}

    fn waiting(&self) -> usize {
        self.files.waiting()
    }
}

fn kept_name(id: &str) -> String {
    format!("fuse-blob/mount/{id}")
}

fn kernel(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Kernel { kind: FrontEndKind::FuseBlob, doing, source }
}
